"""The table of retrieval between images and reports."""

from __future__ import annotations

from replication.reporting.report import LABEL_NAMES, Report
from replication.reporting.summary import Summariser
from replication.reporting.tables import Column, Row, Table

TASK = "retrieval"
DIRECTIONS = {"image_to_report": "Image finds report", "report_to_image": "Report finds image"}
_METRICS = (
    *((f"recall_at_{depth}", f"R@{depth}") for depth in (1, 5, 10)),
    ("median_rank", "Median rank"),
)


def retrieval_table(report: Report) -> Table:
    """``retrieval``: methods by direction; recall at 1, 5 and 10, and the median rank of the first hit."""
    summariser = Summariser(report)
    asked = report.protocols(TASK)
    measured = report.select(task=TASK, protocol=[one.id for one in asked])
    columns = [
        (direction, metric, Column(name, group, not metric.startswith("median"), decimals=_decimals(metric)))
        for direction, group in DIRECTIONS.items()
        for metric, name in _METRICS
    ]
    rows = tuple(
        Row(
            entry.labels,
            tuple(
                summariser.cell(entry, TASK, one.id, direction, metric) for direction, metric, _ in columns
            ),
            entry.reference,
        )
        for one in asked
        for entry in report.entries()
    )
    return Table(
        name=TASK,
        title="Retrieval between images and reports",
        caption=(
            "An image searches the distinct test reports for its own; a report searches the test images for "
            "one of its study, or of a study with the very same report. R@K: share of searches with a hit "
            "among the first K. Ties count as in a random order."
        ),
        label_names=LABEL_NAMES,
        columns=tuple(column for _, _, column in columns),
        rows=rows,
        header=report.header(report.behind(rows), asked, summariser.error_bars()),
        notes=tuple(_chance(report, direction) for direction in DIRECTIONS if len(measured)),
    )


def _decimals(metric: str) -> int:
    return 0 if metric == "median_rank" else 3


def _chance(report: Report, direction: str) -> str:
    """What a random order scores, which depends on the data alone."""
    rows = report.select(task=TASK, finding=direction)
    parts = [
        f"{name} {rows.loc[rows['metric'] == f'chance_{metric}', 'value'].iloc[0]:.4f}"
        for metric, name in _METRICS
        if metric.startswith("recall")
    ]
    searches = f"{DIRECTIONS[direction]}, {int(rows['n'].max()):,} searches"
    return f"{searches}: a random order scores {', '.join(parts)}."
