"""How methods rank over many findings, and which ranks differ by more than chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from replication.comparison import Ranking, rank_methods
from replication.reporting.figures import Mark, new_figure, palette
from replication.reporting.report import Report
from replication.reporting.significance import METRIC_NAMES, SIGNIFICANT
from replication.reporting.summary import MEAN

RANKED: tuple[tuple[str, str, str], ...] = (
    ("zero_shot_classification", "auc", "Classification"),
    ("zero_shot_grounding", "pointing_game", "Grounding"),
    ("zero_shot_relations", "relation_auc", "Relations"),
)
"""Task, metric and title of each panel of the figure of ranks."""


@dataclass(frozen=True)
class RankedPanel:
    """Average ranks of one task.

    Attributes:
        labels: of the ranked methods, in the order of ``ranking.ranks``; empty where fewer than two can be.
        left_out: competing methods that lack a number in some block.
    """

    title: str
    labels: tuple[str, ...]
    ranking: Ranking | None
    left_out: tuple[str, ...]


def ranked_panel(report: Report, task: str, metric: str, title: str) -> RankedPanel:
    """Ranks of the competing methods over all (protocol, finding) of a task, of means over seeds.

    Bounds, variants and other recipes than the tier's are not ranked. A finding on which nobody has a number
    is no block; a method that lacks one where another has it is left out.
    """
    protocols = [protocol.id for protocol in report.protocols(task)]
    rows = report.select(task=task, metric=metric, protocol=protocols, recipe=report.tier.recipe)
    competing = [
        entry.label
        for entry in report.entries()
        if not entry.reference and "/" not in entry.label and entry.recipe == report.tier.recipe
    ]
    rows = rows[rows["label"].isin(competing) & (rows["finding"] != MEAN) & (rows["label_fraction"] == 0)]
    table = rows.pivot_table(
        index=["protocol", "finding"],
        columns="label",
        values="value",
        aggfunc=lambda values: values.mean(skipna=False),
    )
    table = table.dropna(how="all")
    complete = [label for label in competing if label in table and table[label].notna().all()]
    left_out = tuple(label for label in competing if label not in complete)
    if len(complete) < 2 or len(table) < 2:
        return RankedPanel(title, (), None, left_out)
    return RankedPanel(title, tuple(complete), rank_methods(table[complete].to_numpy()), left_out)


def critical_difference_figure(report: Report) -> tuple[Figure, str]:
    """``critical_difference``: average ranks of each task with bars of Nemenyi's test.

    Returns:
        The figure, and what its reader needs to know.
    """
    panels = [ranked_panel(report, *ranked) for ranked in RANKED]
    marks = palette([label for panel in panels for label in panel.labels])
    most = max((len(panel.labels) for panel in panels), default=0)
    figure = new_figure(7.0, 1.3 + 0.2 * max(most, 3))
    for axes, panel, (_, metric, _) in zip(figure.subplots(1, len(panels)), panels, RANKED, strict=True):
        _draw_ranks(axes, panel, marks, METRIC_NAMES[metric], most)
    text = (
        "Average rank of each method over findings, for relations over places of findings (1 is best), seeds "
        "averaged. The bars have the width of Nemenyi's critical difference at level "
        f"{SIGNIFICANT:.2f}: two methods whose bars do not overlap are told apart; the band is the bar of "
        "the best. Findings of one data set share their images, which the test does not know, so it tells "
        "methods apart too readily. Bounds are not ranked."
    )
    gaps = [f"{panel.title}: {', '.join(panel.left_out)}" for panel in panels if panel.left_out]
    return figure, text + (
        f" Without a number for every finding, and not ranked: {'; '.join(gaps)}." if gaps else ""
    )


def _draw_ranks(axes: Axes, panel: RankedPanel, marks: dict[str, Mark], metric: str, most: int) -> None:
    if panel.ranking is None:
        axes.set_axis_off()
        axes.set_title(panel.title)
        axes.text(
            0.5, 0.5, "fewer than two methods\nor findings to rank", ha="center", va="center", color="0.4"
        )
        return
    ranks, half = panel.ranking.ranks, panel.ranking.critical_difference / 2
    order = np.argsort(ranks, kind="stable")
    axes.axvspan(ranks[order[0]] - half, ranks[order[0]] + half, color="0.93", lw=0, zorder=0)
    for place, method in enumerate(order):
        mark = marks[panel.labels[method]]
        axes.plot([ranks[method] - half, ranks[method] + half], [place, place], color=mark.colour, lw=2.2)
        axes.plot(ranks[method], place, mark.marker, color=mark.colour, mec="white", mew=0.6, ms=6.5)
    axes.set_yticks(range(len(order)), [panel.labels[method] for method in order])
    axes.set_ylim(max(most, 3) - 0.4, -0.6)
    axes.set_xticks(range(1, len(order) + 1) if len(order) < 8 else range(1, len(order) + 1, 3))
    p_value = panel.ranking.p_value
    friedman = (
        "" if math.isnan(p_value) else f"\nFriedman p {'< 0.001' if p_value < 1e-3 else f'= {p_value:.3f}'}"
    )
    axes.set_xlabel(f"average rank\ncritical difference {2 * half:.2f}{friedman}")
    axes.grid(axis="x", color="0.88")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    what = "places" if panel.title == "Relations" else "findings"
    axes.set_title(f"{panel.title}\n{metric}, {panel.ranking.blocks} {what}", fontsize=8)
