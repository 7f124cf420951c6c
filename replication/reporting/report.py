"""What the notebooks of a tier work with: its rows, its methods in order, and where results are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from replication.errors import DataError
from replication.protocol_config import Protocol, load_protocol
from replication.records import ROW_SCHEMA, read_json, read_rows, row_name
from replication.reporting import provenance
from replication.reporting.figures import Caption, registered_methods, save_figure
from replication.reporting.tables import Header, Row, Table
from replication.reporting.writers import write_table
from replication.tier_config import TierConfig, load_tier

PHANTOM_SENTENCE = (
    "Measured on generated phantom radiographs, not on patients; it compares methods under controlled "
    "conditions and says nothing about their accuracy on real chest X-rays."
)
"""Printed with every table and figure made from generated data."""

FURTHER_SENTENCE = (
    "The weights were trained on generated phantom radiographs, not on patients; the test images are not "
    "part of the tier but were provided by whoever ran it."
)
"""Printed instead where phantom-trained weights were evaluated on other data."""

REFERENCE_SUPERVISION = ("labels", "none")
"""Methods that learn without language: bounds to compare with, not competitors."""

_TITLES = {
    "nih-cxr14": "NIH ChestX-ray14",
    "rsna-pneumonia": "RSNA Pneumonia",
    "siim-acr": "SIIM-ACR",
    "covidx-cxr4": "COVIDx CXR-4",
    "covid-chestxray": "COVID-19 image collection",
    "mimic-cxr": "MIMIC-CXR",
}
_SELECTION = {
    "last": "last epoch of each run",
    "best_val": "epoch of lowest validation loss of each run; never chosen on test data",
}
_SCALING = ("image_range", "each map scaled to its own range")


@dataclass(frozen=True, order=True)
class Entry:
    """A line of the comparison: one method or variant under one recipe.

    Attributes:
        position: place in every table and legend; language methods first, references last.
        label: ``medslip`` or ``medslip/no-protocl``.
        recipe: ``published`` or ``matched``.
        supervision: what it learns from; ``""`` where no row says.
    """

    position: tuple[int, ...]
    label: str
    recipe: str
    supervision: str

    @property
    def reference(self) -> bool:
        """Whether it is a bound rather than a competitor."""
        return self.supervision in REFERENCE_SUPERVISION

    @property
    def labels(self) -> tuple[str, str, str]:
        """Texts of the label columns of a table: method, recipe, supervision."""
        return self.label, self.recipe, self.supervision or "unknown"


LABEL_NAMES = ("Method", "Recipe", "Supervision")


@dataclass(frozen=True)
class Report:
    """The measured rows of a tier with everything tables and figures need around them.

    Attributes:
        tier: the tier's configuration.
        rows: ``rows.parquet`` with a column ``label`` (``medslip/no-protocl``); may be empty.
        results: folder of the tier's results. work: its work folder.
    """

    tier: TierConfig
    rows: pd.DataFrame
    results: Path
    work: Path

    @classmethod
    def open(cls, tier: str, results: str | Path, work: str | Path, *, rows_needed: bool = True) -> Report:
        """Read a tier's rows; without ``rows_needed`` there may be none.

        Raises:
            ConfigError: no such tier.
            DataError: ``rows.parquet`` is missing, damaged or of another version.
        """
        path = Path(results) / "rows.parquet"
        if not path.is_file() and rows_needed:
            raise DataError(
                "No rows have been measured.", where=path, remedy=f"run `replicate run --tier {tier}`"
            )
        rows = read_rows(path) if path.is_file() else ROW_SCHEMA.empty_table().to_pandas()
        plain = rows["variant"].isin(["default", ""])
        label = rows["method"].where(plain, rows["method"] + "/" + rows["variant"].astype(str))
        return cls(load_tier(tier), rows.assign(label=label), Path(results), Path(work))

    @property
    def phantom(self) -> bool:
        """Whether the tier's data are generated."""
        return self.tier.phantom is not None

    @property
    def data_sentence(self) -> str:
        """The sentence about the phantom, or ``""`` for data from patients."""
        return PHANTOM_SENTENCE if self.phantom else ""

    def select(self, **wanted: Any) -> pd.DataFrame:
        """Rows whose columns have the given value, or one of the given list's values."""
        chosen = self.rows
        for column, value in wanted.items():
            values = value if isinstance(value, (list, tuple)) else [value]
            chosen = chosen[chosen[column].isin(values)]
        return chosen

    def entries(self, *, variants: bool = False) -> list[Entry]:
        """Every method the tier asks for and every one it has rows of, in table order.

        Args:
            variants: whether variants are among them; they have tables of their own (ablations, audit).
        """
        asked = [(label, self.tier.recipe) for label in (*self.tier.methods, *self.tier.variants)]
        found = list(zip(self.rows["label"], self.rows["recipe"], strict=True))
        supervision = dict(zip(self.rows["label"], self.rows["supervision"], strict=True))
        order = [*self.tier.methods, *registered_methods()]
        entries = set()
        for label, recipe in {*asked, *found}:
            method = label.partition("/")[0]
            if label != method and not variants:
                continue
            known = supervision.get(label, "")
            place = order.index(method) if method in order else len(order)
            position = (int(known in REFERENCE_SUPERVISION), place, int(label != method))
            entries.add(Entry(position, label, recipe, known))
        return sorted(entries)

    def protocols(self, task: str) -> list[Protocol]:
        """The tier's protocols of a task, in the tier's order."""
        loaded = [load_protocol(protocol_id) for protocol_id in self.tier.protocols]
        return [protocol for protocol in loaded if task in protocol.tasks]

    def further_protocols(self, task: str) -> list[Protocol]:
        """Protocols outside the tier that rows were measured under, on data that somebody provided."""
        measured = set(self.rows.loc[self.rows["task"] == task, "protocol"])
        return [load_protocol(protocol_id) for protocol_id in sorted(measured - set(self.tier.protocols))]

    def behind(self, lines: Sequence[Row]) -> pd.DataFrame:
        """The rows that a table's lines rest on; all of a run's where a cell names the run alone."""
        cells = [cell for line in lines for cell in line.cells]
        names = {name for cell in cells for name in cell.rows}
        runs = {run for cell in cells if not cell.rows for run in cell.runs}
        chosen = self._row_names.isin(list(names)) | self.rows["run_id"].isin(list(runs))
        return self.rows[chosen]

    @cached_property
    def _row_names(self) -> pd.Series:
        identity = self.rows[["run_id", "task", "protocol", "label_fraction", "finding", "metric"]]
        names = [row_name(*row) for row in identity.itertuples(index=False, name=None)]
        return pd.Series(names, index=self.rows.index, dtype="str")

    def header(
        self, rows: pd.DataFrame, protocols: Sequence[Protocol], error_bars: str, images: str = "test images"
    ) -> Header:
        """The facts printed with a table.

        Args:
            rows: what the table is made from. protocols: what it was measured under.
            error_bars: what the intervals cover. images: what is counted.
        """
        return Header(
            protocols="; ".join(describe(protocol, rows, images) for protocol in protocols),
            selection=by_method(rows, "selection", _selection_words(rows)),
            thresholds=by_method(rows, "threshold_rule", {}).replace(*_SCALING),
            error_bars=error_bars,
            data=self.sentence_about(protocols),
        )

    def sentence_about(self, protocols: Sequence[Protocol]) -> str:
        """What a reader must know of the data of some protocols; ``""`` for the tier's data from patients."""
        if self.phantom and any(protocol.id not in self.tier.protocols for protocol in protocols):
            return FURTHER_SENTENCE
        return self.data_sentence

    def run_folders(self) -> dict[str, Path]:
        """Folder of every run in the work folder that has rows, by run id."""
        wanted = set(self.rows["run_id"])
        found = {}
        for path in sorted((self.work / "runs").glob("*/config.json")):
            # The id is the hash of the canonical JSON, so configurations of other versions do no harm.
            canonical = json.dumps(read_json(path), sort_keys=True, separators=(",", ":"))
            run_id = hashlib.sha256(canonical.encode()).hexdigest()[:12]
            if run_id in wanted:
                found[run_id] = path.parent
        return found

    def save_table(self, table: Table, rows: pd.DataFrame | None = None) -> Table:
        """Write the table in all formats with its provenance; returns it as written.

        Args:
            rows: what it rests on, if that is more than the rows behind its cells.
        """
        table = replace(table, provenance=self.provenance(self.behind(table.rows) if rows is None else rows))
        write_table(table, self.results / "tables")
        return table

    def save_figure(
        self, figure: Figure, name: str, title: str, text: str, rows: pd.DataFrame, **extra: Any
    ) -> Path:
        """Write the figure as PNG and PDF with the provenance of its rows; returns the PNG's path."""
        caption = Caption(title, text, self.data_sentence)
        record = self.provenance(rows, **extra)
        return save_figure(figure, self.results / "figures", name, record, caption)[0]

    def provenance(self, rows: pd.DataFrame, **extra: Any) -> dict[str, Any]:
        """See ``replication.reporting.provenance.collect``."""
        return provenance.collect(rows, tier=self.tier.name, phantom=self.phantom, **extra)


def first_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each method's lowest seed, which stands for it in pictures of single images."""
    return rows[rows["seed"] == rows.groupby(["label", "recipe"])["seed"].transform("min")]


def describe(protocol: Protocol, rows: pd.DataFrame, images: str = "test images") -> str:
    """``nih-cxr14/official-25596/v1: split 'official', 25,596 test images, 14 findings``."""
    findings = len(protocol.findings)
    parts = [f"split {protocol.split!r}"]
    sizes = rows.loc[rows["protocol"] == protocol.id, "n"]
    if len(sizes):
        parts.append(f"{int(sizes.max()):,} {images}")
    if findings:
        parts.append(f"{findings} finding{'s' if findings != 1 else ''}")
    return f"{protocol.id}: {', '.join(parts)}"


def by_method(rows: pd.DataFrame, column: str, words: dict[str, str]) -> str:
    """The rules of a column; followed by the methods they hold for where methods differ.

    ``last epoch (convirt, medklip); best epoch (medslip)``.
    """
    labels: dict[str, set[str]] = {}
    for rule, label in rows[[column, "label"]].drop_duplicates().itertuples(index=False):
        if rule:
            labels.setdefault(words.get(rule, rule), set()).add(label)
    if all(names == set(rows["label"]) for names in labels.values()):
        return "; ".join(sorted(labels))
    return "; ".join(f"{rule} ({', '.join(sorted(names))})" for rule, names in sorted(labels.items()))


def _selection_words(rows: pd.DataFrame) -> dict[str, str]:
    """What the rows' selections mean; a task that learns from labels chooses twice."""
    words = {}
    for rule in rows["selection"].unique():
        weights, _, then = str(rule).partition("; ")
        words[str(rule)] = _SELECTION.get(weights, weights) + (f"; then {then}" if then else "")
    return words


def titled(dataset: str) -> str:
    """A data set's name as readers know it."""
    return _TITLES.get(dataset, dataset)
