"""NIH ChestX-ray14: PNG images, ``Data_Entry_2017`` with 14 findings, boxes of eight of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd

from replication.data.boxes import Box, box_in_frame
from replication.data.readers import DatasetReader, build_rows
from replication.data.splits import patient_fraction, seeded_splits
from replication.data.tables import (
    files_by_name,
    find_file,
    numbers,
    origin,
    read_lines,
    read_table,
    reject_duplicates,
)
from replication.errors import DataError, nearest

NIH_LABELS: dict[str, str] = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Effusion": "effusion",
    "Infiltration": "infiltration",
    "Mass": "mass",
    "Nodule": "nodule",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrosis",
    "Pleural_Thickening": "pleural_thickening",
    "Hernia": "hernia",
}
"""The data set's names -> ours."""

NO_FINDING = "No Finding"
_BOX_LABELS = {**NIH_LABELS, "Infiltrate": "infiltration"}
_ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_BOX_FILE = "BBox_List_2017.csv"
_TRAIN_VAL, _TEST = "train_val_list.txt", "test_list.txt"
# The header reads "Bbox [x,y,w,h]" unquoted, so its commas make four columns of it.
_BOX_COLUMNS = ("Bbox [x", "y", "w", "h]")
_VALIDATION_SHARE = 1 / 8


def parse_labels(text: str, where: str) -> set[str]:
    """``"Effusion|Mass"`` -> our names; ``"No Finding"`` -> none.

    Raises:
        DataError: a label is not one of the fourteen, or stands beside ``No Finding``.
    """
    parts = [part.strip() for part in text.split("|")]
    if parts == [NO_FINDING]:
        return set()
    for part in parts:
        if part not in NIH_LABELS:
            raise DataError(
                "A label is not in the protocol.",
                where=where,
                found=repr(part),
                allowed=f"{', '.join(NIH_LABELS)}, or {NO_FINDING} alone",
                remedy=nearest(part, NIH_LABELS),
            )
    return {NIH_LABELS[part] for part in parts}


class NihCxr14(DatasetReader):
    """Images in ``images/`` or ``images_001/images/`` ... ``images_012/images/``."""

    name: ClassVar[str] = "nih-cxr14"
    label_names: ClassVar[tuple[str, ...]] = tuple(NIH_LABELS.values())
    splits: ClassVar[Mapping[str, str]] = {
        "official": f"{_TEST} is test; of the patients of {_TRAIN_VAL}, one in eight by hash is val",
        "patient-seeded": "70 / 10 / 20 percent of the patients by hash",
        "mrm": "the lists of MRM, BenchX and others, 70 / 10 / 20 percent",
        "cxr-lt-val": "the validation list of CXR-LT is test, its test list is left out",
    }
    homepage: ClassVar[str] = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    terms: ClassVar[str] = (
        "no restriction on use; link to the download page, cite Wang et al. (CVPR 2017) and acknowledge "
        "the NIH Clinical Center"
    )
    layout: ClassVar[str] = (
        f"{_ENTRY_FILES[0]}, images/*.png or images_*/images/*.png; {_TRAIN_VAL} and {_TEST} for the "
        f"official split; {_BOX_FILE} for grounding"
    )

    @classmethod
    def default_split(cls, source: Path) -> str:
        """``official`` where a list of it lies in the folder, else ``patient-seeded``."""
        listed = (source / _TEST).is_file() or (source / _TRAIN_VAL).is_file()
        return "official" if listed else "patient-seeded"

    @classmethod
    def table_files(cls, source: Path, split: str) -> list[Path]:
        """The entry table, the split lists that the rule reads, and the boxes if there are any."""
        files = [find_file(source, _ENTRY_FILES, "The table of findings")]
        if split == "official":
            files += [
                find_file(source, (name,), "A list of the official split") for name in (_TRAIN_VAL, _TEST)
            ]
        boxes = source / _BOX_FILE
        return [*files, boxes] if boxes.is_file() else files

    @classmethod
    def _rows(cls, source: Path, split: str) -> pd.DataFrame:
        path = find_file(source, _ENTRY_FILES, "The table of findings")
        table = read_table(path, ("Image Index", "Finding Labels", "Patient ID"))
        reject_duplicates(table["Image Index"], path)
        origins = [origin(path, k) for k in range(len(table))]
        found = [
            parse_labels(text, where) for text, where in zip(table["Finding Labels"], origins, strict=True)
        ]
        images = table["Image Index"].tolist()
        patients = table["Patient ID"].tolist()
        stored = files_by_name(source, _image_folders(source), (".png", ".jpg", ".jpeg"))
        boxes = _read_boxes(source / _BOX_FILE, set(images))
        return build_rows(
            sample_id=images,
            patient_id=patients,
            split=_official(source, images, patients, path)
            if split == "official"
            else seeded_splits(patients, {"train": 0.7, "val": 0.1, "test": 0.2}),
            file=[stored.get(name, f"images/{name}") for name in images],
            view=table["View Position"].tolist() if "View Position" in table.columns else None,
            boxes=[boxes.get(name, []) for name in images],
            labels={name: [int(name in some) for some in found] for name in cls.label_names},
            origin=origins,
        )


def _image_folders(source: Path) -> list[Path]:
    folders = [source / "images", *sorted(source.glob("images_*/images")), *sorted(source.glob("images_*"))]
    return [folder for folder in folders if folder.is_dir()]


def _official(source: Path, images: list[str], patients: list[str], table: Path) -> list[str]:
    """Splits of the official lists; val is carved out of train_val by patient."""
    listed: dict[str, str] = {}
    for name, split in ((_TRAIN_VAL, "train"), (_TEST, "test")):
        for number, image in enumerate(read_lines(source / name), 1):
            if listed.setdefault(image.strip(), split) != split:
                raise DataError(
                    "An image is in both official lists.",
                    where=f"{source / name}, row {number}",
                    found=image,
                    allowed="one list each",
                    remedy="fetch both lists again",
                )
    result = []
    for index, (image, patient) in enumerate(zip(images, patients, strict=True)):
        if image not in listed:
            raise DataError(
                "An image is in neither official list.",
                where=origin(table, index),
                found=image,
                allowed=f"a line of {_TRAIN_VAL} or {_TEST}",
                remedy="fetch both lists again, or prepare with --split patient-seeded",
            )
        carved = listed[image] == "train" and patient_fraction(patient) < _VALIDATION_SHARE
        result.append("val" if carved else listed[image])
    return result


def _read_boxes(path: Path, images: set[str]) -> dict[str, list[Box]]:
    """Boxes by image; none if the file is absent."""
    boxes: dict[str, list[Box]] = {}
    if not path.is_file():
        return boxes
    table = read_table(path, ("Image Index", "Finding Label", *_BOX_COLUMNS))
    corners = pd.concat([numbers(table, column, path) for column in _BOX_COLUMNS], axis=1).to_numpy()
    for index, (image, label) in enumerate(zip(table["Image Index"], table["Finding Label"], strict=True)):
        where = origin(path, index)
        if label not in _BOX_LABELS:
            raise DataError(
                "The label of a box is not in the protocol.",
                where=where,
                found=repr(label),
                allowed=", ".join(_BOX_LABELS),
                remedy=nearest(label, _BOX_LABELS),
            )
        if image not in images:
            raise DataError(
                "A box belongs to no listed image.",
                where=where,
                found=image,
                allowed="an Image Index of the table of findings",
                remedy="fetch both tables again",
            )
        boxes.setdefault(image, []).append(box_in_frame(_BOX_LABELS[label], corners[index].tolist(), where))
    return boxes
