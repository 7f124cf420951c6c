"""Checks of raw and prepared data sets, for ``replicate data verify``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from replication.data.batches import PreparedData
from replication.data.cache import array_digest
from replication.data.decoding import decode_all, jobs_of
from replication.data.images import read_bytes
from replication.data.manifest import LABEL, label_names, table_digest
from replication.data.readers import DatasetReader
from replication.errors import ConfigError, DataError
from replication.protocol_config import Protocol, load_protocol, protocol_ids
from replication.registry import dataset_reader

_SMALL = 32
"""Side to which raw images are shrunk when only their soundness is asked for."""


def verify(
    folder: Path | str,
    *,
    source: Path | str | None = None,
    protocol: Protocol | None = None,
    dataset: str | None = None,
    split: str | None = None,
    workers: int = 2,
    progress: bool = True,
) -> dict[str, Any]:
    """Check a prepared folder, or (with ``dataset``) a folder of raw files.

    Of a prepared folder: the schema, the digest of every array and table, that no patient is in two splits,
    and the SHA-256 of every raw file if these are still there. Of raw files: every table, image and mask.

    Args:
        folder: where ``prepare`` wrote, or the raw files.
        source: where the raw files of a prepared folder lie now, if they have moved.
        protocol: also check that these are its data, with its counts.
        dataset, split: reader and split rule of raw files.

    Returns:
        Plain values for printing: ``dataset, split, images, patients, counts`` (per split), ``positives``
        (per split and finding), ``duplicates_across_splits`` (images whose file is byte-identical to one
        of another split), ``raw_files_checked``, ``quarantined`` (damaged images that were left out),
        ``protocols`` that the data satisfy, ``notes`` on repairs.

    Raises:
        DataError: names the first file, row or value that is wrong.
        ConfigError: the folder holds raw files and no data set was named.
    """
    folder = Path(folder)
    if (folder / "prepare.json").is_file():
        data = PreparedData.open(folder)
        if protocol is not None:
            data.check_protocol(protocol)
        return _prepared(data, None if source is None else Path(source), progress)
    if dataset is None:
        raise ConfigError(
            "The folder holds no prepared data set.",
            where=folder,
            found="no prepare.json",
            remedy="prepare the data set first (replicate data prepare)",
        )
    reader: type[DatasetReader] = dataset_reader(dataset)
    return _raw(reader, folder, reader.check_source(folder, split), workers, progress)


def _prepared(data: PreparedData, source: Path | None, progress: bool) -> dict[str, Any]:
    digests = data.provenance["digests"]
    _expect(data.folder / "manifest.parquet", table_digest(data.manifest), digests["manifest"])
    for name, array in (("images", data.images), ("masks", data.masks), ("triplets", data.triplets)):
        if array is not None:
            _expect(data.folder / f"{name}.npy", array_digest(array), digests.get(name))
    if "reports" in digests:
        path = data.folder / "reports.parquet"
        _expect(path, table_digest(pd.read_parquet(path)), digests["reports"])
        unread = set(data.manifest["study_id"]) - set(data.reports)
        if unread:
            raise DataError("A study has no report.", where=path, found=min(unread))
    raw = source or Path(data.provenance["source"])
    checked = source is not None or raw.is_dir()
    if checked:
        _check_files(data, raw, progress)
    return {
        "dataset": data.name,
        "split": data.provenance["split"],
        **_summary(data.manifest),
        "raw_files_checked": checked,
        "quarantined": data.provenance.get("quarantined", 0),
        "protocols": _protocols(data),
        "notes": data.provenance["notes"],
    }


def _check_files(data: PreparedData, raw: Path, progress: bool) -> None:
    """Compare the SHA-256 of every raw file with the manifest's."""
    files = zip(data.manifest["file"], data.manifest["sha256"], strict=True)
    for file, expected in tqdm(files, "verify", len(data.manifest), unit="img", disable=not progress):
        found = hashlib.sha256(read_bytes(raw / file)).hexdigest()
        if found != expected:
            raise DataError(
                "An image has changed since it was prepared.",
                where=raw / file,
                found=f"sha256 {found}",
                allowed=f"sha256 {expected}",
                remedy="restore the file, or prepare the data set again",
            )


def _raw(
    reader: type[DatasetReader], source: Path, rule: str, workers: int, progress: bool
) -> dict[str, Any]:
    records = reader.records(source, rule)
    reader.triplets(source)
    jobs = jobs_of(records, source, _SMALL)
    notes: dict[str, int] = {}
    hashes = []
    for result in tqdm(decode_all(jobs, workers), "verify", len(jobs), unit="img", disable=not progress):
        if isinstance(result, DataError):
            raise result
        hashes.append(result.sha256)
        if result.note:
            notes[result.note] = notes.get(result.note, 0) + 1
    records["sha256"] = hashes
    return {
        "dataset": reader.name,
        "split": rule,
        **_summary(records),
        "raw_files_checked": True,
        "quarantined": 0,
        "protocols": [],
        "notes": notes,
    }


def _expect(path: Path, found: str, expected: str | None) -> None:
    if found != expected:
        raise DataError(
            "A prepared file has changed since it was written.",
            where=path,
            found=f"sha256 {found}",
            allowed=f"sha256 {expected}",
            remedy="prepare the data set again",
        )


def _summary(table: pd.DataFrame) -> dict[str, Any]:
    """Images and patients; images and positives by split; byte-identical files in different splits."""
    splits = list(table.groupby("split", sort=True))
    spread = table.groupby("sha256")["split"].nunique()
    return {
        "images": len(table),
        "patients": int(table["patient_id"].nunique()),
        "counts": {str(split): len(rows) for split, rows in splits},
        "positives": {
            str(split): {name: int((rows[LABEL + name] == 1).sum()) for name in label_names(table)}
            for split, rows in splits
        },
        "duplicates_across_splits": int(table["sha256"].isin(spread.index[spread > 1]).sum()),
    }


def _protocols(data: PreparedData) -> list[str]:
    """Protocols that these data satisfy."""
    fitting = []
    for protocol in map(load_protocol, protocol_ids()):
        if protocol.dataset != data.name:
            continue
        try:
            data.check_protocol(protocol)
        except DataError:
            # Not these data's protocol: that is the answer, not an error.
            continue
        fitting.append(protocol.id)
    return fitting
