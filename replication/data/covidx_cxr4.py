"""COVIDx CXR-4: header-less lists of patient, file, class and source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import pandas as pd

from replication.data.readers import DatasetReader, build_rows
from replication.data.splits import seeded_splits
from replication.data.tables import find_file, read_lines
from replication.errors import DataError

_CLASSES = {"positive": 1, "negative": 0}
_SPLITS = ("train", "val", "test")


class Line(NamedTuple):
    """One line of a list."""

    patient: str
    file: str
    positive: int
    source: str


def parse_line(line: str, where: str) -> Line:
    """``patient_id filename class data_source``, separated by white space; the file name may hold blanks.

    Raises:
        DataError: fewer than four fields, or a class other than positive and negative.
    """
    fields = line.split()
    if len(fields) < 4:
        raise DataError(
            "A line of the list cannot be read.",
            where=where,
            found=repr(line),
            allowed="patient_id filename positive|negative data_source",
            remedy="the lists of CXR-4 have no header and four fields",
        )
    head, kind, source = line.strip().rsplit(None, 2)
    if kind not in _CLASSES:
        raise DataError(
            "A label is not in the protocol.",
            where=where,
            found=repr(kind),
            allowed=", ".join(_CLASSES),
            remedy="the class is the last but one field",
        )
    patient, file = head.split(None, 1)
    return Line(patient, file, _CLASSES[kind], source)


class CovidxCxr4(DatasetReader):
    """``train.txt``, ``val.txt``, ``test.txt`` and the folders of the same names."""

    name: ClassVar[str] = "covidx-cxr4"
    label_names: ClassVar[tuple[str, ...]] = ("covid",)
    splits: ClassVar[Mapping[str, str]] = {
        "official": "the three lists, every line of them (they have no header)",
        "two-lists": "CXR-2 and CXR-3: train.txt and test.txt; one in eight training patients by hash is val",
        "mavl": "CXR-2: the lists of MAVL, which share patients (leaks)",
    }
    homepage: ClassVar[str] = "https://github.com/lindawangg/COVID-Net/blob/master/docs/COVIDx.md"
    terms: ClassVar[str] = "a collection; each source keeps its own terms (RSNA images are one of them)"
    layout: ClassVar[str] = "train.txt, val.txt, test.txt, and the images in train/, val/, test/"

    @classmethod
    def default_split(cls, source: Path) -> str:
        """``official``."""
        return "official"

    @classmethod
    def table_files(cls, source: Path, split: str) -> list[Path]:
        """The three lists; two of the earlier versions."""
        names = [name for name in _SPLITS if split == "official" or name != "val"]
        return [find_file(source, (f"{name}.txt",), f"The {name} list") for name in names]

    @classmethod
    def _rows(cls, source: Path, split: str) -> pd.DataFrame:
        lines: list[Line] = []
        splits: list[str] = []
        origins: list[str] = []
        for path in cls.table_files(source, split):
            for number, text in enumerate(read_lines(path), 1):
                origins.append(f"{path}, row {number}")
                lines.append(parse_line(text, origins[-1]))
                splits.append(path.stem)
        patients = [f"{line.source}/{line.patient}" for line in lines]
        parts = splits
        if split != "official":
            carved = seeded_splits(patients, {"val": 1 / 8, "train": 7 / 8})
            parts = [one if given == "train" else given for one, given in zip(carved, splits, strict=True)]
        return build_rows(
            sample_id=[line.file for line in lines],
            # Two sources may number their patients alike.
            patient_id=patients,
            split=parts,
            file=[f"{split}/{line.file}" for split, line in zip(splits, lines, strict=True)],
            labels={"covid": [line.positive for line in lines]},
            origin=origins,
        )
