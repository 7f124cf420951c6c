"""The table and the figure of what each stream of a method knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from replication.protocol_config import Protocol
from replication.reporting.draws import load_predictions
from replication.reporting.figures import COLOURS, MARKERS, new_figure
from replication.reporting.report import LABEL_NAMES, Entry, Report, first_seeds
from replication.reporting.summary import Summariser
from replication.reporting.tables import Cell, Column, Row, Table

IMAGES, PATCHES = "disentanglement", "disentanglement_patches"
TASKS = (IMAGES, PATCHES)
STREAMS = ("trunk", "pathology", "anatomy")
LEVELS = {IMAGES: "image", PATCHES: "patch"}

_COLUMNS: tuple[tuple[str, Column], ...] = (
    ("pathology_auc", Column("Pathology", "AUC of the probes", None)),
    ("anatomy_auc", Column("Anatomy", "AUC of the probes", None)),
    ("side_auc", Column("Side", "AUC of the probes", None)),
    ("chance_pathology_auc", Column("Pathology", "Shuffled labels", None)),
    ("chance_anatomy_auc", Column("Anatomy", "Shuffled labels", None)),
    ("chance_side_auc", Column("Side", "Shuffled labels", None)),
    ("contrast", Column("Own - other", "Contrast", None)),
    ("contrast_to_trunk", Column("Minus trunk's", "Contrast", None)),
)
_SEED = 0
"""Of the embedding."""


def protocol(report: Report) -> Protocol | None:
    """The tier's protocol of this task."""
    return next(iter(report.protocols(IMAGES)), None)


def streams_table(report: Report, *, variants: bool = False) -> Table:
    """``disentanglement``: a block for images and one for patches, a row per method and stream.

    Args:
        variants: instead of methods, those that this was measured of; named ``disentanglement_variants``.
    """
    summariser = Summariser(report)
    asked = report.protocols(IMAGES)
    entries = _variants(report) if variants else report.entries()
    rows = tuple(
        Row(
            (level, *entry.labels, stream),
            tuple(_cell(summariser, entry, task, one, stream, metric) for metric, _ in _COLUMNS),
            entry.reference,
            level,
        )
        for one in asked
        for task, level in LEVELS.items()
        for entry in entries
        for stream in _streams_of(report, entry)
    )
    return Table(
        name="disentanglement" + ("_variants" if variants else ""),
        title="What each stream knows" + (", without a part of the method" if variants else ""),
        caption=(
            "Logistic regressions on frozen, standardised features, one class against the rest, trained on "
            "the training split; macro AUC on test data. Image: mean patch of a stream; pathology is which "
            "findings the report states, anatomy and side are where the finding lies, in images with one "
            "alone. Patch: pathology is which finding covers it, anatomy is which of eight regions it lies "
            "in, by exact masks. Every method has the stream trunk, so that it is a comparison. Own - "
            "other: for the stream pathology the AUC of pathology minus that of anatomy, for the stream "
            "anatomy the reverse; beside it the same minus that of the method's own trunk, which takes out "
            "that one target is easier. Streams are disentangled if the last column is above 0 in both."
        ),
        label_names=("Level", *LABEL_NAMES, "Stream"),
        named_by=2,
        columns=tuple(column for _, column in _COLUMNS),
        rows=rows,
        header=report.header(report.behind(rows), asked, summariser.error_bars(), "test images or patches"),
        notes=(
            "Shuffled labels: the same probes taught labels in random order, mean over classes and shuffles; "
            "this is chance as measured here.",
            "Pathology and anatomy depend on each other (a large heart is where the heart is), so even a "
            "perfect stream reads the other's target above chance.",
        ),
    )


def _variants(report: Report) -> list[Entry]:
    """Variants that were measured, below the method whose variants they are."""
    measured = set(rows_of(report)["label"])
    found = [entry for entry in report.entries(variants=True) if entry.label in measured]
    methods = {entry.label.partition("/")[0] for entry in found if "/" in entry.label}
    return [entry for entry in found if entry.label.partition("/")[0] in methods]


def _streams_of(report: Report, entry: Entry) -> list[str]:
    rows = report.select(label=entry.label, recipe=entry.recipe, task=list(TASKS))
    return [stream for stream in STREAMS if stream == "trunk" or (rows["finding"] == stream).any()]


def _cell(summariser: Summariser, entry: Entry, task: str, asked: Protocol, stream: str, metric: str) -> Cell:
    if stream == "trunk" and metric.startswith("contrast"):
        return Cell.absent("the trunk has no target of its own")
    if task == PATCHES and "side" in metric:
        return Cell.absent("the regions of patches name their side")
    return summariser.cell(entry, task, asked.id, stream, metric)


@dataclass(frozen=True)
class Shown:
    """Pooled features of test images with a single finding.

    Attributes:
        features: ``[M, C]`` by stream. pathology, side: ``[M]`` names of classes; "" where unknown.
    """

    features: dict[str, NDArray[np.float32]]
    pathology: NDArray[np.str_]
    side: NDArray[np.str_]


def embeddings_figure(report: Report) -> tuple[Figure, str, pd.DataFrame]:
    """``stream_embeddings``: a column per stream of MeDSLIP, coloured by finding above and by side below.

    Returns:
        The figure, what its reader needs to know, and the rows of the run that is shown.
    """
    shown = _shown(report)
    names = [name for name in STREAMS if shown is not None and name in shown.features]
    figure = new_figure(6.9, 4.9)
    grid = figure.subplots(2, max(1, len(names)), squeeze=False)
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    if shown is None:
        grid[0, 0].text(0.05, 0.5, "no features are stored", fontsize=7.5)
    else:
        for column, name in enumerate(names):
            places = embedded(shown.features[name])
            grid[0, column].set_title(f"stream {name}")
            for row, classes in enumerate((shown.pathology, shown.side)):
                _scatter(grid[row, column], places, classes)
        for axes, title in zip(grid[:, 0], ("by finding", "by side"), strict=True):
            axes.set_ylabel(title)
        for row in grid:
            handles, labels = row[-1].get_legend_handles_labels()
            row[-1].legend(
                handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6.5, handletextpad=0.1
            )
    text = (
        "Test images with a single finding, by the mean patch of each stream of medslip at its lowest seed; "
        "t-SNE of standardised features with a fixed seed. Each column is one embedding, coloured twice. "
        "Distances between groups mean little in such pictures; the table `disentanglement` measures."
    )
    rows = rows_of(report)
    return figure, text, first_seeds(rows[rows["label"] == "medslip"])


def embedded(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two coordinates ``[M, 2]`` of each of M features, by t-SNE from a PCA start; equal calls agree."""
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    perplexity = min(30.0, max(2.0, (len(features) - 1) / 3))
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=_SEED, n_jobs=1)
    return np.asarray(tsne.fit_transform(scaled), dtype=np.float32)


def _scatter(axes: Axes, places: NDArray[np.float32], classes: NDArray[np.str_]) -> None:
    for number, name in enumerate(sorted(set(classes[classes != ""]))):
        some = places[classes == name]
        mark = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        axes.scatter(
            some[:, 0],
            some[:, 1],
            s=7,
            color=COLOURS[number % len(COLOURS)],
            marker=mark,
            linewidths=0,
            label=str(name).replace("_", " "),
        )


def _shown(report: Report) -> Shown | None:
    """Stored features of MeDSLIP's lowest seed; ``None`` where there are none."""
    asked, summariser = protocol(report), Summariser(report)
    entries = [one for one in report.entries() if one.label == "medslip" and one.recipe == report.tier.recipe]
    paths = [path for one in entries for path in summariser.paths(one, IMAGES, asked.id if asked else "")]
    if not paths:
        return None
    stored = load_predictions(paths[0])
    prefix = "features/"
    features = {
        name.removeprefix(prefix): one.astype(np.float32)
        for name, one in stored.arrays.items()
        if name.startswith(prefix)
    }
    some = np.asarray(stored.arrays["shown"])
    if len(some) < 3:
        return None
    side = _named(stored.frame, "side", some, negative="right")
    return Shown(features, _named(stored.frame, "pathology", some), side)


def _named(
    frame: pd.DataFrame, target: str, some: NDArray[np.int64], *, negative: str = ""
) -> NDArray[np.str_]:
    """The class with label 1 of each chosen test sample, by the first stream's probes of a target."""
    found = np.full(len(some), "", dtype="U40")
    first = str(frame["finding"].iloc[0]).partition("/")[0]
    for finding, lines in frame.groupby("finding", sort=False):
        stream, of, kind = str(finding).split("/", 2)
        if stream == first and of == target:
            labels = lines["label"].to_numpy()[some]
            found[labels == 1] = kind
            if negative:
                found[labels == 0] = negative
    return found


def rows_of(report: Report, tasks: Sequence[str] = TASKS) -> pd.DataFrame:
    """What the table is made from."""
    return report.select(task=list(tasks), protocol=[one.id for one in report.protocols(IMAGES)])
