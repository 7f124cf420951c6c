"""The ledger of published numbers: typed, checked, each tied to a protocol or to reasons why not."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from replication.config_files import CONFIGS, Strict, parse, read_yaml
from replication.errors import DataError, nearest
from replication.protocol_config import Protocol, load_protocol, protocol_ids

LEDGER = Path(__file__).resolve().parents[1] / "published"
"""The CSV files of the ledger, and ``comparability.yaml``."""

UNKNOWN = "unknown"
"""The protocol of a number that none of the suite's protocols describes."""

TASKS: Mapping[str, str] = {
    "zero_shot_classification": "zero-shot classification",
    "zero_shot_grounding": "zero-shot grounding",
    "finetune_classification": "fine-tuned classification",
    "linear_probe": "linear probe",
    "finetune_segmentation": "fine-tuned segmentation",
    "finetune_segmentation_frozen": "segmentation, encoder frozen",
    "retrieval": "retrieval",
    "detection": "detection",
    "report_generation": "report generation",
}
"""Tasks that a number may be of -> how they are printed. The last two are not tasks of the suite."""

METRICS: Mapping[str, str] = {
    "auc": "AUC",
    "f1": "F1",
    "accuracy": "ACC",
    "pointing_game": "Pointing",
    "pixel_auc": "Pixel AUC",
    "iou": "IoU",
    "dice": "Dice",
    "recall": "Recall",
    "precision": "Precision",
    "mdice": "mDice",
    "map": "mAP",
    "hit_at_1": "Hit@1",
    "hit_at_5": "Hit@5",
    "hit_at_10": "Hit@10",
    "precision_at_1": "P@1",
    "precision_at_5": "P@5",
    "precision_at_10": "P@10",
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
}
"""Metrics -> how they are printed; all are shares of 1 in the ledger, and higher is better."""

UNITS: Mapping[str, float] = {"fraction": 1.0, "percent": 0.01}

COLUMNS = (
    "method",
    "name",
    "task",
    "dataset",
    "protocol",
    "source_protocol",
    "finding",
    "label_fraction",
    "metric",
    "value",
    "printed",
    "unit",
    "spread",
    "caveats",
    "source",
)
"""Of every CSV file of the ledger, in this order."""


class Reason(Strict):
    """Why a number cannot be set beside the suite's: in a few words, and in sentences."""

    short: str
    text: str


class Comparability(Strict):
    """``comparability.yaml``.

    Attributes:
        reasons: by the key that lines of the ledger name.
        remarks: sentences on the numbers that do have a protocol.
        left_out: what is not in the ledger, and why.
    """

    version: Literal[1]
    reasons: dict[str, Reason]
    remarks: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class PublishedNumber:
    """One line of the ledger.

    Attributes:
        method: our name of the method, ``""`` for one outside the suite. name: as the source writes it.
        dataset: our name where the suite has the data set.
        protocol: id of the protocol it agrees with, or ``unknown``.
        source_protocol: what the source says of its own protocol.
        finding: of the protocol, or ``mean`` over them.
        label_fraction: share of the labels that was trained on, 0 for zero-shot; ``None`` where not stated.
        value: as a share of 1. printed, unit: as the source prints it.
        spread: standard deviation that the source states, as a share of 1; ``None`` where it states none.
        caveats: keys of the reasons why there is no protocol. source: where the number was read.
        file: stem of the ledger's file, which says who reports: papers, authors' repositories, users, BenchX.
    """

    method: str
    name: str
    task: str
    dataset: str
    protocol: str
    source_protocol: str
    finding: str
    label_fraction: float | None
    metric: str
    value: float
    printed: str
    unit: str
    spread: float | None
    caveats: tuple[str, ...]
    source: str
    file: str

    @property
    def subject(self) -> str:
        """Our name of the method, or the source's for one outside the suite."""
        return self.method or self.name

    @property
    def quantity(self) -> tuple[str, str, str, str, float | None, str]:
        """What the number is of, whatever the protocol."""
        return self.method, self.task, self.dataset, self.finding, self.label_fraction, self.metric


@dataclass(frozen=True)
class Ledger:
    """All published numbers, in the order of the files, with the reasons they refer to."""

    numbers: tuple[PublishedNumber, ...]
    comparability: Comparability

    @property
    def with_protocol(self) -> tuple[PublishedNumber, ...]:
        """Those that agree with a protocol of the suite."""
        return tuple(number for number in self.numbers if number.protocol != UNKNOWN)

    @property
    def without_protocol(self) -> tuple[PublishedNumber, ...]:
        """The others."""
        return tuple(number for number in self.numbers if number.protocol == UNKNOWN)

    def why(self, number: PublishedNumber) -> str:
        """Its reasons in a few words each."""
        return "; ".join(self.comparability.reasons[key].short for key in number.caveats)


def read_ledger(folder: Path = LEDGER) -> Ledger:
    """Read and check every CSV file of a folder, and its ``comparability.yaml``.

    Raises:
        ConfigError: the YAML is missing or has an unknown key.
        DataError: names file, row and column of the first line that is not as it must be: without source,
            with an unknown metric, task, unit, method, protocol or reason, out of range, or twice.
    """
    path = folder / "comparability.yaml"
    comparability = parse(Comparability, read_yaml(path), path)
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise DataError("The ledger of published numbers is empty.", where=folder, allowed="CSV files")
    protocols = {protocol_id: load_protocol(protocol_id) for protocol_id in protocol_ids()}
    known = _Known(suite_methods(), protocols, tuple(comparability.reasons))
    seen: dict[tuple[object, ...], str] = {}
    numbers: list[PublishedNumber] = []
    for file in files:
        for line, values in _lines(file):
            number = _Line(file, line, values, known).number()
            key = (*number.quantity, number.name, number.protocol, number.source_protocol, number.source)
            if key in seen:
                raise DataError(
                    "A number is in the ledger twice.",
                    where=f"{file}, row {line}",
                    found=f"{number.name}, {number.metric} of {number.source}; first in {seen[key]}",
                    allowed="one line per number",
                    remedy="remove one of the two lines, or say in source_protocol how they differ",
                )
            seen[key] = f"{file.name}, row {line}"
            numbers.append(number)
    return Ledger(tuple(numbers), comparability)


def _lines(file: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """Row number in the file and values by column."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError("The file cannot be read as CSV.", where=file, found=error) from error
    header = tuple(rows[0]) if rows else ()
    if header != COLUMNS:
        raise DataError(
            "The columns are not those of the ledger.",
            where=f"{file}, row 1",
            found=", ".join(header),
            allowed=", ".join(COLUMNS),
            remedy="name the columns so, in this order",
        )
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(COLUMNS):
            raise DataError(
                "A row has too few or too many fields.",
                where=f"{file}, row {line}",
                found=len(row),
                allowed=len(COLUMNS),
                remedy="put fields with commas into quotation marks",
            )
        yield line, {name: value.strip() for name, value in zip(COLUMNS, row, strict=True)}


class _Known(NamedTuple):
    """What lines may refer to."""

    methods: tuple[str, ...]
    protocols: Mapping[str, Protocol]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """A row of a file, on its way to a number."""

    file: Path
    line: int
    values: Mapping[str, str]
    known: _Known

    def number(self) -> PublishedNumber:
        for key in ("source", "name", "dataset", "source_protocol", "finding"):
            if not self.values[key]:
                raise self._error(key, f"A published number lacks its {key}.", "a text")
        if self.values["method"]:
            self._one_of("method", self.known.methods)
        for key, allowed in (("task", TASKS), ("metric", METRICS), ("unit", UNITS)):
            self._one_of(key, allowed)
        self._one_of("protocol", (UNKNOWN, *self.known.protocols))
        caveats = tuple(key for key in self.values["caveats"].split(";") if key)
        for key in caveats:
            self._one_of("caveats", self.known.reasons, key)
        self._check_protocol(caveats)
        return PublishedNumber(
            **{
                **self.values,
                "label_fraction": self._fraction(),
                "value": self._value(),
                "spread": self._share("spread") if self.values["spread"] else None,
                "caveats": caveats,
                "file": self.file.stem,
            }  # type: ignore[arg-type]
        )

    def _check_protocol(self, caveats: tuple[str, ...]) -> None:
        if self.values["protocol"] == UNKNOWN:
            if not caveats:
                raise self._error("caveats", "A number without protocol says why.", "reasons joined by ;")
            return
        if caveats:
            raise self._error("caveats", "A number that agrees with a protocol has no caveats.", "nothing")
        protocol = self.known.protocols[self.values["protocol"]]
        self._one_of("dataset", (protocol.dataset,))
        self._one_of("task", protocol.tasks)
        self._one_of("finding", findings_of(protocol))

    def _value(self) -> float:
        value = self._share("value")
        try:
            printed = float(self.values["printed"]) * UNITS[self.values["unit"]]
        except ValueError as error:
            raise self._error("printed", "The printed value is not a number.", "as printed") from error
        if not math.isclose(value, printed, abs_tol=1e-9):
            raise self._error("value", "The value is not the printed one in its unit.", f"{printed:g}")
        return value

    def _fraction(self) -> float | None:
        if not self.values["label_fraction"]:
            return None
        fraction = self._share("label_fraction")
        if self.values["task"].startswith("zero_shot") and fraction:
            raise self._error("label_fraction", "Zero-shot tasks train on no labels.", 0)
        return fraction

    def _share(self, key: str) -> float:
        try:
            number = float(self.values[key])
        except ValueError as error:
            raise self._error(key, "Not a number.", "0 to 1") from error
        if not 0 <= number <= 1:
            raise self._error(key, "A value is out of range.", "0 to 1, a share of 1 and not percent")
        return number

    def _one_of(self, key: str, allowed: Iterable[str], found: str | None = None) -> None:
        text = self.values[key] if found is None else found
        if text not in allowed:
            raise self._error(key, f"Unknown {key}.", ", ".join(allowed), nearest(text, allowed), text)

    def _error(
        self, key: str, problem: str, allowed: object, remedy: str | None = None, found: str | None = None
    ) -> DataError:
        text: Any = self.values[key] if found is None else found
        return DataError(
            problem,
            where=f"{self.file}, row {self.line}, column {key}",
            found=repr(text),
            allowed=allowed,
            remedy=remedy or "correct the line, or remove it: a number that cannot be checked is not shown",
        )


def suite_methods() -> tuple[str, ...]:
    """The methods of the suite by their stems, installed or not."""
    return tuple(sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml")))


def findings_of(protocol: Protocol) -> tuple[str, ...]:
    """What a number of a protocol may be of: a finding, or the mean where there are several."""
    names = tuple(finding.name for finding in protocol.findings)
    return (*names, "mean") if len(names) > 1 else names
