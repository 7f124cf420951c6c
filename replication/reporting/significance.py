"""Which differences between methods are more than chance: every method tested against one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replication.comparison import LEVEL, holm
from replication.errors import DataError
from replication.reporting.paired import Comparer, Comparison, NothingToCompare, Question, questions
from replication.reporting.report import LABEL_NAMES, Entry, Report, titled
from replication.reporting.tables import Cell, Column, Row, Table

AGAINST = "medslip"
"""The method that the others are tested against; the tier's first where it has no such method."""

SIGNIFICANT = 1 - LEVEL
METRIC_NAMES = {
    "auc": "AUC",
    "pointing_game": "pointing",
    "laterality_auc": "laterality AUC",
    "site_auc": "site AUC",
    "relation_auc": "relation AUC",
    "dice": "Dice",
    "contrast_to_trunk": "own - other, minus trunk's",
}


@dataclass(frozen=True)
class Family:
    """Tasks that share a table.

    Attributes:
        suffix: of the table's name. title: of the tasks.
        delong: whether DeLong's test is shown; its metrics must be AUCs of the scores.
    """

    suffix: str
    title: str
    tasks: tuple[str, ...]
    delong: bool = False


FAMILIES = (
    Family("", "zero-shot classification", ("zero_shot_classification",), True),
    Family("_where", "zero-shot grounding and relations", ("zero_shot_grounding", "zero_shot_relations")),
    Family("_linear_probe", "linear probe", ("linear_probe",)),
    Family("_finetune", "fine-tuned classification", ("finetune_classification",)),
    Family(
        "_segmentation", "fine-tuned segmentation", ("finetune_segmentation", "finetune_segmentation_frozen")
    ),
)


def competitors(report: Report) -> tuple[Entry, list[Entry]]:
    """The method that is tested against, and all others of the tier; variants are left to their own tables.

    Raises:
        DataError: the tier has a single method.
    """
    methods = report.entries()
    own = [entry for entry in methods if entry.recipe == report.tier.recipe]
    chosen = [entry for entry in own if entry.label == AGAINST] or own[:1]
    others = [entry for entry in methods if entry not in chosen]
    if not chosen or not others:
        raise DataError(
            "A comparison needs two methods.", where=f"tier {report.tier.name}", found=len(methods)
        )
    return chosen[0], others


def families(report: Report) -> list[Family]:
    """Those of which something was measured; the first is always among them."""
    tasks = set(report.rows["task"])
    return [family for family in FAMILIES if not family.suffix or tasks & set(family.tasks)]


def significance_table(report: Report, comparer: Comparer, family: Family) -> Table:
    """``significance``: every method minus ``AGAINST``, with interval, Holm-adjusted p and DeLong's p.

    A group of columns is a question (protocol, metric, label fraction); p is adjusted over its methods.
    """
    against, others = competitors(report)
    asked = questions(report, tasks=family.tasks)
    answers = [_answers(comparer, against, others, question) for question in asked]
    columns = [column for question in asked for column in _columns(question, family)]
    rows = []
    for place, entry in enumerate(others):
        cells = [cell for answer in answers for cell in _cells(answer, place, family)]
        rows.append(Row(entry.labels, tuple(cells), entry.reference))
    found = [one for answer in answers for one in answer if isinstance(one, Comparison)]
    protocols = list({question.protocol.id: question.protocol for question in asked}.values())
    name = f"significance{family.suffix}"
    return Table(
        name=name,
        title=f"Differences from {against.label}: {family.title}",
        caption=(
            f"Each method minus {against.label}, means over seeds; above 0 the method is better. p Holm: "
            f"two-sided test of no difference, adjusted for the methods of the column. {against.label} "
            "itself is in the notes. Rows in italics learn from labels or from nothing and bound the rest."
        ),
        label_names=LABEL_NAMES,
        columns=tuple(columns),
        rows=tuple(rows) if columns else (),
        header=report.header(report.behind(rows), protocols, _error_bars(report, found, answers, family)),
        notes=tuple(
            _verdict(question, against, others, answer)
            for question, answer in zip(asked, answers, strict=True)
        ),
    )


Answer = list[Comparison | str]
"""Of each method its comparison, or why there is none."""


def _answers(comparer: Comparer, against: Entry, others: Sequence[Entry], question: Question) -> Answer:
    found: Answer = []
    for entry in others:
        try:
            found.append(comparer.compare(entry, against, question))
        except NothingToCompare as reason:
            found.append(reason.problem)
    return found


def name_of(question: Question) -> str:
    """``NIH ChestX-ray14 (mean of 14), AUC``."""
    several = len(question.protocol.findings)
    mean = f" (mean of {several})" if several > 1 and question.metric == "auc" else ""
    labels = f", {100 * question.label_fraction:g} % of the labels" if question.label_fraction else ""
    metric = METRIC_NAMES.get(question.metric, question.metric)
    frozen = ", frozen encoder" if question.task.endswith("_frozen") else ""
    patches = ", patches" if question.task.endswith("_patches") else ""
    finding = f", {question.finding.replace('_', ' ')}" if question.finding else ""
    return f"{titled(question.protocol.dataset)}{mean}, {metric}{finding}{patches}{frozen}{labels}"


def _columns(question: Question, family: Family) -> list[Column]:
    group, protocol = name_of(question), question.protocol.id
    tests = ["p Holm", *(["p DeLong"] if family.delong else [])]
    return [
        Column("Difference", group, None, protocol=protocol),
        *(Column(name, group, None, protocol=protocol, p_value=True) for name in tests),
    ]


def _cells(answer: Answer, place: int, family: Family) -> list[Cell]:
    one = answer[place]
    if isinstance(one, str):
        return [Cell.absent(one)] * (2 + family.delong)
    widest, delong = one.widest, one.delong
    rows, runs = (*one.a.rows, *one.b.rows), (*one.a.runs, *one.b.runs)
    seeds = min(len(one.a.seeds), len(one.b.seeds))

    def cell(value: float, lower: float = math.nan, upper: float = math.nan) -> Cell:
        if not math.isfinite(value):
            return Cell.absent("the test is undefined on these data")
        ends = [end if math.isfinite(end) else None for end in (lower, upper)]
        return Cell(value, ends[0], ends[1], n_seeds=seeds, rows=rows, runs=runs)

    adjusted = float(_adjusted(answer)[place])
    extra = [cell(delong.p_value if delong else math.nan)] if family.delong else []
    return [cell(widest.value, widest.lower, widest.upper), cell(adjusted), *extra]


def _adjusted(answer: Answer) -> NDArray[np.float64]:
    """Holm-adjusted p values over the methods of a question; NaN for those without a comparison."""
    return holm([math.nan if isinstance(one, str) else one.widest.p_value for one in answer])


def _verdict(question: Question, against: Entry, others: Sequence[Entry], answer: Answer) -> str:
    """Who is above, below and not told apart, in words."""
    groups: dict[str, list[str]] = {"above it": [], "below it": [], "not told apart from it": []}
    own = ""
    for entry, one, p_value in zip(others, answer, _adjusted(answer), strict=True):
        if isinstance(one, str):
            continue
        spread = "" if one.b.spread is None else f" ± {one.b.spread:.3f}"
        own = f"{against.label} {one.b.mean:.3f}{spread}"
        side = "above it" if one.widest.value > 0 else "below it"
        told = p_value <= SIGNIFICANT
        recipe = "" if entry.recipe == against.recipe else f" ({entry.recipe})"
        groups[side if told else "not told apart from it"].append(entry.label + recipe)
    if not own:
        return f"{name_of(question)}: no method could be compared."
    parts = [f"{name}: {', '.join(labels)}" for name, labels in groups.items() if labels]
    return f"{name_of(question)}: {own}; {'; '.join(parts)} (adjusted p at most {SIGNIFICANT:.2f})."


def _error_bars(
    report: Report, found: Sequence[Comparison], answers: Sequence[Answer], family: Family
) -> str:
    """What was tested, what intervals and p values cover, and over how many comparisons they are adjusted."""
    draws = report.tier.bootstrap
    parts = []
    if any(one.seeds for one in found):
        parts.append(
            "interval and p cover the choice of training seeds and of test patients (t test; variance "
            f"between seeds plus bootstrap over test patients as clusters, {draws:,} paired resamples)"
        )
    if any(not one.seeds for one in found):
        parts.append(
            "interval and p cover the choice of test patients alone, because there is one seed "
            f"(paired bootstrap over test patients as clusters, {draws:,} resamples; no p is below "
            f"{2 / (draws + 1):.2g} before it is adjusted)"
        )
    counts = sorted({sum(not isinstance(one, str) for one in answer) for answer in answers})
    if found:
        number = " or ".join(map(str, counts))
        parts.append(
            f"p Holm: adjusted over the {number} comparisons of a column; the {len(answers)} columns of "
            "p Holm are not adjusted for each other, and intervals not at all"
        )
    if family.delong and found:
        parts.append(
            "p DeLong: test patients alone, images clustered by patient (Obuchowski 1997), not adjusted"
        )
    return "; ".join(parts)
