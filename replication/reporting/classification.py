"""Tables and figures of zero-shot classification: per protocol, per finding, ROC curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from replication.protocol_config import Protocol
from replication.reporting.figures import Mark, new_figure, palette
from replication.reporting.report import LABEL_NAMES, Entry, Report, titled
from replication.reporting.summary import Summariser, mean_notes
from replication.reporting.tables import Column, Row, Table
from replication.statistics import FloatArray

TASK = "zero_shot_classification"
METRICS = (("auc", "AUC"), ("f1", "F1"), ("accuracy", "ACC"))
PER_FINDING_DATASET = "nih-cxr14"
_GRID = np.linspace(0, 1, 201)


def protocol_title(protocol: Protocol) -> str:
    """Heading of a protocol's columns: the data set, and what is averaged."""
    name = titled(protocol.dataset)
    return f"{name} (mean of {len(protocol.findings)})" if len(protocol.findings) > 1 else name


def zero_shot_table(report: Report, *, further: bool = False) -> Table:
    """``zero_shot_classification``: methods by protocols, AUC, F1 and accuracy.

    Args:
        further: show the protocols outside the tier instead, as ``zero_shot_classification_further``.
    """
    summariser = Summariser(report)
    protocols = report.further_protocols(TASK) if further else report.protocols(TASK)
    columns = tuple(
        Column(title, protocol_title(protocol), True, protocol=protocol.id)
        for protocol in protocols
        for _, title in METRICS
    )
    rows = tuple(
        Row(
            entry.labels,
            tuple(
                summariser.cell(entry, TASK, protocol.id, None, metric)
                for protocol in protocols
                for metric, _ in METRICS
            ),
            entry.reference,
        )
        for entry in report.entries()
    )
    return Table(
        name="zero_shot_classification" + ("_further" if further else ""),
        title="Zero-shot classification" + (" on further data" if further else ""),
        caption=(
            "Whether a finding is present, scored by prompts or queries without any fitting to the test "
            "sets' labels. Where a protocol has several findings, the mean over them is shown. Rows in "
            "italics learn from labels or from nothing and bound the comparison."
        ),
        label_names=LABEL_NAMES,
        columns=columns,
        rows=rows,
        header=report.header(report.behind(rows), protocols, summariser.error_bars()),
        notes=mean_notes(summariser, TASK, protocols, "auc"),
    )


PANELS_ABREAST = 5
"""Of the figure ``per_finding``: 14 findings and their mean fill three lines."""


def per_finding_protocol(report: Report) -> Protocol | None:
    """The protocol with the 14 NIH findings; ``None`` if the tier has none."""
    found = [p for p in report.protocols(TASK) if p.dataset == PER_FINDING_DATASET]
    return found[0] if found else None


def per_finding_table(report: Report) -> Table:
    """``zero_shot_per_finding``: findings by methods, AUC; the supervised bound is the last column."""
    summariser = Summariser(report)
    protocol = per_finding_protocol(report)
    entries = report.entries()
    findings = [*(f.name for f in protocol.findings), "mean"] if protocol else []
    recipes = {entry.recipe for entry in entries}
    columns = tuple(
        Column(
            entry.label if len(recipes) == 1 else f"{entry.label} ({entry.recipe})",
            "Supervised bound" if entry.reference else "Zero-shot AUC",
            True,
            protocol=protocol.id if protocol else "",
            reference=entry.reference,
        )
        for entry in entries
    )
    rows = tuple(
        Row(
            (finding.replace("_", " "), _positives(report, protocol, finding)),
            tuple(summariser.cell(entry, TASK, protocol.id, finding, "auc") for entry in entries),
        )
        for finding in findings
        if protocol is not None
    )
    return Table(
        name="zero_shot_per_finding",
        title="Zero-shot classification per finding",
        caption=(
            f"AUC of each finding of {titled(PER_FINDING_DATASET)}. A method trained on the labels is the "
            "upper bound: a finding that it cannot tell apart says little about the others."
        ),
        label_names=("Finding", "Positives"),
        columns=columns,
        rows=rows,
        header=report.header(
            report.behind(rows),
            [protocol] if protocol else [],
            summariser.error_bars(),
        ),
        notes=() if protocol else (f"The tier has no protocol of {PER_FINDING_DATASET}.",),
        best_of="row",
    )


def _positives(report: Report, protocol: Protocol, finding: str) -> str:
    rows = report.select(task=TASK, protocol=protocol.id, finding=finding, metric="auc")
    if finding == "mean" or "n_positive" not in rows or rows["n_positive"].isna().all():
        return ""
    return f"{int(rows['n_positive'].max()):,} of {int(rows['n'].max()):,}"


def per_finding_figure(table: Table) -> Figure:
    """``per_finding``: a panel per finding, a dot with its interval per method."""
    labels = [column.name for column in table.columns]
    marks = palette([label.partition(" (")[0] for label in labels])
    columns = min(PANELS_ABREAST, max(1, len(table.rows)))
    lines = max(1, -(-len(table.rows) // columns))
    figure = new_figure(1.0 + 1.25 * columns, 0.4 + lines * (0.5 + 0.1 * len(labels)))
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, row in zip(panels, table.rows, strict=False):
        axes.axvline(0.5, color="0.5", lw=0.8, ls=(0, (3, 2)))
        for j, (column, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
            if cell.value is None:
                continue
            mark = marks[column.name.partition(" (")[0]]
            if cell.lower is not None and cell.upper is not None:
                axes.plot([cell.lower, cell.upper], [j, j], color=mark.colour, lw=1.1)
            inside = "white" if column.reference else mark.colour
            axes.plot(cell.value, j, mark.marker, color=mark.colour, mfc=inside, ms=3.5)
        axes.set_title("\n".join(filter(None, row.labels)), fontsize=6.5)
        axes.grid(axis="x", color="0.88")
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", labelsize=6)
        axes.tick_params(axis="y", labelsize=6, length=0)
    for axes in panels[len(table.rows) :]:
        axes.set_axis_off()
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    # Of the panel in the middle of the last line; a label of the figure would lie upon its caption.
    panels[(lines - 1) * columns + columns // 2].set_xlabel("AUC (95 % interval); dashed: chance", fontsize=7)
    return figure


def roc_figure(report: Report) -> tuple[Figure, str]:
    """``roc``: a panel per protocol, a curve per method, averaged over findings and seeds.

    Returns:
        The figure, and what its reader needs to know.
    """
    summariser = Summariser(report)
    protocols = report.protocols(TASK)
    entries = [entry for entry in report.entries() if entry.recipe == report.tier.recipe]
    marks = palette([entry.label for entry in entries])
    columns = min(2, max(1, len(protocols)))
    lines = max(1, -(-len(protocols) // columns))
    figure = new_figure(3.5 * columns, 3.2 * lines + 0.4)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, protocol in zip(panels, protocols, strict=False):
        axes.plot([0, 1], [0, 1], color="0.75", lw=0.8)
        drawn = [_draw_curve(axes, summariser, entry, protocol, marks[entry.label]) for entry in entries]
        axes.set(
            title=protocol_title(protocol),
            xlim=(0, 1),
            ylim=(0, 1.005),
            xlabel="1 − specificity",
            ylabel="sensitivity",
            aspect="equal",
        )
        if not any(drawn):
            axes.text(0.97, 0.06, "no test images of both classes", ha="right", color="0.4")
    for axes in panels[len(protocols) :]:
        axes.set_axis_off()
    _legend(figure, {entry.label: marks[entry.label] for entry in entries})
    text = (
        "Receiver operating characteristic of zero-shot classification. Sensitivities are averaged at equal "
        "specificity over the findings of a protocol and over seeds; the band spans the seeds. The area "
        "under an averaged curve equals the mean AUC of the table up to interpolation."
    )
    return figure, text


def _draw_curve(axes: Axes, summariser: Summariser, entry: Entry, protocol: Protocol, mark: Mark) -> bool:
    found = [mean_roc(p) for p in summariser.predictions(entry, TASK, protocol.id)]
    curves = [curve for curve in found if np.isfinite(curve).all()]
    if not curves:
        return False
    stacked = np.stack(curves)
    axes.plot(_GRID, stacked.mean(axis=0), color=mark.colour, ls=mark.line)
    if len(curves) > 1:
        axes.fill_between(
            _GRID, stacked.min(axis=0), stacked.max(axis=0), color=mark.colour, alpha=0.15, lw=0
        )
    return True


def mean_roc(predictions: pd.DataFrame) -> FloatArray:
    """Sensitivity on a grid of 201 false positive rates, averaged over the findings with both classes.

    NaN where no finding has both.

    Args:
        predictions: of the test split; columns finding, score, label (-1 unknown).
    """
    curves = []
    for _, one in predictions[predictions["label"] >= 0].groupby("finding", sort=True):
        if one["label"].nunique() == 2:
            curves.append(np.interp(_GRID, *_roc(one["label"].to_numpy(), one["score"].to_numpy())))
    return np.mean(curves, axis=0) if curves else np.full_like(_GRID, np.nan)


def _roc(labels: NDArray[Any], scores: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """False and true positive rate at every threshold, from the strictest to the most lenient."""
    _, place = np.unique(-scores, return_inverse=True)
    found = [np.cumsum(np.bincount(place, weights=labels == value)) for value in (0, 1)]
    false, true = (np.concatenate([[0.0], counts / counts[-1]]) for counts in found)
    return false, true


def _legend(figure: Figure, marks: Mapping[str, Mark]) -> None:
    handles = [Line2D([], [], color=mark.colour, ls=mark.line, label=label) for label, mark in marks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, max(1, len(handles))))
