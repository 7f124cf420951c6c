"""The figure ``training_curves``: losses over epochs, from the logs of the runs."""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from replication.errors import DataError
from replication.reporting.figures import LINES, new_figure, palette
from replication.reporting.report import Report

CAPTION = (
    "Losses over epochs from the logs of the runs: validation solid, training dashed, thin lines single "
    "seeds, thick lines their mean. Losses of different methods differ in kind and cannot be compared."
)
_IN_A_ROW, _HEIGHT = 6, 8.8
"""Panels beside each other; inches that all lines of panels have on a page."""
_COLUMNS = ["run_id", "label", "recipe", "seed", "epoch", "split", "loss", "value"]


def read_logs(report: Report) -> pd.DataFrame:
    """Mean losses per epoch of every run of a method (not of its variants) that has a log.

    Returns:
        Columns run_id, label, recipe, seed, epoch (from 1), split (``train`` or ``val``), loss, value.

    Raises:
        DataError: a log is damaged.
    """
    lines = []
    columns = ["run_id", "label", "recipe", "seed"]
    runs = {run[0]: run for run in report.rows[columns].drop_duplicates().itertuples(index=False, name=None)}
    order = [entry.label for entry in report.entries()]
    for run_id, folder in report.run_folders().items():
        if runs[run_id][1] in order:
            lines += [(*runs[run_id], *measured) for measured in _epochs(folder / "log.jsonl")]
    lines.sort(key=lambda line: (order.index(line[1]), line[3], line[4]))
    return pd.DataFrame(lines, columns=_COLUMNS)


def _epochs(path: Path) -> list[tuple[int, str, str, float]]:
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            if entry["kind"] != "epoch":
                continue
            for split in ("train", "val"):
                for loss, value in (entry.get(split) or {}).items():
                    found.append((int(entry["epoch"]) + 1, split, str(loss), float(value)))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                "A training log is damaged.",
                where=f"{path}, line {number}",
                found=line[:80],
                remedy="delete the run's folder and train it again",
            ) from error
    return found


def _draw(axes: Axes, chosen: pd.DataFrame, colour: str) -> None:
    for split, line in (("train", LINES[1]), ("val", LINES[0])):
        one = chosen[chosen["split"] == split]
        for _, seed in one.groupby("run_id", sort=True):
            axes.plot(seed["epoch"], seed["value"], color=colour, ls=line, lw=0.6, alpha=0.45)
        mean = one.groupby("epoch")["value"].mean()
        axes.plot(mean.index, mean.to_numpy(), color=colour, ls=line)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(labelsize=6)
    axes.grid(color="0.92")


def curves_figure(logs: pd.DataFrame) -> Figure:
    """A panel per method and loss; training dashed, validation solid, a thin line per seed and their mean."""
    labels = list(dict.fromkeys(logs["label"]))
    losses = {
        label: ["total", *sorted(set(logs.loc[logs["label"] == label, "loss"]) - {"total"})]
        for label in labels
    }
    # A single part is the total.
    cells = [
        (label, loss) for label, names in losses.items() for loss in (names[:1] if len(names) == 2 else names)
    ]
    columns = min(_IN_A_ROW, max(2, len(cells)))
    rows = max(1, math.ceil(len(cells) / columns))
    figure = new_figure(1.25 * columns, 0.5 + min(1.15 * rows, _HEIGHT))
    panels = figure.subplots(rows, columns, squeeze=False)
    marks = palette(labels)
    for axes, (label, loss) in zip(panels.flat, cells, strict=False):
        chosen = logs[(logs["label"] == label) & (logs["loss"] == loss)]
        _draw(axes, chosen, marks[label].colour)
        title = textwrap.shorten(loss.replace("_", " "), 20, placeholder="…")
        axes.set_title(f"{label}\n{title}", pad=3, fontsize=6.5, color=marks[label].colour)
    for axes in panels.flat[len(cells) :]:
        axes.set_axis_off()
    for axes in panels.flat[max(0, len(cells) - columns) : len(cells)]:
        axes.set_xlabel("epoch", fontsize=6.5)
    if not labels:
        panels[0, 0].text(0.5, 0.5, "no training log was found", ha="center", va="center")
        panels[0, 0].set_axis_off()
    handles = [
        Line2D([], [], color="0.2", ls=LINES[0], label="validation"),
        Line2D([], [], color="0.2", ls=LINES[1], label="training"),
        Line2D([], [], color="0.2", lw=0.6, alpha=0.6, label="single seed"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure
