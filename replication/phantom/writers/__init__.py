"""Phantom data sets on disk, in the very formats of the real ones.

Besides the published files every folder holds ``truth.parquet`` (each finding of each image with side, zone,
severity, boxes and exact mask) and ``phantom.json`` (version, seed and sizes, written last).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from replication.errors import ConfigError, DataError, nearest
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
    """Write the phantom of a data set into a folder that does not exist yet.

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
        DataError: the folder exists and is not empty.
    """
    _check(dataset, out, n_patients, size)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    order = Order(dataset, partial, n_patients, size, seed, workers, progress)
    try:
        films = WRITERS[dataset](order)
        summary = {
            "phantom_version": phantom_version,
            "dataset": dataset,
            "seed": seed,
            "patients": n_patients,
            "studies": len({film.scene.study for film in films}),
            "images": len(films),
            "image_size": size,
        }
        (partial / "phantom.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(dataset: str, out: Path, n_patients: int, size: int) -> None:
    if dataset not in WRITERS:
        raise ConfigError("No such phantom data set.", found=dataset, remedy=nearest(dataset, WRITERS))
    if n_patients < 1:
        raise ConfigError("A phantom needs patients.", found=n_patients, allowed="1 or more")
    if size < SMALLEST:
        raise ConfigError("The images are too small.", found=f"{size} px", allowed=f"{SMALLEST} px or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            "The folder of the phantom exists already.",
            where=out,
            allowed="a folder that does not exist, or an empty one",
            remedy="remove it, or write somewhere else",
        )
