"""The base of every data set's reader: from the publisher's tables to one row per image, no pixel read."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.data.boxes import Box, boxes_to_json
from replication.data.manifest import LABEL, validate_rows
from replication.data.split_lists import apply_lists, listed_rule
from replication.errors import ConfigError, DataError, nearest

ANNOTATION_COLUMNS = ("origin", "mask_rle", "mask_file", "report_file")
"""Columns of ``records`` that ``prepare`` consumes and the manifest does not keep."""

_IDENTIFIERS = ("sample_id", "patient_id", "study_id")
_NO_IDENTIFIER = re.compile(r"^\s*$|^[=+\-@]|[\x00-\x1f]")
_PATHS = ("file", "mask_file", "report_file")
_NO_PATH = re.compile(r"^/|(?:^|/)\.\.(?:/|$)|[\x00-\x1f]")


class DatasetReader(ABC):
    """Reads one on-disk format. Subclasses are registered as entry points and never instantiated.

    Attributes:
        name: of the data set.
        label_names: canonical findings, in the order of the label columns.
        splits: split rules by name, each with what it does.
        leaking: rules of the reader's own that, as published, put a patient into two splits.
        credentialed: whether the data may only be used under a signed agreement.
        homepage, terms, layout: where the data are, on what terms, and how the folder must look.
    """

    name: ClassVar[str]
    label_names: ClassVar[tuple[str, ...]]
    splits: ClassVar[Mapping[str, str]]
    leaking: ClassVar[frozenset[str]] = frozenset()
    credentialed: ClassVar[bool] = False
    homepage: ClassVar[str]
    terms: ClassVar[str]
    layout: ClassVar[str]

    @classmethod
    @abstractmethod
    def default_split(cls, source: Path) -> str:
        """The split rule that fits what lies in the folder."""

    @classmethod
    @abstractmethod
    def table_files(cls, source: Path, split: str) -> list[Path]:
        """The tables that ``records`` reads.

        Raises:
            DataError: one is missing.
        """

    @classmethod
    @abstractmethod
    def _rows(cls, source: Path, split: str) -> pd.DataFrame:
        """The rows as the tables state them, see ``records``."""

    @classmethod
    def check_source(cls, source: Path, split: str | None = None) -> str:
        """Check that the folder, the split rule and the tables exist; the rule's name.

        Raises:
            DataError: the folder or a table is missing.
            ConfigError: no such split rule.
        """
        if not source.is_dir():
            raise DataError(
                f"The source folder of {cls.name} is missing.",
                where=source,
                allowed=cls.layout,
                remedy=f"fetch the data from {cls.homepage}, or write a phantom (replicate data phantom)",
            )
        rule = split or cls.default_split(source)
        if rule not in cls.splits:
            raise ConfigError(
                f"Unknown split rule of {cls.name}.", found=rule, remedy=nearest(rule, cls.splits)
            )
        cls.tables(source, rule)
        return rule

    @classmethod
    def tables(cls, source: Path, split: str) -> list[Path]:
        """All tables that a split rule reads: those of its images, and the published lists it follows.

        Raises:
            DataError: a table is missing.
        """
        lists = listed_rule(cls.name, split)
        if lists is None:
            return cls.table_files(source, split)
        return [*cls.table_files(source, lists.base), *lists.require(source)]

    @classmethod
    def leaks(cls, split: str) -> bool:
        """Whether a split rule puts a patient into two splits, as published."""
        lists = listed_rule(cls.name, split)
        return split in cls.leaking or (lists is not None and lists.leaks)

    @classmethod
    def records(cls, source: Path, split: str | None = None) -> pd.DataFrame:
        """One row per image, in a fixed order, with all that needs no pixel.

        Columns: ``sample_id, patient_id, study_id, split, file, view, boxes`` and ``label:<finding>`` as in
        the manifest; ``origin`` (table and row, for errors), ``mask_rle`` (encodings joined by ``|``),
        ``mask_file`` and ``report_file`` (relative to ``source``), each ``""`` where there is none.

        Raises:
            DataError: a table is missing or wrong, a patient is in two splits, an image is missing or lies
                outside the folder, an identifier is empty or would be run by a spreadsheet.
        """
        rule = cls.check_source(source, split)
        lists = listed_rule(cls.name, rule)
        rows = cls._rows(source, lists.base if lists else rule).reset_index(drop=True)
        if rows.empty:
            raise DataError(
                "The tables name no image.",
                where=", ".join(map(str, cls.tables(source, rule))),
                remedy="fetch them again",
            )
        if lists:
            rows = apply_lists(lists, rows, source)
        _check_names(rows)
        validate_rows(rows, f"{cls.name} in {source}", leaks=cls.leaks(rule))
        _require_files(rows, source)
        return rows

    @classmethod
    def triplets(cls, source: Path) -> tuple[tuple[str, ...], NDArray[np.int8]] | None:
        """Study ids and their matrix [n, 51, 75], or ``None`` where the data set has no such annotation."""
        return None


def build_rows(
    *,
    sample_id: Sequence[str],
    patient_id: Sequence[str],
    split: Sequence[str],
    file: Sequence[str],
    labels: Mapping[str, Sequence[int] | NDArray[np.int8]],
    origin: Sequence[str],
    study_id: Sequence[str] | None = None,
    view: Sequence[str] | None = None,
    boxes: Sequence[Sequence[Box]] | None = None,
    **annotations: Sequence[str],
) -> pd.DataFrame:
    """The table of ``DatasetReader.records`` from its columns; what is left out is empty."""
    n = len(sample_id)
    empty = [""] * n
    columns: dict[str, Any] = {
        "sample_id": sample_id,
        "patient_id": patient_id,
        "study_id": sample_id if study_id is None else study_id,
        "split": split,
        "file": file,
        "view": empty if view is None else view,
        "boxes": ["[]"] * n if boxes is None else [boxes_to_json(some) for some in boxes],
        "origin": origin,
    }
    for name in ANNOTATION_COLUMNS[1:]:
        columns[name] = annotations.get(name, empty)
    table = pd.DataFrame({name: pd.Series(list(values), dtype="str") for name, values in columns.items()})
    for finding, values in labels.items():
        table[LABEL + finding] = np.asarray(values, dtype=np.int8)
    return table


def _check_names(rows: pd.DataFrame) -> None:
    """Identifiers go into tables that people open, paths are opened here: neither may do anything else."""
    for columns, wrong, problem, allowed in (
        (
            _IDENTIFIERS,
            _NO_IDENTIFIER,
            "An identifier is not usable",
            "text that begins with none of = + - @",
        ),
        (_PATHS, _NO_PATH, "A path leaves the folder of the data set", "a path below it, without '..'"),
    ):
        for column in columns:
            bad = rows[column].str.contains(wrong)
            if bad.any():
                row = rows.loc[bad].iloc[0]
                raise DataError(
                    f"{problem} ({column}).",
                    where=row["origin"],
                    found=repr(row[column]),
                    allowed=allowed,
                    remedy="correct the row of the table",
                )


def _require_files(rows: pd.DataFrame, source: Path) -> None:
    for column in ("file", "mask_file", "report_file"):
        names = rows[column].to_numpy()
        # Not Path.is_file: that raises where a name is too long for the file system.
        missing = [k for k, name in enumerate(names) if name and not os.path.isfile(source / name)]  # noqa: PTH113
        if missing:
            raise DataError(
                f"{len(missing)} of {len(names)} files that a table names are missing"
                f" ({column.replace('_', ' ')}).",
                where=rows["origin"].iloc[missing[0]],
                found=", ".join(str(source / names[k]) for k in missing[:3]),
                remedy="fetch the missing files, or remove their rows from the table",
            )
