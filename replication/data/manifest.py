"""The manifest: one row per image of a prepared data set, and the rules it must keep."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from replication.data.boxes import boxes_from_json
from replication.data.splits import SPLITS
from replication.errors import DataError

LABEL = "label:"
"""Prefix of the label columns: int8, 1 present, 0 absent, -1 unknown."""

TEXT_COLUMNS = ("sample_id", "patient_id", "study_id", "split", "file", "sha256", "view", "boxes")
NUMBER_COLUMNS = ("width", "height", "cache_row", "mask_row", "triplet_row")


def label_names(table: pd.DataFrame) -> tuple[str, ...]:
    """Findings that a table has label columns of, in order."""
    return tuple(column.removeprefix(LABEL) for column in table.columns if column.startswith(LABEL))


def table_digest(table: pd.DataFrame) -> str:
    """SHA-256 of a table's content, whatever the file format it is kept in."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def validate_rows(rows: pd.DataFrame, where: str | Path, *, leaks: bool = False) -> None:
    """Check what records and manifests share: ids, splits, labels, boxes; no patient is in two splits.

    Args:
        leaks: the split rule is known to put patients into two splits; they are not looked for.

    Raises:
        DataError: names the row and what it contradicts.
    """
    if rows.empty:
        raise DataError("There is no image.", where=where, remedy="check the tables of the data set")
    repeated = rows["sample_id"].duplicated()
    if repeated.any():
        name = rows.loc[repeated, "sample_id"].iloc[0]
        twins = rows.loc[rows["sample_id"] == name]
        raise DataError(
            "An image is listed twice.",
            where=_origins(twins, where),
            found=f"{name} (splits: {', '.join(twins['split'])})",
            allowed="one row per image",
            remedy="remove the repeated row; an image listed in two splits is a leak",
        )
    _check_values(rows, "split", SPLITS, where)
    for finding in label_names(rows):
        _check_values(rows, LABEL + finding, (-1, 0, 1), where)
    for index, text in zip(rows.index, rows["boxes"], strict=True):
        if text != "[]":
            boxes_from_json(text, f"{where}, row {index}")
    if not leaks:
        check_patients(rows, where)


def validate_manifest(manifest: pd.DataFrame, where: str | Path, *, leaks: bool = False) -> None:
    """Check a manifest: its columns, its row numbers, and all of ``validate_rows``.

    Raises:
        DataError: names the column or row and what is allowed.
    """
    for column in (*TEXT_COLUMNS, *NUMBER_COLUMNS):
        if column not in manifest.columns:
            raise DataError(
                f"The manifest lacks column {column!r}.",
                where=where,
                found=", ".join(manifest.columns),
                remedy="prepare the data set again",
            )
    if not label_names(manifest):
        raise DataError("The manifest has no label column.", where=where, remedy="prepare the data set again")
    if not np.array_equal(manifest["cache_row"], np.arange(len(manifest))):
        raise DataError("Cache rows are not 0, 1, 2, ...", where=where, remedy="prepare the data set again")
    validate_rows(manifest, where, leaks=leaks)


def load_manifest(path: Path, *, leaks: bool = False) -> pd.DataFrame:
    """Read and validate a manifest; ``leaks`` as in ``validate_rows``.

    Raises:
        DataError: it is missing, unreadable or breaks a rule.
    """
    try:
        manifest = pd.read_parquet(path)
    except FileNotFoundError as error:
        raise DataError(
            "There is no prepared data set here.", where=path, remedy="run: replicate data prepare"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            "The manifest cannot be read.", where=path, found=error, remedy="prepare the data set again"
        ) from error
    validate_manifest(manifest, path, leaks=leaks)
    return manifest


def _check_values(rows: pd.DataFrame, column: str, allowed: tuple[object, ...], where: str | Path) -> None:
    bad = ~rows[column].isin(allowed)
    if bad.any():
        raise DataError(
            f"A value of {column!r} is not allowed.",
            where=_origins(rows.loc[bad].head(1), where),
            found=repr(rows.loc[bad, column].iloc[0]),
            allowed=", ".join(map(str, allowed)),
        )


def check_patients(rows: pd.DataFrame, where: str | Path) -> None:
    """Raise ``DataError`` naming the first patient who is in two splits."""
    pairs = rows[["patient_id", "split"]].drop_duplicates()
    shared = pairs["patient_id"].duplicated()
    if not shared.any():
        return
    patients = pairs.loc[shared, "patient_id"].unique()
    twins = rows.loc[rows["patient_id"] == patients[0]].drop_duplicates("split")
    listing = "; ".join(
        f"{sample} in {split}" for sample, split in zip(twins["sample_id"], twins["split"], strict=True)
    )
    raise DataError(
        f"{len(patients)} patient(s) are in two splits.",
        where=_origins(twins, where),
        found=f"patient {patients[0]}: {listing}",
        allowed="all images of a patient in one split",
        remedy="correct the split lists, or choose a rule that splits by patient",
    )


def _origins(rows: pd.DataFrame, where: str | Path) -> str:
    """Tables and rows where the readers know them, else the file."""
    return "; ".join(rows["origin"]) if "origin" in rows.columns else str(where)
