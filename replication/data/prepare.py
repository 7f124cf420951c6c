"""Raw files -> manifest, image cache, masks, triplets and reports: the one step before all others."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from replication.data.cache import (
    ArrayWriter,
    Decoded,
    decode_all,
    full_disk_is_reported,
    jobs_of,
    require_space,
)
from replication.data.manifest import (
    LABEL,
    NUMBER_COLUMNS,
    TEXT_COLUMNS,
    label_names,
    table_digest,
    validate_manifest,
)
from replication.data.privacy import is_phantom
from replication.data.readers import ANNOTATION_COLUMNS, DatasetReader
from replication.data.reports import report_text
from replication.data.verify import verify
from replication.errors import DataError
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES
from replication.registry import dataset_reader

__all__ = ["FORMAT", "prepare", "verify"]

FORMAT = 2
"""Raised when the same inputs would give another prepared folder."""

_CELLS = len(ANATOMIES) * len(PATHOLOGIES)


class _Plan(NamedTuple):
    """What a folder is prepared from and how."""

    reader: type[DatasetReader]
    source: Path
    split: str
    size: int
    equalize: bool
    records: pd.DataFrame


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
) -> Path:
    """Prepare a data set; a folder prepared from the same inputs is left as it is.

    All tables are checked before the first image is read. The folder appears under its name only when it is
    complete; on any failure nothing is left behind.

    Args:
        dataset: registered name of the reader.
        source: the raw files. out: the prepared folder.
        size: side S in pixels of the cached images.
        split: a rule of the reader; ``None`` takes the one that fits the files.
        workers: processes that decode.
        equalize: flatten the histograms (the released reading of RSNA).

    Returns:
        ``out``.

    Raises:
        DataError: a file is missing, damaged or contradicts another, or the disk is full.
        ConfigError: unknown data set or split rule.
    """
    source, out = Path(source), Path(out)
    reader: type[DatasetReader] = dataset_reader(dataset)
    rule = reader.check_source(source, split)
    plan = _Plan(reader, source, rule, size, equalize, reader.records(source, rule))
    inputs = _inputs(plan)
    if _is_current(out, inputs):
        return out
    partial = out.with_name(out.name + ".partial")
    with full_disk_is_reported(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _discard(partial)
        require_space(out.parent, _needed(plan))
        try:
            partial.mkdir()
            _write(plan, partial, inputs, workers, progress)
            _discard(out)
            partial.rename(out)
        except BaseException:
            _discard(partial)
            raise
    return out


def _write(plan: _Plan, folder: Path, inputs: str, workers: int, progress: bool) -> None:
    """Everything that a prepared folder holds, ``prepare.json`` last."""
    digests: dict[str, str] = {}
    # Before the images: a broken annotation must not cost an hour of decoding.
    triplet_rows = _write_triplets(plan, folder, digests)
    _write_reports(plan, folder, digests)
    decoded, masks = _write_images(plan, folder, digests, workers, progress)
    manifest = _manifest(plan, decoded, masks, triplet_rows)
    leaks = plan.reader.leaks(plan.split)
    validate_manifest(manifest, folder / "manifest.parquet", leaks=leaks)
    manifest.to_parquet(folder / "manifest.parquet", index=False)
    digests["manifest"] = table_digest(manifest)
    settings = _settings(plan)
    provenance = {
        **settings,
        "source": str(plan.source.resolve()),
        "leaks": leaks,
        "credentialed": plan.reader.credentialed and not is_phantom(plan.source),
        "images": len(manifest),
        "counts": {str(name): int(n) for name, n in manifest["split"].value_counts().sort_index().items()},
        "patients": int(manifest["patient_id"].nunique()),
        "masks": int((manifest["mask_row"] >= 0).sum()),
        "without_triplets": int((manifest["triplet_row"] < 0).sum()),
        "notes": _notes(decoded),
        "digests": digests,
        "inputs": inputs,
        "fingerprint": hashlib.sha256(
            json.dumps({"settings": settings, "digests": digests}, sort_keys=True).encode()
        ).hexdigest(),
    }
    (folder / "prepare.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def _write_images(
    plan: _Plan, folder: Path, digests: dict[str, str], workers: int, progress: bool
) -> tuple[list[Decoded], list[int]]:
    """Fill ``images.npy`` and ``masks.npy``; what was learnt of each file (without pixels), and mask rows."""
    jobs = jobs_of(plan.records, plan.source, plan.size, equalize=plan.equalize)
    masked = sum(bool(job.mask_rle) or job.mask_path is not None for job in jobs)
    shape = (plan.size, plan.size)
    learnt: list[Decoded] = []
    mask_rows: list[int] = []
    none = np.empty((0, 0), np.uint8)
    with (
        ArrayWriter(folder / "images.npy", (len(jobs), *shape), np.uint8) as images,
        ArrayWriter(folder / "masks.npy", (masked, *shape), np.uint8) as masks,
    ):
        results = decode_all(jobs, workers)
        label = f"prepare {plan.reader.name}"
        for result in tqdm(results, label, len(jobs), unit="img", disable=not progress):
            images.append(result.image)
            if result.mask is None:
                mask_rows.append(-1)
            else:
                mask_rows.append(max(mask_rows, default=-1) + 1)
                masks.append(result.mask)
            learnt.append(result._replace(image=none, mask=None))
        digests["images"], digests["masks"] = images.sha256, masks.sha256
    if masked == 0:
        (folder / "masks.npy").unlink()
        del digests["masks"]
    return learnt, mask_rows


def _write_triplets(plan: _Plan, folder: Path, digests: dict[str, str]) -> list[int]:
    """Fill ``triplets.npy`` with the studies of the records; the row of every record, -1 for none."""
    annotation = plan.reader.triplets(plan.source)
    if annotation is None:
        return [-1] * len(plan.records)
    study_ids, matrix = annotation
    wanted = set(plan.records["study_id"])
    kept = [k for k, study in enumerate(study_ids) if study in wanted]
    if not kept:
        raise DataError(
            "No study of the data set is annotated.",
            where=plan.source,
            found=f"{len(study_ids)} annotated studies, none of them listed",
            remedy="check that tables and RadGraph file belong together",
        )
    rows = {study_ids[k]: row for row, k in enumerate(kept)}
    with ArrayWriter(folder / "triplets.npy", (len(kept), *matrix.shape[1:]), np.int8) as writer:
        writer.append(matrix[kept])
        digests["triplets"] = writer.sha256
    return [rows.get(study, -1) for study in plan.records["study_id"]]


def _write_reports(plan: _Plan, folder: Path, digests: dict[str, str]) -> None:
    """Fill ``reports.parquet`` with findings and impression of every study that has a report."""
    files = plan.records.loc[plan.records["report_file"] != "", ["study_id", "report_file"]].drop_duplicates()
    if files.empty:
        return
    texts = []
    for name in files["report_file"]:
        try:
            texts.append(report_text((plan.source / name).read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            raise DataError(
                "A report is no UTF-8 text.", where=plan.source / name, found=error, remedy="fetch it again"
            ) from error
    table = pd.DataFrame({"study_id": files["study_id"].to_numpy(), "report": texts})
    table.to_parquet(folder / "reports.parquet", index=False)
    digests["reports"] = table_digest(table)


def _manifest(
    plan: _Plan, decoded: list[Decoded], mask_rows: list[int], triplet_rows: list[int]
) -> pd.DataFrame:
    table = plan.records.drop(columns=list(ANNOTATION_COLUMNS))
    views = zip(table["view"], decoded, strict=True)
    table["view"] = [stated or result.view for stated, result in views]
    table["sha256"] = [result.sha256 for result in decoded]
    table["width"] = [result.width for result in decoded]
    table["height"] = [result.height for result in decoded]
    table["cache_row"] = np.arange(len(table))
    table["mask_row"] = mask_rows
    table["triplet_row"] = triplet_rows
    labels = [LABEL + name for name in label_names(table)]
    return table[[*TEXT_COLUMNS, *NUMBER_COLUMNS, *labels]]


def _settings(plan: _Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "dataset": plan.reader.name,
        "split": plan.split,
        "size": plan.size,
        "equalize": plan.equalize,
        "labels": list(label_names(plan.records)),
    }


def _inputs(plan: _Plan) -> str:
    """A digest of settings, tables, and the size and time of every file: changes when anything may differ."""
    digest = hashlib.sha256(json.dumps(_settings(plan), sort_keys=True).encode())
    for table in plan.reader.tables(plan.source, plan.split):
        with table.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(plan.records.drop(columns="origin").to_csv(index=False).encode())
    for column in ("file", "mask_file", "report_file"):
        for name in plan.records[column]:
            if name:
                state = (plan.source / name).stat()
                digest.update(f"{name}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _is_current(out: Path, inputs: str) -> bool:
    """Whether ``out`` was prepared from these inputs.

    Raises:
        DataError: something lies there that ``prepare`` did not write.
    """
    record = out / "prepare.json"
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not record.is_file():
        raise DataError(
            "The output folder exists and is no prepared data set.",
            where=out,
            remedy="choose another folder, or remove this one",
        )
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["inputs"] == inputs)
    except (ValueError, KeyError):
        # A damaged record: prepare again.
        return False


def _needed(plan: _Plan) -> int:
    """Bytes that the folder will take, with a little to spare."""
    masks = ((plan.records["mask_rle"] != "") | (plan.records["mask_file"] != "")).sum()
    studies = plan.records["study_id"].nunique() if (plan.records["report_file"] != "").any() else 0
    pixels = (len(plan.records) + int(masks)) * plan.size**2
    return int(1.02 * (pixels + studies * (_CELLS + 2000) + len(plan.records) * 400)) + 2**20


def _notes(decoded: list[Decoded]) -> dict[str, int]:
    """Repairs made on reading, with how many images they concern."""
    notes: dict[str, int] = {}
    for result in decoded:
        if result.note:
            notes[result.note] = notes.get(result.note, 0) + 1
    return notes


def _discard(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
