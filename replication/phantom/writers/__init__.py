"""Phantom data sets on disk, in the very formats of the real ones.

Besides the published files every folder holds ``truth.parquet`` (each finding of each image with side, zone,
severity, boxes and exact mask) and ``phantom.json`` (version, seed and sizes, written last).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replication.errors import ConfigError, DataError, nearest
from replication.files import locked, read_json, storage_errors_are_reported
from replication.phantom.version import phantom_version
from replication.phantom.writers import covidx_cxr4, mimic_cxr, nih_cxr14, rsna_pneumonia, siim_acr
from replication.phantom.writers.films import Film, Order

WRITERS: dict[str, Callable[[Order], list[Film]]] = {
    "mimic-cxr": mimic_cxr.write,
    "nih-cxr14": nih_cxr14.write,
    "rsna-pneumonia": rsna_pneumonia.write,
    "siim-acr": siim_acr.write,
    "covidx-cxr4": covidx_cxr4.write,
}
"""A writer for every data set that has a phantom."""

SMALLEST = 32
"""Smallest image side that a chest can be drawn in."""


def write_phantom(
    dataset: str,
    out: Path,
    *,
    n_patients: int,
    size: int,
    seed: int,
    workers: int = 2,
    progress: bool = True,
) -> None:
    """Write the phantom of a data set into a new folder; one that holds this very phantom is left as it is.

    The same arguments give the same bytes, whatever ``workers`` is. The folder appears, complete, at the
    end; until then it is called ``<out>.partial``.

    Args:
        dataset: a key of ``WRITERS``.
        n_patients: how many patients; a patient has one to four images, where the format allows several.
        size: pixels a side of the images. Boxes and run-length masks keep the 1024-pixel frame of the
            published annotations, as they would beside images that somebody made smaller.
        seed: of the whole phantom; every data set derives its own.
        workers: processes that render and encode.

    Raises:
        ConfigError: unknown data set, or a number out of range.
        DataError: the folder holds something else or cannot be written, the disk is full, or another process
            writes it.
    """
    _check(dataset, n_patients, size)
    partial = out.with_name(f"{out.name}.partial")
    order = Order(dataset, partial, n_patients, size, seed, workers, progress)
    with locked(out, "generating this phantom"), storage_errors_are_reported(out):
        if not _is_there(order, out):
            _write(order, out)


def _facts(order: Order) -> dict[str, Any]:
    """What a phantom follows from."""
    return {
        "phantom_version": phantom_version,
        "dataset": order.dataset,
        "seed": order.seed,
        "patients": order.n_patients,
        "image_size": order.size,
    }


def _write(order: Order, out: Path) -> None:
    shutil.rmtree(order.out, ignore_errors=True)
    order.out.mkdir(parents=True)
    try:
        films = WRITERS[order.dataset](order)
        counts = {"studies": len({film.scene.study for film in films}), "images": len(films)}
        summary = {**_facts(order), **counts}
        (order.out / "phantom.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        order.out.replace(out)
    finally:
        shutil.rmtree(order.out, ignore_errors=True)


def _check(dataset: str, n_patients: int, size: int) -> None:
    if dataset not in WRITERS:
        raise ConfigError("No such phantom data set.", found=dataset, remedy=nearest(dataset, WRITERS))
    if n_patients < 1:
        raise ConfigError("A phantom needs patients.", found=n_patients, allowed="1 or more")
    if size < SMALLEST:
        raise ConfigError("The images are too small.", found=f"{size} px", allowed=f"{SMALLEST} px or more")


def _is_there(order: Order, out: Path) -> bool:
    """Whether the folder holds this very phantom.

    Raises:
        DataError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record, wanted = out / "phantom.json", _facts(order)
    found = read_json(record) if record.is_file() else {}
    if {name: found.get(name) for name in wanted} == wanted:
        return True
    raise DataError(
        "The folder of the phantom exists already.",
        where=out,
        found={name: found[name] for name in wanted if name in found} or "no phantom",
        allowed=f"a folder that does not exist, an empty one, or {wanted}",
        remedy="remove it, or write somewhere else",
    )
