"""MIMIC-CXR-JPG with the reports of MIMIC-CXR and the RadGraph annotation of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.data.nih_cxr14 import NIH_LABELS
from replication.data.readers import DatasetReader, build_rows
from replication.data.released_triplets import MATRIX, read_released_triplets
from replication.data.tables import find_file, origin, read_table, reject_duplicates
from replication.errors import DataError
from replication.knowledge.triplets import read_triplets

CHEXPERT_LABELS: dict[str, str] = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Enlarged Cardiomediastinum": "enlarged_cardiomediastinum",
    "Fracture": "fracture",
    "Lung Lesion": "lung_lesion",
    "Lung Opacity": "lung_opacity",
    "No Finding": "no_finding",
    "Pleural Effusion": "effusion",
    "Pleural Other": "pleural_other",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Support Devices": "support_devices",
}
"""Columns of the CheXpert table -> ours."""

FRONTAL = ("AP", "PA")
_EXACT = "phantom-labels.csv"
_GRAPHS = ("MIMIC-CXR_graphs.json", "radgraph/MIMIC-CXR_graphs.json")
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
# 1 and 0 are definite; -1 is uncertain and blank is not mentioned: neither says what the image shows.
_CHEXPERT_VALUES = {"1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": -1, "-1": -1, "": -1}
_EXACT_VALUES = {"1": 1, "0": 0}


class MimicCxr(DatasetReader):
    """Frontal images only. Labels are CheXpert's, or exact ones where a phantom brings them."""

    name: ClassVar[str] = "mimic-cxr"
    label_names: ClassVar[tuple[str, ...]] = tuple(CHEXPERT_LABELS.values())
    splits: ClassVar[Mapping[str, str]] = {"official": "mimic-cxr-2.0.0-split.csv; 'validate' is val"}
    credentialed: ClassVar[bool] = True
    homepage: ClassVar[str] = "https://physionet.org/content/mimic-cxr-jpg/ (also mimic-cxr/ and radgraph/)"
    terms: ClassVar[str] = (
        "PhysioNet Credentialed Health Data License 1.5.0: training and a signed agreement; no copy, no "
        "third-party service"
    )
    layout: ClassVar[str] = (
        "mimic-cxr-2.0.0-{split,metadata,chexpert}.csv[.gz], files/p10/p10000032/s50414267/<dicom_id>.jpg, "
        "the report beside the study folder as s50414267.txt (or below mimic-cxr-reports/), "
        f"MIMIC-CXR_graphs.json (or the released {MATRIX} with its lists)"
    )

    @classmethod
    def default_split(cls, source: Path) -> str:
        """``official``."""
        return "official"

    @classmethod
    def table_files(cls, source: Path, split: str) -> list[Path]:
        """Split, metadata, labels, and RadGraph or the released label tensor."""
        labels = source / _EXACT
        return [
            _table(source, "split"),
            _table(source, "metadata"),
            labels if labels.is_file() else _table(source, "chexpert"),
            find_file(source, (MATRIX, *_GRAPHS), "The RadGraph annotation, or the released label tensor"),
        ]

    @classmethod
    def _rows(cls, source: Path, split: str) -> pd.DataFrame:
        path, metadata_path, label_path, _ = cls.table_files(source, split)
        table = read_table(path, ("dicom_id", "study_id", "subject_id", "split"))
        reject_duplicates(table["dicom_id"], path)
        table["origin"] = [origin(path, index) for index in range(len(table))]
        _check_splits(table)
        table["view"] = _views(table, metadata_path)
        table = table.loc[table["view"].isin(FRONTAL)].reset_index(drop=True)
        folders = [
            f"files/p{subject[:2]}/p{subject}/s{study}"
            for subject, study in zip(table["subject_id"], table["study_id"], strict=True)
        ]
        reports = "mimic-cxr-reports/" if (source / "mimic-cxr-reports").is_dir() else ""
        return build_rows(
            sample_id=table["dicom_id"].tolist(),
            patient_id=table["subject_id"].tolist(),
            study_id=table["study_id"].tolist(),
            split=table["split"].map(_SPLITS).tolist(),
            file=[f"{folder}/{image}.jpg" for folder, image in zip(folders, table["dicom_id"], strict=True)],
            view=table["view"].tolist(),
            labels=_labels(table["study_id"], label_path),
            origin=table["origin"].tolist(),
            report_file=[f"{reports}{folder}.txt" for folder in folders],
        )

    @classmethod
    def triplets(cls, source: Path) -> tuple[tuple[str, ...], NDArray[np.int8]]:
        """The matrix [n, 51, 75] of all documents of the RadGraph file; the released one where it is there.

        Raises:
            DataError: the file is damaged or a document breaks its schema (a dangling relation).
        """
        if (source / MATRIX).is_file():
            return read_released_triplets(source)
        study_ids, matrix = read_triplets(find_file(source, _GRAPHS, "The RadGraph annotation"))
        return study_ids, matrix


def _table(source: Path, kind: str) -> Path:
    stem = f"mimic-cxr-2.0.0-{kind}.csv"
    return find_file(source, (stem, f"{stem}.gz"), f"The {kind} table")


def _check_splits(table: pd.DataFrame) -> None:
    for where, value in zip(table["origin"], table["split"], strict=True):
        if value not in _SPLITS:
            raise DataError("Unknown split.", where=where, found=repr(value), allowed=", ".join(_SPLITS))


def _views(table: pd.DataFrame, path: Path) -> pd.Series[str]:
    """View position of every image, by its dicom_id."""
    metadata = read_table(path, ("dicom_id", "ViewPosition"))
    reject_duplicates(metadata["dicom_id"], path)
    views = table["dicom_id"].map(metadata.set_index("dicom_id")["ViewPosition"])
    unknown = views.isna()
    if unknown.any():
        row = table.loc[unknown].iloc[0]
        raise DataError(
            "An image of the split table is not in the metadata.",
            where=row["origin"],
            found=f"dicom_id {row['dicom_id']}",
            allowed=f"a dicom_id of {path.name}",
            remedy="fetch both tables again",
        )
    return views


def _labels(studies: pd.Series[str], path: Path) -> dict[str, NDArray[np.int8]]:
    """Label columns by finding; a study without a row is unknown everywhere."""
    exact = path.name == _EXACT
    names = {name: name for name in NIH_LABELS.values()} if exact else CHEXPERT_LABELS
    values = _EXACT_VALUES if exact else _CHEXPERT_VALUES
    table = read_table(path, ("study_id", *names))
    reject_duplicates(table["study_id"], path)
    by_study = table.set_index("study_id")
    labels = {}
    for column, name in names.items():
        numbers = table[column].map(values)
        if numbers.isna().any():
            index = int(numbers.isna().to_numpy().argmax())
            raise DataError(
                f"A value of {column!r} is not in the protocol.",
                where=origin(path, index),
                found=repr(table[column].iloc[index]),
                allowed=", ".join(repr(value) for value in values),
            )
        column_values = studies.map(by_study[column].map(values))
        labels[name] = column_values.fillna(-1).to_numpy().astype(np.int8)
    return labels
