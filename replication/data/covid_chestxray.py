"""COVID-19 image data collection as a flat export: one table, one folder of images, one of lung masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd

from replication.data.readers import DatasetReader, build_rows
from replication.data.splits import seeded_splits
from replication.data.tables import find_file, origin, read_table, reject_duplicates
from replication.errors import DataError

_COLUMNS = ("image", "patient_id", "view", "finding", "has_lung_mask")
_COVID = "COVID-19"
_UNKNOWN = ("", "todo", "Unknown")
_MASKED = {"True": 1, "False": -1}


class CovidChestxray(DatasetReader):
    """``metadata.csv`` with ``images/`` and ``lung_masks/``.

    ``covid`` is present where the finding names COVID-19, unknown where nobody has filled it in, else absent.
    ``lungs`` is present where a mask outlines the lungs, and unknown elsewhere; it is a target for
    segmentation only.
    """

    name: ClassVar[str] = "covid-chestxray"
    label_names: ClassVar[tuple[str, ...]] = ("covid", "lungs")
    splits: ClassVar[Mapping[str, str]] = {
        "patient-seeded": "60/20/20 by a hash of the patient; the collection has no split of its own"
    }
    homepage: ClassVar[str] = "https://github.com/ieee8023/covid-chestxray-dataset"
    terms: ClassVar[str] = "every image has its own licence, stated in metadata.csv"
    layout: ClassVar[str] = "metadata.csv, images/, and lung_masks/ with the same file names"

    @classmethod
    def default_split(cls, source: Path) -> str:
        """``patient-seeded``."""
        return "patient-seeded"

    @classmethod
    def table_files(cls, source: Path, split: str) -> list[Path]:
        """The one table."""
        return [find_file(source, ("metadata.csv",), "The table of images")]

    @classmethod
    def _rows(cls, source: Path, split: str) -> pd.DataFrame:
        (path,) = cls.table_files(source, split)
        table = read_table(path, _COLUMNS)
        reject_duplicates(table["image"], path)
        wrong = ~table["has_lung_mask"].isin(list(_MASKED))
        if wrong.any():
            index = int(wrong.to_numpy().argmax())
            raise DataError(
                "Column 'has_lung_mask' holds something else.",
                where=origin(path, index),
                found=repr(table["has_lung_mask"].iloc[index]),
                allowed=", ".join(_MASKED),
            )
        findings = table["finding"].str.strip()
        masked = [_MASKED[value] for value in table["has_lung_mask"]]
        covid = [
            -1 if finding in _UNKNOWN else int(_COVID in finding.split(", ")) for finding in findings.tolist()
        ]
        return build_rows(
            sample_id=table["image"].tolist(),
            patient_id=table["patient_id"].tolist(),
            split=seeded_splits(table["patient_id"], {"train": 0.6, "val": 0.2, "test": 0.2}),
            file=[f"images/{name}" for name in table["image"]],
            view=table["view"].tolist(),
            labels={"covid": covid, "lungs": masked},
            origin=[origin(path, index) for index in range(len(table))],
            mask_file=[
                f"lung_masks/{name}" if has == 1 else ""
                for name, has in zip(table["image"], masked, strict=True)
            ],
        )
