"""SIIM-ACR Pneumothorax: the DICOM form with run-length masks, and the PNG form with mask images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd

from replication.data import rle
from replication.data.dicom import read_header
from replication.data.readers import DatasetReader, build_rows
from replication.data.split_lists import placed
from replication.data.splits import seeded_splits, shuffled_splits
from replication.data.tables import files_by_name, find_file, origin, read_table, reject_duplicates
from replication.errors import DataError

_RLE_FILES = ("train-rle.csv", "stage_2_train.csv", "siim-pneumothorax-train-rle.csv")
_DICOM_FOLDERS = ("dicom-images-train", "dicom_images_train")
_STAGE_1 = {"train": "stage_1_train_images.csv", "test": "stage_1_test_images.csv"}
_FINDING = "pneumothorax"


class SiimAcr(DatasetReader):
    """Labels are those of the full-size annotation (audit F9), never of a mask that was made smaller."""

    name: ClassVar[str] = "siim-acr"
    label_names: ClassVar[tuple[str, ...]] = (_FINDING,)
    splits: ClassVar[Mapping[str, str]] = {
        "patient-seeded": "DICOM form: 60 / 20 / 20 percent of the patients by hash",
        "stage-1": "PNG form: the stage 1 test table is test; one in eight training images by hash is val",
        "benchx": "PNG form: the lists of BenchX",
        "lovt": "DICOM form: the lists of LoVT, 60 / 20 / 20 percent",
        "mavl-by-row": "DICOM form: the lists of MAVL, split by row of the run-length table (leaks)",
        "mgca-by-row": "DICOM form: rows of the run-length table shuffled as GLoRIA and MGCA do (leaks)",
    }
    leaking: ClassVar[frozenset[str]] = frozenset({"mgca-by-row"})
    homepage: ClassVar[str] = "https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation"
    terms: ClassVar[str] = "no licence text was found with the data; ask the publisher"
    layout: ClassVar[str] = (
        f"{_RLE_FILES[0]} and {_DICOM_FOLDERS[0]}/<study>/<series>/<ImageId>.dcm; or "
        f"{_STAGE_1['train']}, {_STAGE_1['test']}, png_images/, png_masks/"
    )

    @classmethod
    def default_split(cls, source: Path) -> str:
        """``patient-seeded`` for the DICOM form, ``stage-1`` where only the PNG form lies in the folder."""
        has_dicom = any((source / name).is_file() for name in _RLE_FILES)
        return "stage-1" if not has_dicom and (source / _STAGE_1["train"]).is_file() else "patient-seeded"

    @classmethod
    def table_files(cls, source: Path, split: str) -> list[Path]:
        """The run-length table, or the two stage 1 tables."""
        if split == "stage-1":
            return [find_file(source, (name,), f"The {key} table") for key, name in _STAGE_1.items()]
        return [find_file(source, _RLE_FILES, "The table of run-length masks")]

    @classmethod
    def _rows(cls, source: Path, split: str) -> pd.DataFrame:
        if split == "stage-1":
            return _png_rows(source)
        rows = _dicom_rows(source)
        return _by_row(rows, source) if split == "mgca-by-row" else rows


def _by_row(records: pd.DataFrame, source: Path) -> pd.DataFrame:
    """Every row of the run-length table in a split of its own; images of several rows land in several."""
    path = find_file(source, _RLE_FILES, "The table of run-length masks")
    images = read_table(path, ("ImageId", "EncodedPixels"))["ImageId"]
    rows = {image: row for row, image in enumerate(records["sample_id"])}
    return placed(records, zip(map(rows.__getitem__, images), shuffled_splits(len(images)), strict=True))


def _dicom_rows(source: Path) -> pd.DataFrame:
    path = find_file(source, _RLE_FILES, "The table of run-length masks")
    table = read_table(path, ("ImageId", "EncodedPixels"))
    masks: dict[str, list[str]] = {}
    first_row: dict[str, int] = {}
    for index, (image, text) in enumerate(zip(table["ImageId"], table["EncodedPixels"], strict=True)):
        where = origin(path, index)
        empty = text.strip() == rle.EMPTY
        if not empty:
            rle.decode(text, where)
        if image in masks and (empty or not masks[image]):
            raise DataError(
                "Two rows of an image contradict each other.",
                where=where,
                found=f"{image} has a mask in one row and -1 in another (row {first_row[image] + 2})",
                allowed="one row with -1, or one row per run-length mask",
            )
        first_row.setdefault(image, index)
        masks.setdefault(image, []).extend([] if empty else [text.strip()])
    files = _dicom_files(source, list(masks), path, first_row)
    headers = [read_header(source / file, ["PatientID", "ViewPosition"]) for file in files]
    patients = [
        str(header.get("PatientID", "")) or image for header, image in zip(headers, masks, strict=True)
    ]
    return build_rows(
        sample_id=list(masks),
        patient_id=patients,
        split=seeded_splits(patients, {"train": 0.6, "val": 0.2, "test": 0.2}),
        file=files,
        view=[str(header.get("ViewPosition", "")) for header in headers],
        labels={_FINDING: [int(bool(some)) for some in masks.values()]},
        origin=[origin(path, row) for row in first_row.values()],
        mask_rle=["|".join(some) for some in masks.values()],
    )


def _dicom_files(source: Path, images: list[str], table: Path, rows: dict[str, int]) -> list[str]:
    """Where the DICOM file of every image lies; study and series folders are named by their own numbers."""
    folder = next((source / name for name in _DICOM_FOLDERS if (source / name).is_dir()), None)
    if folder is None:
        raise DataError(
            "The folder of DICOM images is missing.",
            where=source,
            allowed=" or ".join(_DICOM_FOLDERS),
            remedy=SiimAcr.layout,
        )
    folders = sorted({file.parent for file in folder.rglob("*.dcm")})
    stored = files_by_name(source, folders, (".dcm",))
    missing = [image for image in images if f"{image}.dcm" not in stored]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images that a table names are missing.",
            where=origin(table, rows[missing[0]]),
            found=f"no {missing[0]}.dcm below {folder}",
            allowed=f"{folder.name}/<study>/<series>/<ImageId>.dcm",
            remedy="fetch the missing files, or remove their rows from the table",
        )
    return [stored[f"{image}.dcm"] for image in images]


def _png_rows(source: Path) -> pd.DataFrame:
    parts = []
    for split, name in _STAGE_1.items():
        path = source / name
        table = read_table(path, ("new_filename", "ImageId", "has_pneumo"))
        reject_duplicates(table["new_filename"], path)
        table["origin"] = [origin(path, index) for index in range(len(table))]
        table["split"] = split
        parts.append(table)
    table = pd.concat(parts, ignore_index=True)
    for where, value in zip(table["origin"], table["has_pneumo"], strict=True):
        if value not in ("0", "1"):
            raise DataError(
                "A label is not in the protocol.",
                where=where,
                found=f"has_pneumo {value!r}",
                allowed="0 or 1",
            )
    carved = seeded_splits(table["ImageId"], {"val": 1 / 8, "train": 7 / 8})
    positive = table["has_pneumo"] == "1"
    files = table["new_filename"]
    return build_rows(
        sample_id=files.tolist(),
        patient_id=table["ImageId"].tolist(),
        split=[
            part if given == "train" else given for part, given in zip(carved, table["split"], strict=True)
        ],
        file=[f"png_images/{name}" for name in files],
        labels={_FINDING: positive.astype("int8").tolist()},
        origin=table["origin"].tolist(),
        mask_file=[f"png_masks/{name}" if has else "" for name, has in zip(files, positive, strict=True)],
    )
