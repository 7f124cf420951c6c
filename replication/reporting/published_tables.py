"""Tables of published numbers: beside ours where the protocols agree, with the reason where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from replication.protocol_config import Protocol, load_protocol
from replication.reporting.published import (
    METRICS,
    TASKS,
    Ledger,
    PublishedNumber,
    findings_of,
    suite_methods,
)
from replication.reporting.report import Entry, Report, describe, titled
from replication.reporting.summary import MEAN, Summariser
from replication.reporting.tables import Cell, Column, Header, Row, Table

NOT_ON_RECORD = "no published number under this protocol is on record"
ON_A_PHANTOM = (
    "not comparable: phantom; this tier's radiographs are generated, the published number's are not"
)

_COLUMNS = (
    Column("Published", "Same protocol", None),
    Column("Measured here", "Same protocol", None),
    Column("Measured − published", "Same protocol", None),
    Column("Lowest", "Published under other protocols", None),
    Column("Highest", "Published under other protocols", None),
)
_OTHER_DATASETS = {
    "covidx": "COVIDx",
    "covidx-cxr2": "COVIDx CXR-2",
    "covidx-cxr3": "COVIDx CXR-3",
}


def published_vs_measured_table(report: Report, ledger: Ledger) -> Table:
    """``published_vs_measured``: every published number that has a protocol of the suite, beside ours.

    All methods of the tier have a line under each of these protocols, published or not; methods outside the
    suite follow.
    """
    settings = dict.fromkeys(
        (number.protocol, number.task, number.metric, number.label_fraction)
        for number in ledger.with_protocol
    )
    rows: list[Row] = []
    used: dict[str, Protocol] = {}
    summarisers: dict[float | None, Summariser] = {}
    for protocol_id, task, metric, fraction in sorted(settings, key=str):
        protocol = used.setdefault(protocol_id, load_protocol(protocol_id))
        if fraction not in summarisers:
            of_fraction = report.rows[report.rows["label_fraction"] == (fraction or 0.0)]
            summarisers[fraction] = Summariser(replace(report, rows=of_fraction))
        lines = _Lines(report, ledger, summarisers[fraction], protocol, task, metric, fraction)
        rows += lines.rows()
    found = report.select(protocol=list(used)) if not report.phantom else report.rows[:0]
    bars = "; ".join(dict.fromkeys(filter(None, (s.error_bars() for s in summarisers.values()))))
    return Table(
        name="published_vs_measured",
        title="Published numbers beside ours",
        caption=(
            "A published number stands beside one measured here only where both have the same protocol: data "
            "set, test list, label mapping, preprocessing and metric rule. The last two columns show how far "
            "the numbers lie apart that were published for the same method, data set and metric under other "
            "protocols. All numbers are shares of 1; published ones were read in their sources, not re-run."
        ),
        label_names=("Method", "Data", "Quantity", "Source", "Protocol"),
        columns=_COLUMNS,
        rows=tuple(rows),
        header=Header(
            protocols="; ".join(describe(protocol, found) for protocol in used.values()),
            selection=report.header(found, [], "").selection,
            thresholds="",
            error_bars=bars,
            data=_about_data(report),
        ),
        notes=(*ledger.comparability.remarks, *_census(ledger)),
        named_by=2,
    )


class _Lines:
    """The lines of one protocol, task, metric and label fraction."""

    def __init__(
        self,
        report: Report,
        ledger: Ledger,
        summariser: Summariser,
        protocol: Protocol,
        task: str,
        metric: str,
        fraction: float | None,
    ) -> None:
        self.report = report
        self.summariser = summariser
        self.protocol, self.task, self.metric, self.fraction = protocol, task, metric, fraction
        self.published = [n for n in ledger.with_protocol if n.protocol == protocol.id and self._is_ours(n)]
        self.elsewhere = [n for n in ledger.without_protocol if self._is_ours(n)]

    def _is_ours(self, number: PublishedNumber) -> bool:
        own = (self.protocol.dataset, self.task, self.metric, self.fraction)
        return (number.dataset, number.task, number.metric, number.label_fraction) == own

    def rows(self) -> list[Row]:
        """Finding by finding, the mean first, methods in the order of all tables."""
        rows = []
        findings = findings_of(self.protocol)
        for finding in (findings[-1], *findings[:-1]):
            others = sorted({number.name for number in self.published if not number.method})
            for subject in (*_methods(self.report, self.published), *others):
                numbers: list[PublishedNumber | None] = [
                    n for n in self.published if (n.subject, n.finding) == (subject, finding)
                ]
                if not numbers and finding == findings[-1]:
                    numbers = [None]
                rows += [self._row(subject, finding, number) for number in numbers]
        return rows

    def _row(self, subject: str, finding: str, number: PublishedNumber | None) -> Row:
        count = len(self.protocol.findings)
        what = f"mean of {count}" if finding == MEAN else finding.replace("_", " ")
        fraction = f", {_share(self.fraction)} of the labels" if self.fraction else ""
        measured = self._measured(subject, finding)
        return Row(
            (
                subject
                if number is None or plain(number.name) == plain(subject)
                else f"{subject} ({number.name})",
                titled(self.protocol.dataset),
                f"{TASKS[self.task]}, {METRICS[self.metric]}, {what}{fraction}",
                number.source if number else "none on record",
                self.protocol.id,
            ),
            (
                _published(number) if number else Cell.absent(NOT_ON_RECORD),
                measured,
                _difference(measured, number),
                *self._range(subject, finding),
            ),
            block=f"{self.protocol.id}, {self.task}, {self.metric}",
        )

    def _measured(self, subject: str, finding: str) -> Cell:
        if self.report.phantom:
            return Cell.absent(ON_A_PHANTOM)
        if self.protocol.id not in self.report.tier.protocols:
            tasks = self.report.protocols(self.task)
            own = [p.id for p in tasks if p.dataset == self.protocol.dataset]
            instead = f"measures {', '.join(own)}" if own else "measures nothing of the kind"
            return Cell.absent(f"not comparable: other protocol; this tier {instead}")
        entry = next((e for e in _entries(self.report) if e.label == subject), None)
        if entry is None:
            return Cell.absent("the method is not in this tier")
        whole = finding == findings_of(self.protocol)[-1]
        return self.summariser.cell(
            entry, self.task, self.protocol.id, None if whole else finding, self.metric
        )

    def _range(self, subject: str, finding: str) -> tuple[Cell, Cell]:
        others = [n for n in self.elsewhere if (n.subject, n.finding) == (subject, finding)]
        if not others:
            missing = Cell.absent("no number under another protocol is on record")
            return missing, missing
        ordered = sorted(others, key=lambda number: number.value)
        return _published(ordered[0]), _published(ordered[-1])


def not_comparable_table(report: Report, ledger: Ledger) -> Table:
    """``published_not_comparable``: the other numbers of the suite's methods and data sets, and why."""
    shown = [
        number
        for number in ledger.without_protocol
        if number.method and not {"other-dataset", "other-task"} & set(number.caveats)
    ]
    groups: dict[tuple[str, ...], list[PublishedNumber]] = {}
    for number in shown:
        key = (number.task, number.dataset, number.metric, number.source, number.source_protocol)
        groups.setdefault((*key, ledger.why(number)), []).append(number)
    order = {name: i for i, name in enumerate((*TASKS, *METRICS))}
    keys = sorted(groups, key=lambda key: (order[key[0]], key[1], order[key[2]], key[3:]))
    rows = tuple(_group_row(report, key, groups[key]) for key in keys)
    reasons = ledger.comparability.reasons
    used = [key for key in reasons if any(key in number.caveats for number in shown)]
    return Table(
        name="published_not_comparable",
        title="Published numbers without a protocol of the suite",
        caption=(
            "Numbers published for methods and data sets of the suite that must not be set beside ours, nor "
            "beside each other across lines, and why. Numbers are shares of 1, read in their sources and not "
            "re-run; where a source has several label fractions, each is named."
        ),
        label_names=("Quantity", "Source", "Its protocol", "Why not comparable", "Published values"),
        columns=(
            Column("Numbers", "", None, decimals=0),
            Column("Lowest", "", None),
            Column("Highest", "", None),
        ),
        rows=rows,
        header=Header(
            "as each source states it; none is one of the suite's", "", "", "", _about_data(report)
        ),
        notes=(*(f"{reasons[key].short}: {reasons[key].text}" for key in used), *_census(ledger, len(shown))),
        named_by=2,
    )


def _group_row(report: Report, key: tuple[str, ...], numbers: Sequence[PublishedNumber]) -> Row:
    task, dataset, metric, source, protocol, why = key
    place = {method: i for i, method in enumerate(_methods(report, numbers))}
    values: dict[float | None, list[PublishedNumber]] = {}
    for number in sorted(numbers, key=lambda n: (n.label_fraction or 0.0, place[n.method])):
        values.setdefault(number.label_fraction, []).append(number)
    parts = []
    for fraction, some in values.items():
        heading = f"{_share(fraction)}: " if fraction else ""
        parts.append(heading + ", ".join(f"{n.name} {n.value:.3f}" for n in some))
    found = [number.value for number in numbers]
    cells = (len(found), min(found), max(found))
    return Row(
        (
            f"{TASKS[task]}, {_OTHER_DATASETS.get(dataset) or titled(dataset)}, {METRICS[metric]}",
            source,
            protocol,
            why,
            "; ".join(parts),
        ),
        tuple(Cell(float(value), rows=(source,)) for value in cells),
        block=f"{task}, {dataset}",
    )


def plain(name: str) -> str:
    """A name without case and hyphens: M-FLAG is mflag."""
    return name.lower().replace("-", "")


def _published(number: PublishedNumber) -> Cell:
    return Cell(
        number.value, spread=number.spread, rows=(f"{number.source}: {number.printed} {number.unit}",)
    )


def _difference(measured: Cell, number: PublishedNumber | None) -> Cell:
    if measured.value is None:
        return Cell.absent(measured.missing)
    if number is None:
        return Cell.absent(NOT_ON_RECORD)
    lower, upper = (None if end is None else end - number.value for end in (measured.lower, measured.upper))
    return replace(measured, value=measured.value - number.value, lower=lower, upper=upper, spread=None)


def _entries(report: Report) -> list[Entry]:
    """The methods of the tier under its recipe, without variants."""
    return [e for e in report.entries() if e.recipe == report.tier.recipe]


def _methods(report: Report, numbers: Iterable[PublishedNumber]) -> list[str]:
    """The tier's methods in the order of all tables, then others that numbers are published of."""
    own = [entry.label for entry in _entries(report)]
    published = {number.method for number in numbers}
    return [*own, *(name for name in suite_methods() if name in published and name not in own)]


def _census(ledger: Ledger, shown: int | None = None) -> tuple[str, ...]:
    total, agreeing = len(ledger.numbers), len(ledger.with_protocol)
    files = Counter(number.file for number in ledger.numbers)
    sources = len({number.source for number in ledger.numbers})
    rest = total - agreeing - (shown or 0)
    listed = (
        f"; {rest} more, of other methods, data sets or tasks, are in the ledger"
        if shown
        else "; the others are in the table published_not_comparable or in the ledger"
    )
    counts = ", ".join(f"{name} {count}" for name, count in sorted(files.items()))
    return (
        f"The ledger holds {total:,} published numbers of {sources} sources ({counts}); {agreeing} agree "
        f"with a protocol of the suite{listed}.",
        f"Left out of the ledger: {'; '.join(ledger.comparability.left_out)}.",
    )


def _about_data(report: Report) -> str:
    if not report.phantom:
        return ""
    return (
        "Published numbers are of radiographs of patients. What this tier measures is on generated phantom "
        "radiographs, so none of its numbers stands beside a published one."
    )


def _share(fraction: float | None) -> str:
    return f"{100 * (fraction or 0):g} %"
