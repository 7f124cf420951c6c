"""Tables of where a method sees what it sees: heat maps against regions, and the where-metrics of scores."""

from __future__ import annotations

from collections.abc import Sequence

from replication.protocol_config import Protocol
from replication.reporting.report import LABEL_NAMES, Report, titled
from replication.reporting.summary import MEAN, Summariser, mean_notes
from replication.reporting.tables import Column, Row, Table

GROUNDING, RELATIONS = "zero_shot_grounding", "zero_shot_relations"
TASKS = (GROUNDING, RELATIONS)

Metrics = Sequence[tuple[str, Column]]

MAP_METRICS: Metrics = (
    ("box_share", Column("Region share", "Image", None)),
    ("pointing_game", Column("Pointing", "No threshold")),
    ("pixel_auc", Column("Pixel AUC", "No threshold")),
    ("iou", Column("IoU", "With threshold")),
    ("dice", Column("Dice", "With threshold")),
    ("precision", Column("Precision", "With threshold")),
    ("recall", Column("Recall", "With threshold")),
)
WHERE_METRICS: Metrics = (
    ("laterality_auc", Column("Laterality AUC")),
    ("site_auc", Column("Site AUC")),
    ("relation_auc", Column("Relation AUC")),
)


def grounding_table(report: Report) -> Table:
    """``zero_shot_grounding``: a block of methods per protocol; pointing game, overlap, pixel AUC."""
    return _blocks(
        report,
        GROUNDING,
        MAP_METRICS,
        name="zero_shot_grounding",
        title="Zero-shot grounding",
        caption=(
            "Heat maps for findings that are present, against boxes or masks that no method was trained on; "
            "means over test images, then over findings. Region share: the part of the image that the "
            "regions cover, which is what a random point scores in the pointing game and what a map without "
            "contrast scores in precision. Pixel AUC: 0.5 is chance."
        ),
        images="test images with a region",
        notes=("Every map is scaled by its own image alone, never by others in a batch.",),
    )


def relations_table(report: Report) -> Table:
    """``zero_shot_relations``: the where-metrics of scores, which need no heat map."""
    return _blocks(
        report,
        RELATIONS,
        WHERE_METRICS,
        name="zero_shot_relations",
        title="Zero-shot side, site and relation",
        caption=(
            "Whether scores know the place of a finding, asked the same way of every method and against the "
            "annotated reports. Laterality: is the score for the side that has it above that of the other "
            "side? Site: does its true place score above other places? Relation: do images with the finding "
            "in a place score above those without it there, or without it at all? Each is an AUC, and 0.5 is "
            "chance; relation is above it for a score that knows the finding and no place."
        ),
        images="test images",
        notes=(),
    )


def _blocks(
    report: Report,
    task: str,
    metrics: Metrics,
    *,
    name: str,
    title: str,
    caption: str,
    images: str,
    notes: tuple[str, ...],
) -> Table:
    """A table of methods by metrics with one block of rows per protocol."""
    summariser = Summariser(report)
    protocols = report.protocols(task)
    rows = tuple(
        Row(
            (_data_title(protocol), *entry.labels),
            tuple(summariser.cell(entry, task, protocol.id, None, metric) for metric, _ in metrics),
            entry.reference,
            protocol.id,
        )
        for protocol in protocols
        for entry in report.entries()
    )
    counted = _counts(report, protocols)
    left_out = mean_notes(summariser, GROUNDING, protocols, "pixel_auc")
    return Table(
        name=name,
        title=title,
        caption=caption,
        label_names=("Data", *LABEL_NAMES),
        columns=tuple(column for _, column in metrics),
        rows=rows,
        header=report.header(report.behind(rows), protocols, summariser.error_bars(), images),
        notes=(*notes, *counted, *left_out),
    )


def _counts(report: Report, protocols: Sequence[Protocol]) -> list[str]:
    """What the means of the where-metrics are over."""
    found = []
    for protocol in protocols:
        rows = report.select(task=RELATIONS, protocol=protocol.id)
        single = rows[(rows["finding"] != MEAN) & rows["value"].notna()]
        counts = single.groupby("metric")["finding"].nunique()
        if len(counts):
            names = {metric: column.name for metric, column in WHERE_METRICS}
            parts = [f"{names[metric]}: {counts.get(metric, 0)}" for metric in names]
            found.append(
                f"{protocol.id}: means over findings (laterality, site) or pairs of place and finding "
                f"(relation); numbers of them: {', '.join(parts)}."
            )
    return found


def _data_title(protocol: Protocol) -> str:
    kind = {"boxes": " (boxes)", "masks": " (masks)", "none": ""}[protocol.grounding]
    return titled(protocol.dataset) + kind
