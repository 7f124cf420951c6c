"""Tables and figure of the tasks that learn from labels: probe, fine-tuning and segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from replication.protocol_config import Protocol
from replication.reporting.figures import new_figure, palette
from replication.reporting.report import LABEL_NAMES, Entry, Report, titled
from replication.reporting.summary import Summariser, mean_notes
from replication.reporting.tables import Column, Row, Table
from replication.transfer_config import base_task

PROBE, CLASSIFICATION = "linear_probe", "finetune_classification"
SEGMENTATION, FROZEN = "finetune_segmentation", "finetune_segmentation_frozen"
ENCODERS = {SEGMENTATION: "updated", FROZEN: "frozen"}
_FRACTIONS = (
    "Columns: share of the training patients whose labels are used. Shares are nested, stratified by finding "
    "and drawn by patient, the same for all methods of a seed."
)


@dataclass(frozen=True)
class Panel:
    """One panel of the figure."""

    task: str
    protocol: Protocol
    title: str
    metric: str


def percent(fraction: float) -> str:
    """``1 %``, ``12.5 %``."""
    return f"{100 * fraction:.6g} %"


def protocols(report: Report, tasks: Sequence[str], *, further: bool = False) -> list[Protocol]:
    """The tier's protocols under which tasks that learn from labels are done, or those outside the tier."""
    if not further:
        return report.protocols(base_task(tasks[0]))
    found = {protocol.id: protocol for task in tasks for protocol in report.further_protocols(task)}
    return [found[protocol_id] for protocol_id in sorted(found)]


def fractions(report: Report, shown: Sequence[Protocol]) -> list[float]:
    """The shares of labels that were learned from under some protocols; the tier's for its own protocols."""
    own = report.tier.transfer is not None and any(p.id in report.tier.protocols for p in shown)
    asked = report.tier.transfer.fractions if own and report.tier.transfer else ()
    measured = report.select(protocol=[protocol.id for protocol in shown])["label_fraction"]
    return sorted({*asked, *measured[measured > 0]}) or [1.0]


def rows_of(report: Report, tasks: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Measured rows of some tasks and metrics under the tier's protocols."""
    shown = [protocol.id for protocol in protocols(report, tasks)]
    return report.select(task=list(tasks), metric=list(metrics), protocol=shown)


def classification_table(report: Report, task: str, *, further: bool = False) -> Table:
    """``linear_probe`` or ``finetune_classification``: methods by protocols and shares of labels, AUC.

    Args:
        further: show the protocols outside the tier instead, in a table of the name with ``_further``.
    """
    summariser = Summariser(report)
    shown = protocols(report, [task], further=further)
    shares = fractions(report, shown)
    columns = tuple(
        Column(percent(share), f"{_title(protocol)}, AUC", True, protocol=protocol.id)
        for protocol in shown
        for share in shares
    )
    rows = tuple(
        Row(
            entry.labels,
            tuple(
                summariser.cell(entry, task, protocol.id, None, "auc", share)
                for protocol in shown
                for share in shares
            ),
            entry.reference,
        )
        for entry in report.entries()
    )
    what = {
        PROBE: (
            "Linear probe",
            "Logistic regression per finding on the pooled features of the frozen image trunk.",
        ),
        CLASSIFICATION: (
            "Fine-tuned classification",
            "Image trunk and a linear head on its pooled features, all weights trained.",
        ),
    }[task]
    return Table(
        name=task + ("_further" if further else ""),
        title=what[0] + (" on further data" if further else ""),
        caption=f"{what[1]} {_FRACTIONS} Where a protocol has several findings, the mean over them is shown.",
        label_names=LABEL_NAMES,
        columns=columns,
        rows=rows,
        header=report.header(report.behind(rows), shown, summariser.error_bars()),
        notes=mean_notes(summariser, task, shown, "auc"),
    )


def segmentation_table(report: Report, *, further: bool = False) -> Table:
    """``finetune_segmentation``: a block of methods per encoder setting; Dice and IoU by share of labels.

    Args:
        further: show the protocols outside the tier instead, as ``finetune_segmentation_further``.
    """
    summariser = Summariser(report)
    shown = protocols(report, list(ENCODERS), further=further)
    shares = fractions(report, shown)
    metrics = (("dice", "Dice"), ("iou", "IoU"))
    columns = tuple(
        Column(percent(share), f"{_title(protocol)}, {name}", True, protocol=protocol.id)
        for protocol in shown
        for _, name in metrics
        for share in shares
    )
    rows = tuple(
        Row(
            (encoder, *entry.labels),
            tuple(
                summariser.cell(entry, task, protocol.id, None, metric, share)
                for protocol in shown
                for metric, _ in metrics
                for share in shares
            ),
            entry.reference,
            encoder,
        )
        for task, encoder in ENCODERS.items()
        for entry in report.entries()
    )
    measured = report.behind(rows)
    # The encoder setting is a column of the table, so it need not tell selections apart.
    measured = measured.assign(selection=measured["selection"].str.split(", encoder").str[0])
    return Table(
        name="finetune_segmentation" + ("_further" if further else ""),
        title="Fine-tuned segmentation" + (" on further data" if further else ""),
        caption=(
            "A U-Net decoder on the feature maps of the image trunk, which is trained with it (updated) or "
            f"stays as pre-trained (frozen). {_FRACTIONS} Means over the test images with a region."
        ),
        label_names=("Encoder", *LABEL_NAMES),
        columns=columns,
        rows=rows,
        header=report.header(measured, shown, summariser.error_bars(), "test images with a region"),
        notes=(
            "Dice and IoU over all test images, where an image without a region scores 1 if nothing is found "
            "in it and else 0, are in rows.parquet as dice_all and iou_all.",
        ),
    )


def panels(report: Report) -> list[list[Panel]]:
    """Rows of panels: probe, fine-tuned classification, segmentation with either encoder."""
    lines = [
        *(
            [Panel(task, p, f"{titled(p.dataset)}\n{title}", "auc") for p in protocols(report, [task])]
            for task, title in ((PROBE, "linear probe"), (CLASSIFICATION, "fine-tuned"))
        ),
        [
            Panel(task, p, f"{titled(p.dataset)}\nencoder {encoder}", "dice")
            for p in protocols(report, list(ENCODERS))
            for task, encoder in ENCODERS.items()
        ],
    ]
    return [line for line in lines if line]


def efficiency_figure(report: Report) -> tuple[Figure, str]:
    """``data_efficiency``: a panel per task and protocol, a line per method over the share of labels.

    Returns:
        The figure, and what its reader needs to know.
    """
    summariser = Summariser(report)
    lines = panels(report)
    shares = fractions(report, [panel.protocol for line in lines for panel in line])
    entries = [entry for entry in report.entries() if entry.recipe == report.tier.recipe]
    marks = palette([entry.label for entry in entries])
    columns = max((len(line) for line in lines), default=1)
    figure = new_figure(max(3.5, 1.85 * columns), 0.5 + 1.95 * max(1, len(lines)))
    grid = figure.subplots(max(1, len(lines)), columns, squeeze=False, sharey="row")
    for place, axes in np.ndenumerate(grid):
        line = lines[place[0]] if place[0] < len(lines) else []
        if place[1] >= len(line):
            axes.set_axis_off()
            continue
        panel = line[place[1]]
        for entry in entries:
            cells = [
                summariser.cell(
                    entry, panel.task, panel.protocol.id, None, panel.metric, share, interval=False
                )
                for share in shares
            ]
            pairs = zip(shares, cells, strict=True)
            known = [(share, cell.value) for share, cell in pairs if cell.value is not None]
            mark = marks[entry.label]
            axes.plot(
                [share for share, _ in known],
                [value for _, value in known],
                color=mark.colour,
                marker=mark.marker,
                mfc="white" if entry.reference else mark.colour,
                ls=mark.line,
                lw=1.0,
                ms=3.5,
            )
        _decorate(axes, panel, shares, first=place[1] == 0)
    _legend(figure, entries)
    text = (
        "What methods make of few labels: mean AUC over findings (linear probe, fine-tuned classification) "
        "and mean Dice over the test images with a region (segmentation), averaged over seeds, against the "
        "share of the training patients whose labels are used. Open markers are bounds that learn from "
        "labels or from nothing. Intervals are in the tables of the same tasks."
    )
    return figure, text


def _decorate(axes: Axes, panel: Panel, shares: Sequence[float], *, first: bool) -> None:
    axes.set_title(panel.title, fontsize=7.5)
    axes.set_xscale("log")
    axes.set_xticks(list(shares), [percent(share) for share in shares])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(shares) / 1.6, max(shares) * 1.6)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=6.5)
    if panel.metric == "auc":
        axes.axhline(0.5, color="0.5", lw=0.8, ls=(0, (3, 2)))
    if first:
        axes.set_ylabel({"auc": "AUC", "dice": "Dice"}[panel.metric])


def _legend(figure: Figure, entries: Sequence[Entry]) -> None:
    marks = palette([entry.label for entry in entries])
    handles = [
        Line2D(
            [],
            [],
            color=marks[entry.label].colour,
            marker=marks[entry.label].marker,
            mfc="white" if entry.reference else marks[entry.label].colour,
            ls=marks[entry.label].line,
            lw=1.0,
            ms=4,
            label=entry.label,
        )
        for entry in entries
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(6, max(1, len(handles))))


def _title(protocol: Protocol) -> str:
    name = titled(protocol.dataset)
    return f"{name} (mean of {len(protocol.findings)})" if len(protocol.findings) > 1 else name
