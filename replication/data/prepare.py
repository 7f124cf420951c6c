"""Raw files -> manifest, image cache, masks, triplets and reports: the one step before all others."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from replication.data.cache import JOURNAL, Entry, ImageCache
from replication.data.decoding import WorkerLostError, decode_all, jobs_of
from replication.data.manifest import (
    LABEL,
    NUMBER_COLUMNS,
    TEXT_COLUMNS,
    label_names,
    table_digest,
    validate_manifest,
)
from replication.data.output_folder import require_space
from replication.data.plan import Plan
from replication.data.privacy import is_phantom
from replication.data.readers import ANNOTATION_COLUMNS, DatasetReader
from replication.data.studies import write_reports, write_triplets
from replication.errors import ConfigError, DataError
from replication.files import locked, storage_errors_are_reported
from replication.registry import dataset_reader

_INPUTS = "inputs"
"""In the folder while it is written: the digest of what it is written from."""


def prepare(
    dataset: str,
    source: Path | str,
    out: Path | str,
    *,
    size: int,
    split: str | None = None,
    workers: int = 2,
    progress: bool = True,
    equalize: bool = False,
    quarantine: float = 0.0,
) -> Path:
    """Prepare a data set; a folder prepared from the same inputs is left as it is.

    All tables are checked before the first image is read. The folder appears under its name only when it is
    complete. An error leaves nothing behind; a run that was killed or interrupted leaves ``<out>.partial``,
    with which the next one goes on: no image that was written is decoded twice.

    Args:
        dataset: registered name of the reader.
        source: the raw files. out: the prepared folder.
        size: side S in pixels of the cached images.
        split: a rule of the reader; ``None`` takes the one that fits the files.
        workers: processes that decode.
        equalize: flatten the histograms (the released reading of RSNA).
        quarantine: share (0..1) of the images that may be damaged. They are left out and listed with the
            reason in ``quarantine.csv``. With 0 the first damaged image is an error.

    Returns:
        ``out``.

    Raises:
        DataError: a file is missing, damaged or contradicts another, the disk is full or read-only, or
            another process prepares the same folder.
        ConfigError: unknown data set or split rule, or a share outside 0..1.
    """
    if not 0 <= quarantine <= 1:
        raise ConfigError(
            "The share of images that may be damaged is out of range.",
            where="quarantine",
            found=quarantine,
            allowed="0 to 1, for instance 0.01",
        )
    source, out = Path(source), Path(out)
    reader: type[DatasetReader] = dataset_reader(dataset)
    rule = reader.check_source(source, split)
    plan = Plan(reader, source, rule, size, equalize, quarantine, reader.records(source, rule))
    inputs = plan.inputs()
    _refuse_foreign(out)
    if _is_current(out, inputs, plan):
        return out
    with locked(out, "preparing this folder"), storage_errors_are_reported(out):
        _prepare_locked(plan, out, inputs, workers, progress)
    return out


def _prepare_locked(plan: Plan, out: Path, inputs: str, workers: int, progress: bool) -> None:
    """Write the folder beside ``out`` and put it there."""
    partial, old = (out.with_name(f"{out.name}.{kind}") for kind in ("partial", "old"))
    _discard(old)
    if _is_current(out, inputs, plan):
        # Another process was faster.
        return
    if not _is_current(partial, inputs, plan):
        _fill(plan, partial, inputs, workers, progress)
    for name in (JOURNAL, _INPUTS):
        (partial / name).unlink(missing_ok=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    _discard(old)


def _fill(plan: Plan, partial: Path, inputs: str, workers: int, progress: bool) -> None:
    """Go on with what an interrupted run has left, if it had the same inputs; an error leaves nothing."""
    marker = partial / _INPUTS
    if not (marker.is_file() and marker.read_text(encoding="utf-8") == inputs):
        _discard(partial)
    try:
        written = sum(path.stat().st_size for path in partial.iterdir()) if partial.exists() else 0
        require_space(partial.parent, plan.bytes_needed() - written)
        partial.mkdir(exist_ok=True)
        marker.write_text(inputs, encoding="utf-8")
        _write(plan, partial, inputs, workers, progress)
    except WorkerLostError:
        # What was decoded is sound.
        raise
    except (DataError, OSError):
        _discard(partial)
        raise


def _write(plan: Plan, folder: Path, inputs: str, workers: int, progress: bool) -> None:
    """Everything that a prepared folder holds, ``prepare.json`` last."""
    digests: dict[str, str] = {}
    # Before the images: a broken annotation must not cost an hour of decoding.
    triplet_rows = write_triplets(plan.reader, plan.source, plan.records, folder, digests)
    empty_reports = write_reports(plan.source, plan.records, folder, digests)
    entries = _write_images(plan, folder, digests, workers, progress)
    manifest = _manifest(plan, entries, triplet_rows)
    leaks = plan.reader.leaks(plan.split)
    validate_manifest(manifest, folder / "manifest.parquet", leaks=leaks)
    manifest.to_parquet(folder / "manifest.parquet", index=False)
    digests["manifest"] = table_digest(manifest)
    settings = plan.settings()
    provenance = {
        **settings,
        "source": str(plan.source.resolve()),
        "leaks": leaks,
        "credentialed": plan.reader.credentialed and not is_phantom(plan.source),
        "images": len(manifest),
        "quarantined": _write_quarantine(plan, entries, folder),
        "counts": {str(name): int(n) for name, n in manifest["split"].value_counts().sort_index().items()},
        "patients": int(manifest["patient_id"].nunique()),
        "masks": int((manifest["mask_row"] >= 0).sum()),
        "without_triplets": int((manifest["triplet_row"] < 0).sum()),
        "empty_reports": empty_reports,
        "notes": dict(Counter(entry.note for entry in entries if entry.note)),
        "digests": digests,
        "inputs": inputs,
        "fingerprint": hashlib.sha256(
            json.dumps({"settings": settings, "digests": digests}, sort_keys=True).encode()
        ).hexdigest(),
    }
    (folder / "prepare.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def _write_images(
    plan: Plan, folder: Path, digests: dict[str, str], workers: int, progress: bool
) -> list[Entry]:
    """Fill ``images.npy`` and ``masks.npy``; what was learnt of each file, in the order of the records."""
    jobs = jobs_of(plan.records, plan.source, plan.size, equalize=plan.equalize)
    with ImageCache(folder, plan.size) as cache:
        done = len(cache.entries)
        _check_damage(plan, cache.entries)
        label = f"prepare {plan.reader.name}"
        results = decode_all(jobs[done:], workers)
        for result in tqdm(results, label, len(jobs), initial=done, unit="img", disable=not progress):
            if isinstance(result, DataError):
                if not plan.quarantine:
                    raise result
                cache.leave_out(" ".join(str(result).split()))
                _check_damage(plan, cache.entries)
            else:
                cache.add(result)
        digests.update(cache.finish())
    return cache.entries


def _check_damage(plan: Plan, entries: list[Entry]) -> None:
    """Raise ``DataError`` if more images are damaged than may be left out."""
    reasons = [entry.damage for entry in entries if entry.damage]
    if len(reasons) > plan.tolerated:
        raise DataError(
            "More images are damaged than may be left out.",
            where=plan.source,
            found=f"{len(reasons)} so far, the first: {reasons[0]}",
            allowed=f"{plan.tolerated} of {len(plan.records)} images (quarantine {plan.quarantine:g})",
            remedy="fetch them again, or allow a larger share (--quarantine)",
        )


def _write_quarantine(plan: Plan, entries: list[Entry], folder: Path) -> int:
    """Fill ``quarantine.csv`` if images were left out; how many."""
    left_out = [bool(entry.damage) for entry in entries]
    if any(left_out):
        table = pd.DataFrame(
            {
                "file": plan.records["file"][left_out],
                "reason": [entry.damage for entry in entries if entry.damage],
            }
        )
        table.to_csv(folder / "quarantine.csv", index=False)
    return sum(left_out)


def _manifest(plan: Plan, entries: list[Entry], triplet_rows: list[int]) -> pd.DataFrame:
    table = plan.records.drop(columns=list(ANNOTATION_COLUMNS))
    table["view"] = [stated or entry.view for stated, entry in zip(table["view"], entries, strict=True)]
    for column in ("sha256", "width", "height", "mask_row"):
        table[column] = [getattr(entry, column) for entry in entries]
    table["triplet_row"] = triplet_rows
    table = table.loc[[not entry.damage for entry in entries]].reset_index(drop=True)
    table["cache_row"] = np.arange(len(table))
    labels = [LABEL + name for name in label_names(table)]
    return table[[*TEXT_COLUMNS, *NUMBER_COLUMNS, *labels]]


def _is_current(folder: Path, inputs: str, plan: Plan) -> bool:
    """Whether the folder was prepared from these inputs, with no more images left out than may be."""
    record = folder / "prepare.json"
    if not record.is_file():
        return False
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        return bool(found["inputs"] == inputs and found.get("quarantined", 0) <= plan.tolerated)
    except (ValueError, KeyError):
        # A damaged record: prepare again.
        return False


def _refuse_foreign(out: Path) -> None:
    """Raise ``DataError`` if something lies there that ``prepare`` did not write."""
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not empty and not (out / "prepare.json").is_file():
        raise DataError(
            "The output folder exists and is no prepared data set.",
            where=out,
            remedy="choose another folder, or remove this one",
        )


def _discard(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
