"""``replicate compare``: two methods of a tier against each other, on the predictions they left."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from replication.comparison import Difference, holm
from replication.errors import ConfigError, DataError, nearest
from replication.protocol_config import protocol_ids
from replication.reporting.paired import Comparer, Comparison, NothingToCompare, Question, Side, questions
from replication.reporting.report import Entry, Report
from replication.statistics import FloatArray
from replication.workflow.plan import Run, Workspace

_SMALLEST = 1e-4
"""p values below are printed as such."""


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        adjusted: Holm-adjusted p value of each comparison, over all of them.
        left_out: what could not be compared, and why.
    """

    report: Report
    a: str
    b: str
    comparisons: list[Comparison]
    adjusted: FloatArray
    left_out: dict[str, str]


def compare(
    workspace: Workspace,
    a: str,
    b: str,
    *,
    task: str | None = None,
    protocol: str | None = None,
    metric: str | None = None,
) -> Outcome:
    """Compare two methods of a tier over all their seeds.

    Args:
        a, b: ``medslip`` or ``medslip/no-protocl``; the difference is A minus B.
        task, protocol, metric: only this one; otherwise every task and protocol of the tier, in the metrics
            of ``replication.reporting.paired.PRIMARY``.

    Raises:
        ConfigError: an unknown name; tells the nearest.
        DataError: runs are not evaluated, predictions are missing, damaged or not of the same images, or
            nothing is left to compare. All of it before anything is computed.
    """
    report = Report.open(workspace.source, workspace.results, workspace.work)
    first, second = (_entry(workspace, report, label) for label in (a, b))
    if a == b:
        raise ConfigError("A method is compared with another one.", found=f"{a} twice")
    if protocol is not None and protocol not in protocol_ids():
        raise ConfigError("Unknown protocol.", found=protocol, remedy=nearest(protocol, protocol_ids()))
    rows = report.select(label=[a, b], protocol=protocol or list(report.tier.protocols))
    rows = rows[rows["higher_is_better"]]
    _known("task", task, rows["task"])
    _known("metric", metric, rows["metric"] if task is None else rows.loc[rows["task"] == task, "metric"])
    chosen = questions(
        report,
        labels=[a, b],
        tasks=[task] if task else [],
        protocols=[protocol] if protocol else [],
        metrics=[metric] if metric else [],
    )
    comparer = Comparer(report)
    comparable, left_out = _comparable(comparer, [first, second], chosen)
    if not comparable:
        raise DataError(
            f"Nothing to compare between {a} and {b}.",
            where=workspace.results / "rows.parquet",
            found="; ".join(f"{what}: {why}" for what, why in left_out.items()) or "no rows",
        )
    found = [comparer.compare(first, second, question) for question in comparable]
    return Outcome(report, a, b, found, holm([one.widest.p_value for one in found]), left_out)


def _entry(workspace: Workspace, report: Report, label: str) -> Entry:
    """The method in the tier's recipe, evaluated with every seed of the tier."""
    tier = workspace.tier
    known = {entry.label: entry for entry in report.entries(variants=True) if entry.recipe == tier.recipe}
    if label not in known:
        raise ConfigError(
            f"Nothing of that name in tier {tier.name}.", found=label, remedy=nearest(label, known)
        )
    rows = report.select(label=label, recipe=tier.recipe)
    missing = [Run(label, tier.recipe, seed).key for seed in tier.seeds if seed not in set(rows["seed"])]
    if missing:
        raise DataError(
            "Runs have not been evaluated.",
            where=workspace.results / "rows.parquet",
            found=", ".join(missing),
            remedy=f"run `replicate run --tier {workspace.source} --only {label}`",
        )
    return known[label]


def _known(what: str, name: str | None, measured: pd.Series) -> None:
    if name is not None and name not in set(measured):
        raise ConfigError(
            f"No {what} of that name was measured here.", found=name, remedy=nearest(name, set(measured))
        )


def _comparable(
    comparer: Comparer, entries: Sequence[Entry], chosen: Sequence[Question]
) -> tuple[list[Question], dict[str, str]]:
    """Questions that both methods have numbers for; their predictions are read and matched."""
    comparable, left_out = [], {}
    for question in chosen:
        sides: list[Side] = []
        for entry in entries:
            try:
                sides.append(comparer.side(entry, question))
            except NothingToCompare as reason:
                left_out[f"{name_of(question)}, {entry.label}"] = reason.problem
        if len(sides) == len(entries):
            for side in sides:
                comparer.scores(side, question)
            comparable.append(question)
    return comparable, left_out


def name_of(question: Question) -> str:
    """``nih-cxr14/phantom/v1, linear_probe with 0.01 of the labels, auc``."""
    labels = f" with {question.label_fraction:.3g} of the labels" if question.label_fraction else ""
    return f"{question.protocol.id}, {question.task}{labels}, {question.metric}"


def as_text(outcome: Outcome) -> str:
    """A table of one line per comparison, and what its numbers cover."""
    lines = []
    for one, adjusted in zip(outcome.comparisons, outcome.adjusted, strict=True):
        task = one.question.task + (
            f" {one.question.label_fraction:g}" if one.question.label_fraction else ""
        )
        lines.append(
            {
                "protocol": one.question.protocol.id,
                "task": task,
                "metric": one.question.metric,
                outcome.a: _number(one.a.mean, one.a.spread),
                outcome.b: _number(one.b.mean, one.b.spread),
                "difference": f"{one.widest.value:+.4f}",
                "95 % interval": f"[{one.widest.lower:+.4f}, {one.widest.upper:+.4f}]",
                "p": _p(one.widest.p_value),
                "p Holm": _p(float(adjusted)),
                "p bootstrap": _p(one.patients.p_value),
                "p DeLong": _p(one.delong.p_value) if one.delong else "",
            }
        )
    notes = [
        f"{outcome.a} minus {outcome.b}, tier {outcome.report.tier.name}; means over seeds "
        "± standard deviation over seeds.",
        _covered(outcome),
        f"p Holm: adjusted for the {len(outcome.comparisons)} lines of this table.",
        f"p bootstrap, p DeLong: test patients alone ({outcome.report.tier.bootstrap:,} resamples of the "
        "bootstrap; DeLong's test with images clustered by patient), not adjusted.",
        *(f"left out: {what}: {why}" for what, why in outcome.left_out.items()),
    ]
    if outcome.report.data_sentence:
        notes.append(outcome.report.data_sentence)
    return "\n".join([pd.DataFrame(lines).to_string(index=False), "", *notes])


def _covered(outcome: Outcome) -> str:
    covers = {one.seeds is not None for one in outcome.comparisons}
    by_seed = ", paired by seed" if any(one.by_seed for one in outcome.comparisons) else ""
    both = f"interval and p: training seeds and test patients (t test on a hierarchical variance{by_seed})"
    single = "interval and p: test patients alone (paired bootstrap), because a method has one seed"
    return "; ".join([both] * (True in covers) + [single] * (False in covers)) + "."


def _number(mean: float, spread: float | None) -> str:
    return f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _p(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return f"{value:.4f}" if value >= _SMALLEST else f"<{_SMALLEST:g}"


def as_json(outcome: Outcome) -> str:
    """Everything at full precision; undefined numbers are null."""
    lines = []
    for one, adjusted in zip(outcome.comparisons, outcome.adjusted, strict=True):
        question = one.question
        lines.append(
            {
                "task": question.task,
                "protocol": question.protocol.id,
                "label_fraction": question.label_fraction,
                "metric": question.metric,
                "finding": one.a.finding,
                "a": _side(one.a),
                "b": _side(one.b),
                "covers": "seeds and test patients" if one.seeds else "test patients",
                "paired_by_seed": one.by_seed,
                **_difference(one.widest),
                "p_holm": _finite(float(adjusted)),
                "paired_bootstrap": _difference(one.patients),
                "delong": _difference(one.delong) if one.delong else None,
            }
        )
    whole = {
        "a": outcome.a,
        "b": outcome.b,
        "tier": outcome.report.tier.name,
        "resamples": outcome.report.tier.bootstrap,
        "holm_over": int(np.isfinite(outcome.adjusted).sum()),
        "data": outcome.report.data_sentence,
        "comparisons": lines,
        "left_out": outcome.left_out,
    }
    return json.dumps(whole, indent=2, allow_nan=False)


def _side(side: Side) -> dict[str, Any]:
    return {"mean": side.mean, "spread": side.spread, "seeds": side.seeds, "runs": side.runs}


def _difference(difference: Difference) -> dict[str, float | None]:
    value, lower, upper, p_value = map(_finite, difference)
    return {"difference": value, "lower": lower, "upper": upper, "p": p_value}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
