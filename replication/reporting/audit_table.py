"""The table of an audit: the released behaviour against the corrected one, measured on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from replication.comparison import hierarchical_difference_by_seed, paired_difference
from replication.config import reference_of
from replication.errors import ConfigError
from replication.protocol_config import Protocol
from replication.reporting.audit import Audit, ClassificationRules, Measure, Side
from replication.reporting.audit import Entry as Place
from replication.reporting.draws import bootstrap_draws, load_predictions
from replication.reporting.paired import Comparer, NothingToCompare, Question
from replication.reporting.published import METRICS, TASKS
from replication.reporting.report import Entry, Report, titled
from replication.reporting.tables import Cell, Column, Row, Table
from replication.statistics import FloatArray, hierarchical_mean
from replication.tasks import zero_shot_classification, zero_shot_grounding
from replication.tasks.common import Draws
from replication.transfer_config import base_task

_FAMILIES = {"G": "grounding", "Z": "zero-shot", "P": "pre-training", "F": "fine-tuning"}
_NEEDS = {
    "training": "runs of their own",
    "weights": "the same weights",
    "predictions": "the same predictions, scored by other rules",
    "transfer": "the same pre-trained weights",
}
_METRICS = {
    **METRICS,
    "relation_auc": "Relation AUC",
    "laterality_auc": "Laterality AUC",
    "site_auc": "Site AUC",
    "dice_all": "Dice of all images",
}
_TASKS = {**TASKS, "zero_shot_relations": "side, site and relation"}


@dataclass(frozen=True)
class Evidence:
    """One side, measured.

    Attributes:
        seeds, runs, rows: of S runs, by seed. values: ``[S]``. draws: ``[S, R]``, paired over all sides.
    """

    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    rows: tuple[str, ...]
    values: FloatArray
    draws: FloatArray

    def of(self, seeds: Sequence[int]) -> Evidence:
        """The same, for some of its seeds."""
        at = [self.seeds.index(seed) for seed in seeds]
        runs, rows = (tuple(names[i] for i in at) for names in (self.runs, self.rows))
        return Evidence(tuple(seeds), runs, rows, self.values[at], self.draws[at])


def audit_table(report: Report, audit: Audit) -> Table:
    """``audit``, or the audit's own name: a line per place and metric; what has no numbers says why."""
    bench = _Bench(report, audit)
    rows = [row for place in audit.entries for row in bench.rows(place)]
    measured = [place for place in audit.entries if place.measured]
    shown = {row.labels[0] for row in rows if row.cells[2].value is not None}
    folders = "; ".join(f"{short} = {name}" for short, name in audit.folders.items())
    header = report.header(bench.used_rows(), bench.used_protocols(), bench.error_bars())
    if header.thresholds:
        header = replace(header, thresholds=f"{header.thresholds}; others where a line's switch says so")
    return Table(
        name=audit.table,
        title=f"Audit of the released code of {audit.method}",
        caption=(
            f"Places where the released code ({audit.released}) contradicts itself or common practice, and "
            "what the metric becomes if one of them at a time is reproduced (faithful) or mended (corrected)."
            " Above 0 in the last column: the released behaviour scores higher, which for rules of "
            "evaluation means that it flatters."
        ),
        label_names=("Id", "Released file", "What happens, and why it matters", "Switch", "Measured as"),
        columns=(
            Column("Faithful", "", None),
            Column("Corrected", "", None),
            Column("Faithful − corrected", "", None),
        ),
        rows=tuple(rows),
        header=header,
        notes=(
            f"{len(audit.entries)} places: {len(measured)} have a form in this suite that shows them, "
            f"{len(shown)} of these have a difference here; the other "
            f"{len(audit.entries) - len(measured)} say why they have none.",
            f"Runs are of recipe {audit.recipe}; everything but the named switch is as in {audit.method}"
            f"{_shorter(report, audit)}.",
            f"Released files: {folders}.",
        ),
        named_by=1,
    )


def _shorter(report: Report, audit: Audit) -> str:
    """How variants are trained, where that is not as the method is."""
    changes = ", ".join(f"{key} {value}" for key, value in report.tier.variant_training.items())
    if not changes:
        return ""
    return f", or, where that is named, as in {audit.method}/reference, the method trained with {changes}"


def _equal(one: Evidence, other: Evidence) -> bool:
    return np.array_equal(one.values, other.values) and np.array_equal(one.draws, other.draws)


class _Bench:
    """Measures the sides of a tier, and remembers what it has drawn."""

    def __init__(self, report: Report, audit: Audit) -> None:
        self.report, self.audit = report, audit
        self._drawn: dict[tuple[Path, str], dict[tuple[str, str], Draws]] = {}
        self._plain: dict[Path, dict[tuple[str, str], FloatArray]] = {}
        self._used: dict[tuple[str, str], Protocol] = {}
        self._seeds: set[int] = set()

    def rows(self, place: Place) -> list[Row]:
        """A line per measurement, or one that says why there is none."""
        texts = (place.id, place.where, f"{place.what} {place.why}", self._switches(place))
        block = _FAMILIES.get(place.id[0], "")
        if place.unmeasured:
            reason = Cell.absent(self.audit.kinds[place.unmeasured.kind])
            return [Row((*texts, place.unmeasured.reason), (reason,) * 3, block=block)]
        return [
            Row((*texts, self._words(measure)), self._cells(place, measure), block=block)
            for measure in place.measured
        ]

    def used_protocols(self) -> list[Protocol]:
        """Those that numbers are shown of."""
        return list({protocol.id: protocol for protocol in self._used.values()}.values())

    def used_rows(self) -> pd.DataFrame:
        """Rows of the audited method under them."""
        rows = self.report.rows
        keys = pd.MultiIndex.from_arrays([rows["task"], rows["protocol"]])
        own = (rows["method"] == self.audit.method) & (rows["recipe"] == self.audit.recipe)
        return rows[own & keys.isin(list(self._used))]

    def error_bars(self) -> str:
        """What the intervals cover."""
        if not self._seeds:
            return ""
        draws = f"{self.report.tier.bootstrap:,} resamples"
        many = (
            "mean over seeds ± sample standard deviation over seeds; in brackets the 95 % interval over "
            "seeds and test patients (variance between seeds plus bootstrap over patients as clusters, "
            f"{draws}; Student's t for the seeds; cut where a share ends), of the difference paired by seed "
            "and by test patient"
        )
        single = (
            f"one seed: in brackets the 95 % interval by bootstrap over test patients as clusters ({draws}), "
            "of the difference paired by test patient"
        )
        return "; ".join(
            ([many] if max(self._seeds) > 1 else []) + ([single] if min(self._seeds) == 1 else [])
        )

    def _switches(self, place: Place) -> str:
        return "; ".join(switch.words for switch in place.switches) or "none"

    def _words(self, measure: Measure) -> str:
        what = f"{_METRICS.get(measure.metric, measure.metric)}, {_TASKS[measure.task]}"
        share = f", {100 * measure.label_fraction:g} % of the labels" if measure.label_fraction else ""
        finding = f", {measure.finding}" if measure.finding else ""
        faithful, corrected = (self._side_words(measure, side) for side in measure.sides)
        sides = faithful if faithful == corrected else f"{faithful} against {corrected}"
        return f"{what}{share}, {titled(measure.dataset)}{finding}; {sides}; {_NEEDS[measure.needs]}"

    def _side_words(self, measure: Measure, side: Side) -> str:
        return " as ".join([self._label(measure, side), *filter(None, (side.task, side.metric))])

    def _label(self, measure: Measure, side: Side) -> str:
        """The runs of a side: beside a variant with weights of its own, the method trained as it is."""
        other = next((one.label for one in measure.sides if "/" in one.label), None)
        plain = side.label == self.audit.method and measure.needs == "training"
        return reference_of(self.report.tier, other) if plain and other else side.label

    def _cells(self, place: Place, measure: Measure) -> tuple[Cell, Cell, Cell]:
        found: list[Evidence | Cell] = []
        for i, side in enumerate(measure.sides):
            try:
                found.append(self._evidence(place, measure, side, ("faithful", "corrected")[i]))
            except NothingToCompare as reason:
                found.append(Cell.absent(f"{self._label(measure, side)}: {reason.problem}"))
        faithful, corrected = (one if isinstance(one, Cell) else self._cell(one) for one in found)
        missing = next((cell for cell in (faithful, corrected) if cell.value is None), None)
        if missing:
            return faithful, corrected, missing
        sides = [one for one in found if isinstance(one, Evidence)]
        if measure.needs in ("training", "transfer") and _equal(*sides):
            return faithful, corrected, Cell.absent("both sides chose the same weights: nothing is measured")
        return faithful, corrected, self._difference(*sides)

    def _evidence(self, place: Place, measure: Measure, side: Side, which: str) -> Evidence:
        """Values and draws of a side.

        Raises:
            NothingToCompare: it was not evaluated.
        """
        task, metric = side.task or measure.task, side.metric or measure.metric
        protocols = self.report.protocols(base_task(task) if measure.needs == "transfer" else task)
        own = [protocol for protocol in protocols if protocol.dataset == measure.dataset]
        if not own:
            raise NothingToCompare(f"the tier has no protocol of {measure.dataset} with this task")
        question = Question(task, own[0], metric, measure.label_fraction)
        rows = self.report.rows
        kept = rows[rows["finding"] == measure.finding] if measure.finding else rows
        comparer = Comparer(replace(self.report, rows=kept))
        entry = Entry((), self._label(measure, side), self.audit.recipe, "")
        measured = comparer.side(entry, question)
        paths = comparer.paths(measured, question)
        self._used[task, own[0].id] = own[0]
        self._seeds.add(len(measured.seeds))
        key = (measured.finding, metric)
        if measure.needs == "predictions":
            rules = {switch.path: getattr(switch, which) for switch in place.switches}
            drawn = [self._by_rules(path, question, rules)[key] for path in paths]
            values = np.array([one.value for one in drawn])
            draws = np.stack([one.draws for one in drawn])
        else:
            values = measured.values
            draws = np.stack([self._stored(path, question)[key] for path in paths])
        return Evidence(measured.seeds, measured.runs, measured.rows, values, draws)

    def _stored(self, path: Path, question: Question) -> dict[tuple[str, str], FloatArray]:
        if path not in self._plain:
            bootstrap = self.report.tier.bootstrap
            try:
                self._plain[path] = bootstrap_draws(path, question.task, question.protocol, bootstrap)
            except ConfigError as error:
                raise NothingToCompare(f"{question.task}: {error.problem}") from error
        return self._plain[path]

    def _by_rules(
        self, path: Path, question: Question, rules: Mapping[str, Any]
    ) -> dict[tuple[str, str], Draws]:
        """Metrics of stored predictions under other rules."""
        values = {name.partition(".")[2]: value for name, value in rules.items()}
        key = (path, repr(sorted(values.items())))
        if key not in self._drawn:
            draws = self.report.tier.bootstrap
            score = _grounding if question.task == "zero_shot_grounding" else _classification
            found = score(path, question.protocol, draws, values)
            self._drawn[key] = {(one.finding, one.metric): one for one in found}
        return self._drawn[key]

    def _cell(self, found: Evidence) -> Cell:
        mean = hierarchical_mean(found.values, found.draws)
        spread = float(found.values.std(ddof=1)) if len(found.values) > 1 else None
        # All metrics are shares; a symmetric interval knows no such limits.
        return _finite_cell(mean.value, tuple(np.clip(mean[1:], 0.0, 1.0).tolist()), spread, found)

    def _difference(self, faithful: Evidence, corrected: Evidence) -> Cell:
        """Paired by seed and by test patient."""
        seeds = sorted(set(faithful.seeds) & set(corrected.seeds))
        if not seeds:
            return Cell.absent("the two sides have no seed in common")
        a, b = faithful.of(seeds), corrected.of(seeds)
        values, draws = a.values - b.values, a.draws - b.draws
        nothing = np.zeros_like(values), np.zeros_like(draws)
        if len(seeds) == 1:
            found = paired_difference(float(values[0]), draws[0], 0.0, nothing[1][0])
        else:
            found = hierarchical_difference_by_seed(values, draws, *nothing)
        spread = float(values.std(ddof=1)) if len(seeds) > 1 else None
        both = replace(
            a, runs=tuple(dict.fromkeys(a.runs + b.runs)), rows=tuple(dict.fromkeys(a.rows + b.rows))
        )
        return _finite_cell(found.value, (found.lower, found.upper), spread, both)


def _finite_cell(value: float, interval: tuple[float, ...], spread: float | None, found: Evidence) -> Cell:
    lower, upper = interval if np.isfinite(interval).all() else (None, None)
    return Cell(value, lower, upper, spread, len(found.seeds), found.rows, found.runs)


def _grounding(path: Path, protocol: Protocol, draws: int, rules: Mapping[str, Any]) -> list[Draws]:
    known = {field.name for field in fields(zero_shot_grounding.GroundingRules)}
    own = zero_shot_grounding.GroundingRules(**{name: rules[name] for name in rules if name in known})
    return zero_shot_grounding.metric_draws(load_predictions(path), protocol, draws=draws, rules=own)


def _classification(path: Path, protocol: Protocol, draws: int, rules: Mapping[str, Any]) -> list[Draws]:
    own = ClassificationRules(**rules)
    frame = load_predictions(path).frame
    if own.label_columns == "alphabetical_by_position":
        frame = with_labels_by_position(frame, [finding.name for finding in protocol.findings])
    return zero_shot_classification.metric_draws(
        frame,
        protocol.model_copy(update={"threshold_source": own.threshold_source}),
        draws=draws,
        threshold_op=own.threshold_op,
        threshold_goal=own.threshold_goal,
    )


def with_labels_by_position(frame: pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    """Scores as they are; labels as read in the findings' order from columns that are sorted by name.

    Args:
        frame: predictions, every finding of the same images. findings: in the order of the protocol.
    """
    labels = frame.set_index(["sample", "finding"])["label"]
    read = frame["finding"].map(dict(zip(findings, sorted(findings), strict=True)))
    wanted = pd.MultiIndex.from_arrays([frame["sample"], read])
    return frame.assign(label=labels.loc[wanted].to_numpy())
