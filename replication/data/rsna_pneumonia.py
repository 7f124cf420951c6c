"""RSNA Pneumonia Detection Challenge: DICOM images, one row per box, and the released test list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd

from replication.data.boxes import Box, box_in_frame, parse_box_string
from replication.data.readers import DatasetReader, build_rows
from replication.data.splits import seeded_splits, shuffled_splits
from replication.data.tables import find_file, numbers, origin, read_table, reject_duplicates
from replication.errors import DataError

_LABEL_FILES = ("stage_2_train_labels.csv",)
_RELEASED_FILES = ("test.csv", "test_example.csv")
_IMAGES = "stage_2_train_images"
_FINDING = "pneumonia"


class RsnaPneumonia(DatasetReader):
    """Kaggle's stage 2: ``stage_2_train_labels.csv`` and ``stage_2_train_images/<patientId>.dcm``."""

    name: ClassVar[str] = "rsna-pneumonia"
    label_names: ClassVar[tuple[str, ...]] = (_FINDING,)
    splits: ClassVar[Mapping[str, str]] = {
        "patient-seeded": "60 / 20 / 20 percent of the patients by hash",
        "released-list": "test.csv of the released code (MedKLIP, MeDSLIP, MAVL; LoVT's test split) is test; "
        "of the other patients three quarters by hash are train and one quarter val",
        "lovt": "the lists of LoVT, 60 / 20 / 20 percent",
        "benchx": "the lists of BenchX, 70 / 15 / 15 percent",
        "mgca": "70 / 15 / 15 percent of the sorted patients, shuffled as MGCA does",
        "all-test": "every image is test; nothing is left to learn or choose from",
    }
    homepage: ClassVar[str] = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"
    terms: ClassVar[str] = (
        "academic and other use with attribution (RSNA challenge terms); the images are NIH ChestX-ray14's, "
        "so test sets overlap"
    )
    layout: ClassVar[str] = (
        f"{_LABEL_FILES[0]}, {_IMAGES}/<patientId>.dcm; test.csv for the rule released-list"
    )

    @classmethod
    def default_split(cls, source: Path) -> str:
        """``patient-seeded``."""
        return "patient-seeded"

    @classmethod
    def table_files(cls, source: Path, split: str) -> list[Path]:
        """The labels, and the released list where the rule reads it."""
        files = [find_file(source, _LABEL_FILES, "The table of labels")]
        if split == "released-list":
            files.append(find_file(source, _RELEASED_FILES, "The released test list"))
        return files

    @classmethod
    def _rows(cls, source: Path, split: str) -> pd.DataFrame:
        path = find_file(source, _LABEL_FILES, "The table of labels")
        boxes, first_row = _read_labels(path)
        patients = list(boxes)
        if split == "released-list":
            splits = _released_splits(find_file(source, _RELEASED_FILES, "The released test list"), boxes)
        elif split == "mgca":
            drawn = dict(zip(sorted(patients), shuffled_splits(len(patients)), strict=True))
            splits = [drawn[patient] for patient in patients]
        elif split == "all-test":
            splits = ["test"] * len(patients)
        else:
            splits = seeded_splits(patients, {"train": 0.6, "val": 0.2, "test": 0.2})
        return build_rows(
            sample_id=patients,
            patient_id=patients,
            split=splits,
            file=[f"{_IMAGES}/{patient}.dcm" for patient in patients],
            boxes=list(boxes.values()),
            labels={_FINDING: [int(bool(some)) for some in boxes.values()]},
            origin=[origin(path, row) for row in first_row.values()],
        )


def _read_labels(path: Path) -> tuple[dict[str, list[Box]], dict[str, int]]:
    """Boxes of every patient, and the first row it stands in; a patient without boxes is negative."""
    table = read_table(path, ("patientId", "x", "y", "width", "height", "Target"))
    positive = _targets(table, path)
    columns = ("x", "y", "width", "height")
    drawn = table.loc[positive]
    # Rows keep their number in the file, so errors about boxes name it.
    corners = dict(zip(drawn.index, _corners(table, positive, columns, path), strict=True))
    boxes: dict[str, list[Box]] = {}
    first_row: dict[str, int] = {}
    for index, patient in enumerate(table["patientId"]):
        where = origin(path, index)
        known = patient in boxes
        if known and (not positive[index] or not boxes[patient]):
            raise DataError(
                "Two rows of a patient contradict each other.",
                where=where,
                found=f"{patient}: Target {int(positive[index])} here, not in row {first_row[patient] + 2}",
                allowed="one row with Target 0, or one row per box with Target 1",
                remedy="fetch the table again",
            )
        first_row.setdefault(patient, index)
        some = boxes.setdefault(patient, [])
        if positive[index]:
            some.append(box_in_frame(_FINDING, corners[index], where))
    return boxes, first_row


def _targets(table: pd.DataFrame, path: Path) -> list[bool]:
    for index, value in enumerate(table["Target"]):
        if value not in ("0", "1"):
            raise DataError(
                "A label is not in the protocol.",
                where=origin(path, index),
                found=f"Target {value!r}",
                allowed="0 or 1",
            )
    return (table["Target"] == "1").tolist()


def _corners(
    table: pd.DataFrame, positive: list[bool], columns: tuple[str, ...], path: Path
) -> list[list[float]]:
    """x, y, width, height of the positive rows; the cells of negative rows are empty."""
    filled = table.copy()
    filled.loc[[not flag for flag in positive], list(columns)] = "0"
    values = pd.concat([numbers(filled, column, path) for column in columns], axis=1).to_numpy()
    return [row.tolist() for row, flag in zip(values, positive, strict=True) if flag]


def _released_splits(path: Path, boxes: dict[str, list[Box]]) -> list[str]:
    """``test`` for the patients of the released list, whose boxes must be those of the labels."""
    table = read_table(path, ("ID", "boxes", "classes"))
    reject_duplicates(table["ID"], path)
    for index, (patient, text) in enumerate(zip(table["ID"], table["boxes"], strict=True)):
        where = origin(path, index)
        if patient not in boxes:
            raise DataError(
                "The released list names an image that the labels do not.",
                where=where,
                found=patient,
                allowed=f"a patientId of {_LABEL_FILES[0]}",
            )
        listed = parse_box_string(text, _FINDING, where)
        if sorted(listed) != sorted(boxes[patient]):
            raise DataError(
                "The boxes of the released list are not those of the labels.",
                where=where,
                found=text,
                allowed=f"the {len(boxes[patient])} boxes of {patient} in {_LABEL_FILES[0]}",
            )
    test = set(table["ID"])
    others = seeded_splits(boxes, {"train": 0.75, "val": 0.25})
    return ["test" if patient in test else other for patient, other in zip(boxes, others, strict=True)]
