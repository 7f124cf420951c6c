"""Typed tables: a cell knows its value, its uncertainty and the rows it came from.

A table is built once and written in several formats (``replication.reporting.writers``), all of which
print the strings that this module formats, so a number reads the same everywhere.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from replication.errors import DataError

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A measured quantity.

    Attributes:
        name: what is measured, e.g. ``AUC``.
        group: heading shared by neighbouring columns, e.g. a data set; ``""`` for none.
        higher_is_better: direction; ``None`` where neither end is better, and nothing is set in bold.
        unit: printed after the name, e.g. ``"%"``; ``""`` for a share of 1.
        decimals: of every number printed in the column.
        protocol: id of the protocol it is measured under, ``""`` where there is none.
        reference: a bound that does not compete for bold, where methods are columns.
        p_value: whether numbers too small for ``decimals`` are printed as less than the smallest of these.
    """

    name: str
    group: str = ""
    higher_is_better: bool | None = True
    unit: str = ""
    decimals: int = 3
    protocol: str = ""
    reference: bool = False
    p_value: bool = False

    @property
    def heading(self) -> str:
        """``AUC ↑``, ``time (ms) ↓``."""
        unit = f" ({self.unit})" if self.unit else ""
        arrow = {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]
        return f"{self.name}{unit}{arrow}"


@dataclass(frozen=True)
class Cell:
    """One number with what it rests on.

    Attributes:
        value: the number at full precision; ``None`` where it was not measured.
        lower, upper: ends of the 95 % interval.
        spread: sample standard deviation over seeds; ``None`` for fewer than two seeds.
        n_seeds: how many seeds ``value`` is the mean of.
        rows: keys of the rows it was made from. runs: ids of their runs.
        higher_is_better: direction of the metric, as the rows state it.
        missing: why there is no value; required when ``value`` is ``None``.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    spread: float | None = None
    n_seeds: int = 0
    rows: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    higher_is_better: bool | None = None
    missing: str = ""

    def __post_init__(self) -> None:
        numbers = (self.value, self.lower, self.upper, self.spread)
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise ValueError(f"A cell holds finite numbers or None, got {numbers} from rows {self.rows}.")
        if self.value is None and not self.missing:
            raise ValueError("A cell without a value says why in 'missing'.")

    @classmethod
    def absent(cls, reason: str) -> Cell:
        """A cell that was not measured, and why."""
        return cls(value=None, missing=reason)

    def estimate(self, decimals: int) -> str:
        """``0.812``, with `` ± 0.010`` where the spread over seeds is known; a dash where missing."""
        if self.value is None:
            return MISSING
        spread = "" if self.spread is None else f" ± {self.spread:.{decimals}f}"
        return fixed(self.value, decimals) + spread

    def interval(self, decimals: int) -> str:
        """``[0.801, 0.823]``, empty where there is none."""
        if self.value is None or self.lower is None or self.upper is None:
            return ""
        return f"[{fixed(self.lower, decimals)}, {fixed(self.upper, decimals)}]"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        labels: one text per label column of the table.
        cells: one per column of the table.
        reference: a bound or a baseline without language; shown, but it does not compete for bold.
        block: rows of one block are compared with each other, and set apart from the next block.
    """

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    reference: bool = False
    block: str = ""


@dataclass(frozen=True)
class Header:
    """What must be known to read a table; printed with it in every format.

    Attributes:
        protocols: data set, split and size of each protocol.
        selection: which weights of a run were evaluated.
        thresholds: where the thresholds of F1, accuracy or masks come from.
        error_bars: what the interval and the spread cover.
        data: the sentence that says the data are a phantom; ``""`` for data from patients.
    """

    protocols: str
    selection: str
    thresholds: str
    error_bars: str
    data: str

    def lines(self) -> list[tuple[str, str]]:
        """Titles and texts of those that are not empty, the sentence about the data first."""
        titles = {
            "Data": self.data,
            "Protocol": self.protocols,
            "Weights": self.selection,
            "Thresholds": self.thresholds,
            "Error bars": self.error_bars,
        }
        return [(title, text) for title, text in titles.items() if text]


@dataclass(frozen=True)
class Table:
    """A named table.

    Attributes:
        name: stem of its files, e.g. ``zero_shot_classification``.
        title: a few words. caption: what it shows and how to read it.
        label_names: headings of the label columns, e.g. ``("Method", "Recipe")``.
        columns, rows: the body; every row has ``len(columns)`` cells.
        header: protocol, selection, thresholds, error bars, data.
        notes: remarks below the body.
        best_of: whether methods are rows, so that the best of a ``column`` is bold, or columns (``row``).
        named_by: how many of the label columns name a row in remarks; 0 takes all.
        provenance: see ``replication.reporting.provenance``.
    """

    name: str
    title: str
    caption: str
    label_names: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    header: Header
    notes: tuple[str, ...] = ()
    best_of: Literal["column", "row"] = "column"
    named_by: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.labels) != len(self.label_names) or len(row.cells) != len(self.columns):
                raise ValueError(f"Row {row.labels} of table {self.name} does not fit its columns.")

    def groups(self) -> list[tuple[str, int]]:
        """Headings of neighbouring columns with the number of columns each spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans

    def best(self) -> frozenset[tuple[int, int]]:
        """(row, column) of the best printed values; all that tie are best, unless that is everybody."""
        contests: dict[object, dict[tuple[int, int], float]] = {}
        for i, row in enumerate(self.rows):
            for j, (column, cell) in enumerate(zip(self.columns, row.cells, strict=True)):
                if cell.value is None or column.higher_is_better is None or row.reference or column.reference:
                    continue
                value = float(fixed(cell.value, column.decimals))
                contest = (row.block, j) if self.best_of == "column" else i
                contests.setdefault(contest, {})[i, j] = value if column.higher_is_better else -value
        return frozenset(
            place
            for entrants in contests.values()
            if len(set(entrants.values())) > 1
            for place, value in entrants.items()
            if value == max(entrants.values())
        )

    def missing(self) -> tuple[str, ...]:
        """One sentence per reason that left cells empty, with the rows and columns it holds for."""
        gaps: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            reasons: dict[str, list[str]] = {}
            for column, cell in zip(self.columns, row.cells, strict=True):
                if cell.value is None:
                    name = f"{column.group} {column.name}".strip()
                    reasons.setdefault(cell.missing, []).append(name)
            label = self.name_of(row)
            for reason, names in reasons.items():
                what = "all columns" if len(names) == len(self.columns) > 1 else ", ".join(names)
                gaps.setdefault((what, reason), []).append(label)
        everywhere = len(self.rows) if len(self.rows) > 1 else 0
        return tuple(
            f"Missing for {'all rows' if len(labels) == everywhere else '; '.join(dict.fromkeys(labels))}: "
            f"{what} ({reason})."
            for (what, reason), labels in gaps.items()
        )

    def name_of(self, row: Row) -> str:
        """What remarks call a row."""
        return ", ".join(text for text in row.labels[: self.named_by or None] if text)

    def remarks(self) -> list[str]:
        """What is printed below the body: the notes, then what is missing."""
        empty = [] if self.rows else ["This table has no rows: nothing of what it shows has been measured."]
        bold = f"Bold: the best printed value of a {self.best_of}, ties included; bounds do not compete."
        return [*([bold] if self.best() else []), *self.notes, *empty, *self.fewer_seeds(), *self.missing()]

    def fewer_seeds(self) -> list[str]:
        """Rows that rest on fewer seeds than the best-covered cell; published numbers rest on none."""
        most = max((cell.n_seeds for row in self.rows for cell in row.cells), default=0)
        found = []
        for row in self.rows:
            counts = {
                cell.n_seeds for cell in row.cells if cell.value is not None and 0 < cell.n_seeds < most
            }
            if counts:
                found.append(f"{self.name_of(row)} rests on {min(counts)} of {most} seeds.")
        return found

    def to_json(self) -> str:
        """The whole table; keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> Table:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: the file is no table.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                **{
                    **values,
                    "label_names": tuple(values["label_names"]),
                    "columns": tuple(Column(**column) for column in values["columns"]),
                    "rows": tuple(_row(row) for row in values["rows"]),
                    "header": Header(**values["header"]),
                    "notes": tuple(values["notes"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                "Not a table of this suite.", where=path, found=error, remedy="run `replicate report` again"
            ) from error


def _row(values: dict[str, Any]) -> Row:
    cells = tuple(
        Cell(**{**cell, "rows": tuple(cell["rows"]), "runs": tuple(cell["runs"])}) for cell in values["cells"]
    )
    return Row(tuple(values["labels"]), cells, values["reference"], values["block"])


def fixed(value: float | None, decimals: int) -> str:
    """A number with a fixed count of decimals and never ``-0.000``."""
    if value is None:
        return MISSING
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def printed(cell: Cell, column: Column) -> tuple[str, str]:
    """The two lines of a printed cell: estimate, interval (maybe empty)."""
    smallest = 10**-column.decimals
    if column.p_value and cell.value is not None and cell.value < smallest:
        return f"<{smallest:.{column.decimals}f}", ""
    return cell.estimate(column.decimals), cell.interval(column.decimals)


def list_of(names: Sequence[str], limit: int = 8) -> str:
    """``a, b and 3 more``."""
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[: limit - 1])} and {len(names) - limit + 1} more"
