"""What a folder is prepared from and how, and the digest that tells whether any of it has changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from replication.data.manifest import label_names
from replication.data.readers import DatasetReader
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES

FORMAT = 2
"""Raised when the same inputs would give another prepared folder."""

_CELLS = len(ANATOMIES) * len(PATHOLOGIES)


class Plan(NamedTuple):
    """What a folder is prepared from and how.

    Attributes:
        split: a rule of the reader.
        size: side of the cached images in pixels.
        quarantine: share (0..1) of the images that may be damaged.
        records: of the reader, see ``DatasetReader.records``.
    """

    reader: type[DatasetReader]
    source: Path
    split: str
    size: int
    equalize: bool
    quarantine: float
    records: pd.DataFrame

    @property
    def tolerated(self) -> int:
        """Number of images that may be damaged."""
        return int(self.quarantine * len(self.records))

    def settings(self) -> dict[str, Any]:
        """Everything but the files that decides the content of the folder."""
        return {
            "format": FORMAT,
            "dataset": self.reader.name,
            "split": self.split,
            "size": self.size,
            "equalize": self.equalize,
            "labels": list(label_names(self.records)),
        }

    def inputs(self) -> str:
        """A digest of settings, tables, and size and time of every file: changes when anything may differ."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode())
        for table in self.reader.tables(self.source, self.split):
            with table.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(self.records.drop(columns="origin").to_csv(index=False).encode())
        for column in ("file", "mask_file", "report_file"):
            for name in self.records[column]:
                if name:
                    state = (self.source / name).stat()
                    digest.update(f"{name}|{state.st_size}|{state.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def bytes_needed(self) -> int:
        """Bytes that the folder will take, with a little to spare."""
        masks = ((self.records["mask_rle"] != "") | (self.records["mask_file"] != "")).sum()
        studies = self.records["study_id"].nunique() if (self.records["report_file"] != "").any() else 0
        return cache_bytes(len(self.records), int(masks), studies, self.size)


def cache_bytes(images: int, masks: int, studies: int, size: int) -> int:
    """Bytes of a prepared folder, with a little to spare.

    Args:
        studies: with a report and its triplets. size: side of the cached images in pixels.
    """
    pixels = (images + masks) * size**2
    return int(1.02 * (pixels + studies * (_CELLS + 2000) + images * 400)) + 2**20
