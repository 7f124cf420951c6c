"""Contrasts named in advance: which two lines are compared in which measure, tested together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from replication.comparison import holm
from replication.config_files import Strict
from replication.protocol_config import Protocol
from replication.reporting.paired import ZERO, Comparer, Comparison, NothingToCompare, Question, Side
from replication.reporting.report import Entry, Report, titled
from replication.reporting.significance import METRIC_NAMES, SIGNIFICANT, name_of
from replication.reporting.tables import Cell


class Measure(Strict):
    """What a contrast is measured in; the tier's protocol of the data set is taken.

    Attributes:
        label_fraction: share of the labels that was learned from; 0 for zero-shot.
        finding: of the rows, for probes the stream; "" takes the mean, or the only one.
    """

    task: str
    dataset: str
    metric: str
    label_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    finding: str = ""

    @property
    def words(self) -> str:
        """``NIH ChestX-ray14, AUC``; with the share of labels where there is one."""
        share = f", {100 * self.label_fraction:g} % of the labels" if self.label_fraction else ""
        metric = METRIC_NAMES.get(self.metric, self.metric.replace("_", " "))
        finding = f", {self.finding.replace('_', ' ')}" if self.finding else ""
        return f"{titled(self.dataset)}, {metric}{finding}{share}"

    def title(self, report: Report) -> str:
        """As ``words``, with the number of findings of the tier's protocol."""
        try:
            return name_of(self.question(report))
        except NothingToCompare:
            return self.words

    def question(self, report: Report) -> Question:
        """The measure under the tier's protocol.

        Raises:
            NothingToCompare: the tier has none of this data set with this task.
        """
        base = self.task.removesuffix("_frozen").removesuffix("_patches")
        own = [protocol for protocol in report.protocols(base) if protocol.dataset == self.dataset]
        if not own:
            raise NothingToCompare(f"the tier has no protocol of {self.dataset} with the task {base}")
        return Question(self.task, own[0], self.metric, self.label_fraction, self.finding)


@dataclass(frozen=True)
class Contrast:
    """A minus B in one measure; where B is ``ZERO``, the measure itself, which is a difference.

    Attributes:
        found: the comparison, or why there is none; a reason names B where it is B that lacks something.
        p_value: two-sided, Holm-adjusted over the contrasts it was tested with; NaN without a comparison.
    """

    a: Entry
    b: Entry
    measure: Measure
    found: Comparison | str
    p_value: float = math.nan

    @property
    def shown(self) -> bool:
        """Whether A is better than B by more than chance."""
        return (
            isinstance(self.found, Comparison) and self.found.widest.value > 0 and self.p_value <= SIGNIFICANT
        )

    def difference(self) -> Cell:
        """A minus B with its 95 % interval, or why there is none."""
        if isinstance(self.found, str):
            return Cell.absent(self.found)
        value, lower, upper, _ = self.found.widest
        ends = (lower, upper) if math.isfinite(lower) and math.isfinite(upper) else (None, None)
        return _cell(self.found, value, *ends)

    def adjusted(self) -> Cell:
        """The adjusted p value, or why there is none."""
        if isinstance(self.found, str):
            return Cell.absent(self.found)
        if math.isnan(self.p_value):
            return Cell.absent("the test is undefined on these data")
        return _cell(self.found, self.p_value)


def _cell(found: Comparison, value: float, lower: float | None = None, upper: float | None = None) -> Cell:
    seeds = min(len(found.a.seeds), len(found.b.seeds))
    rows, runs = (*found.a.rows, *found.b.rows), (*found.a.runs, *found.b.runs)
    return Cell(value, lower, upper, n_seeds=seeds, rows=rows, runs=runs)


def line(report: Report, label: str) -> Entry:
    """A method or variant as the tier trains it, whether or not it has been run."""
    known = [entry for entry in report.entries(variants=True) if entry.label == label]
    own = [entry for entry in known if entry.recipe == report.tier.recipe]
    return own[0] if own else Entry((), label, report.tier.recipe, "")


def contrasts(comparer: Comparer, asked: Sequence[tuple[Entry, Entry, Measure]]) -> list[Contrast]:
    """Each pair compared in its measure; p values adjusted over all of them that could be.

    Lines of one method (variants) are paired by seed.

    Raises:
        DataError: predictions are damaged, or not of the same images.
    """
    made = [Contrast(a, b, measure, _compared(comparer, a, b, measure)) for a, b, measure in asked]
    p_values = [math.nan if isinstance(one.found, str) else one.found.widest.p_value for one in made]
    return [replace(one, p_value=float(p)) for one, p in zip(made, holm(p_values), strict=True)]


def _compared(comparer: Comparer, a: Entry, b: Entry, measure: Measure) -> Comparison | str:
    try:
        question = measure.question(comparer.report)
    except NothingToCompare as reason:
        return reason.problem
    sides = [(a, ""), *([] if b == ZERO else [(b, f"{b.label}: ")])]
    for entry, whose in sides:
        try:
            comparer.paths(comparer.side(entry, question), question)
        except NothingToCompare as reason:
            return whose + reason.problem
    try:
        if b == ZERO:
            return comparer.from_zero(a, question)
        return comparer.compare(a, b, question)
    except NothingToCompare as reason:
        return reason.problem


def measured(comparer: Comparer, entry: Entry, measure: Measure) -> Cell:
    """The number of one line: mean over seeds with their spread, or why there is none."""
    try:
        side: Side = comparer.side(entry, measure.question(comparer.report))
    except NothingToCompare as reason:
        return Cell.absent(reason.problem)
    return Cell(side.mean, spread=side.spread, n_seeds=len(side.seeds), rows=side.rows, runs=side.runs)


def protocols_of(report: Report, measures: Sequence[Measure]) -> list[Protocol]:
    """The tier's protocols that some measures are taken under, each once."""
    found = {}
    for measure in measures:
        try:
            protocol = measure.question(report).protocol
        except NothingToCompare:
            continue
        found[protocol.id] = protocol
    return list(found.values())


def error_bars(report: Report, made: Sequence[Contrast], family: str) -> str:
    """What intervals and p values cover; ``""`` where nothing was compared.

    Args:
        family: what p values are adjusted over, e.g. ``the variants of a column``.
    """
    found = [one.found for one in made if isinstance(one.found, Comparison)]
    draws = report.tier.bootstrap
    parts = []
    if any(one.seeds for one in found):
        parts.append(
            "95 % intervals and p of differences cover training seeds and test patients (t test; variance "
            f"between seeds plus bootstrap over patients as clusters, {draws:,} paired resamples; "
            "variants of a method are also paired by seed)"
        )
    if any(not one.seeds for one in found):
        parts.append(
            "differences of single seeds: 95 % intervals and p cover test patients alone (paired bootstrap "
            f"over patients as clusters, {draws:,} resamples; no p is below {2 / (draws + 1):.2g} before it "
            "is adjusted)"
        )
    if found:
        parts.append(f"p Holm: two-sided, adjusted over {family}; intervals are not adjusted")
    return "; ".join(parts)
