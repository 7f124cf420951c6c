"""Do texts know what reports know? Similarity of pathologies' texts against how often they occur together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from replication.checkpoints import WEIGHTS, read_tensors
from replication.data.batches import PreparedData
from replication.errors import DataError, UserError
from replication.knowledge.descriptions import load_descriptions
from replication.knowledge.text_encoder import TextEncoder
from replication.knowledge.triplets import pathology_labels
from replication.knowledge.vocabulary import (
    EXCLUDED_PATHOLOGY,
    NORMAL_PATHOLOGIES,
    PATHOLOGIES,
    TAIL_PATHOLOGY,
)
from replication.reporting.figures import COLOURS, new_figure
from replication.reporting.report import Report
from replication.statistics import FloatArray

LEAST_STUDIES = 20
"""A pathology that fewer training studies mention as present is left out: its co-occurrence is noise."""

PERMUTATIONS = 4999
NUMBERED = 5


class Occurrence(NamedTuple):
    """Which pathologies occur together in the pre-training studies.

    Attributes:
        classes: ``[K]`` class numbers of the K pathologies that are common enough; normal ones and the
            catch-all classes are left out.
        correlation: ``[K, K]`` of their presence over studies (phi, -1 to 1).
        studies: how many there are.
    """

    classes: NDArray[np.int64]
    correlation: FloatArray
    studies: int

    @property
    def names(self) -> list[str]:
        """Of the pathologies."""
        return [PATHOLOGIES[i] for i in self.classes]

    def together(self, count: int) -> NDArray[np.int64]:
        """Numbers of the pairs (of the upper triangle, row by row) that occur together most."""
        upper = self.correlation[np.triu_indices(len(self.classes), 1)]
        return np.argsort(-upper, kind="stable")[:count]


class Mantel(NamedTuple):
    """Rank correlation of the pairs of two similarity matrices, with a two-sided permutation p value."""

    correlation: float
    p_value: float


def read_occurrence(report: Report) -> Occurrence:
    """Of the tier's pre-training data, training split.

    Raises:
        DataError: nothing is prepared, there are no triplets, or fewer than four pathologies are common.
    """
    data = PreparedData.open(report.work / "prepared" / report.tier.pretrain)
    if data.triplets is None:
        raise DataError("The pre-training data have no triplets.", where=data.folder)
    rows = data.manifest["triplet_row"].to_numpy()[data.rows("train")]
    return occurrence(pathology_labels(np.asarray(data.triplets[np.unique(rows[rows >= 0])])) == 1)


def occurrence(present: NDArray[np.bool_]) -> Occurrence:
    """From the presence ``[N, 75]`` of every pathology in N studies.

    Raises:
        DataError: fewer than four pathologies are present in ``LEAST_STUDIES`` studies.
    """
    left_out = {*NORMAL_PATHOLOGIES, EXCLUDED_PATHOLOGY, TAIL_PATHOLOGY}
    counts = present.sum(axis=0)
    common = [LEAST_STUDIES <= count < len(present) for count in counts]
    kept = np.array([name not in left_out for name in PATHOLOGIES]) & np.array(common)
    index = np.flatnonzero(kept)
    if len(index) < 4:
        raise DataError(
            "Too few pathologies are common enough to correlate.",
            found=[PATHOLOGIES[i] for i in index],
            allowed=f"four pathologies, each present in {LEAST_STUDIES} studies",
        )
    return Occurrence(index, np.corrcoef(present[:, index].T.astype(np.float64)), len(present))


def cosines(features: NDArray[np.floating]) -> FloatArray:
    """``[K, D]`` -> ``[K, K]``."""
    rows = np.asarray(features, dtype=np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    return np.asarray(unit @ unit.T)


def mantel_test(a: FloatArray, b: FloatArray, *, permutations: int = PERMUTATIONS, seed: int = 0) -> Mantel:
    """Spearman's correlation over the pairs of two symmetric matrices ``[K, K]``.

    Pairs share their members, so p comes from permuting the members of one matrix, not the pairs (Mantel,
    Cancer Research 27, 1967).
    """
    upper = np.triu_indices(len(a), 1)
    ranks = np.empty_like(b)
    ranks[upper] = stats.rankdata(b[upper])
    ranks.T[upper] = ranks[upper]
    first = stats.zscore(stats.rankdata(a[upper]))
    second = (ranks - ranks[upper].mean()) / ranks[upper].std()
    value = float((first * second[upper]).mean())
    rng = np.random.default_rng(seed)
    beyond = 0
    for _ in range(permutations):
        order = rng.permutation(len(b))
        beyond += abs(float((first * second[order[upper[0]], order[upper[1]]]).mean())) >= abs(value) - 1e-12
    return Mantel(value, (beyond + 1) / (permutations + 1))


def text_similarity(report: Report) -> FloatArray:
    """Cosines ``[75, 75]`` of the descriptions in the tier's text encoder: mean over tokens, centred.

    Raises:
        ConfigError: the text encoder is not on this machine.
    """
    text = report.tier.text
    own = text.kind == "tiny-bert"
    source: str | Path = report.work / "text" / "tiny-bert" if own else text.name_or_path
    encoder = TextEncoder.from_pretrained(source, local_files_only=True)
    features = encoder.embed(load_descriptions(text.descriptions), pooling="mean", max_length=128)
    return cosines((features - features.mean(dim=0)).float().cpu().numpy())


def query_similarity(weights: Path) -> FloatArray | None:
    """Cosines ``[75, 75]`` of a run's projected queries; ``None`` where a method asks with none of its own.

    The methods of the query-decoder family keep their texts as ``pathology_book.features`` and project them
    with ``pathology_queries`` or, where both books share one projection, ``queries``.
    """
    tensors = read_tensors(weights)
    book = tensors.get("pathology_book.features")
    for name in ("pathology_queries", "queries"):
        weight = tensors.get(f"{name}.weight")
        if book is not None and weight is not None and len(book) == len(PATHOLOGIES):
            queries = book.float() @ weight.float().T + tensors[f"{name}.bias"].float()
            return cosines((queries - queries.mean(dim=0)).numpy())
    return None


@dataclass(frozen=True)
class Panel:
    """One panel: similarities ``[K, K]`` of the pathologies of the occurrence, with their test.

    Attributes:
        label: the method whose queries they are of; ``None`` is the text encoder.
    """

    label: str | None
    title: str
    similarity: FloatArray
    test: Mantel


def panels(report: Report, found: Occurrence) -> tuple[list[Panel], list[str]]:
    """The text encoder, then every method with queries of its own (mean over seeds); and what is missing."""
    made, missing = [], []
    grid = np.ix_(found.classes, found.classes)
    try:
        similarity = text_similarity(report)[grid]
        made.append(Panel(None, "text encoder", similarity, mantel_test(found.correlation, similarity)))
    except UserError as reason:
        missing.append(f"text encoder: {reason.problem}")
    folders = report.run_folders()
    for entry in report.entries():
        rows = report.select(label=entry.label, recipe=entry.recipe)
        paths = [folders[run] / WEIGHTS for run in sorted(rows["run_id"].unique()) if run in folders]
        if "/" in entry.label or not paths:
            continue
        seeds = [one for path in paths if path.is_file() and (one := query_similarity(path)) is not None]
        if seeds:
            similarity = np.mean(seeds, axis=0)[grid]
            title = f"queries of {entry.label}"
            made.append(Panel(entry.label, title, similarity, mantel_test(found.correlation, similarity)))
    return made, missing


def cooccurrence_figure(report: Report) -> tuple[Figure, str, pd.DataFrame]:
    """``text_vs_cooccurrence``: a panel per source of similarities, a dot per pair of pathologies.

    Returns:
        The figure, what its reader needs to know, and the rows of the runs that are shown.
    """
    try:
        found = read_occurrence(report)
        made, missing = panels(report, found)
    except DataError as reason:
        return *_nothing(f"nothing to show: {reason.problem}"), report.rows.head(0)
    if not made:
        return *_nothing(f"nothing to show: {'; '.join(missing)}"), report.rows.head(0)
    columns = min(3, len(made))
    lines = -(-len(made) // columns)
    figure = new_figure(0.4 + 2.3 * columns, 0.3 + 2.5 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, panel in zip(grid, made, strict=False):
        _draw(axes, panel, found)
    for axes in grid[len(made) :]:
        axes.set_axis_off()
    for number, axes in enumerate(grid[: len(made)]):
        axes.set_xlabel("correlation of presence (phi)")
        if number % columns == 0:
            axes.set_ylabel("cosine of texts")
    text = (
        f"Every dot is a pair of the {len(found.classes)} pathologies that at least {LEAST_STUDIES} of the "
        f"{found.studies:,} training studies report as present (normal and catch-all classes left out): how "
        "their presence correlates over studies, and how similar their texts are to the text encoder (mean "
        "over tokens, centred) and after the trained projection of each method that asks with these "
        "descriptions (mean over seeds). Rank correlation (Spearman) with a two-sided p value from "
        f"{PERMUTATIONS:,} permutations of the pathologies (Mantel). Pathologies may occur together without "
        "meaning the same, so a low correlation is no fault. Numbered are the pairs that occur together "
        f"most: {_most(found)}."
    )
    shown = report.rows["label"].isin([panel.label for panel in made])
    return figure, text + (f" Missing: {'; '.join(missing)}." if missing else ""), report.rows[shown]


def _draw(axes: Axes, panel: Panel, found: Occurrence) -> None:
    upper = np.triu_indices(len(found.classes), 1)
    x, y = found.correlation[upper], panel.similarity[upper]
    axes.axhline(0, color="0.85", lw=0.7)
    axes.axvline(0, color="0.85", lw=0.7)
    axes.plot(x, y, "o", color=COLOURS[0], ms=2.2, mew=0, alpha=0.45)
    for number, pair in enumerate(found.together(NUMBERED), 1):
        axes.plot(x[pair], y[pair], "o", color=COLOURS[1], ms=2.8, mew=0)
        axes.annotate(
            str(number), (x[pair], y[pair]), xytext=(3, 1), textcoords="offset points", fontsize=6.5
        )
    rho, p_value = panel.test
    chance = "p < 0.001" if p_value < 1e-3 else f"p = {p_value:.3f}"
    axes.set_title(f"{panel.title}\nrank correlation {rho:.2f}, {chance}", fontsize=7.5)
    axes.tick_params(labelsize=6.5)


def _most(found: Occurrence) -> str:
    """``1 lead and device, 2 atelectasis and loss``."""
    first, second = np.triu_indices(len(found.classes), 1)
    pairs = ((found.names[first[pair]], found.names[second[pair]]) for pair in found.together(NUMBERED))
    return ", ".join(f"{number} {' and '.join(pair)}" for number, pair in enumerate(pairs, 1))


def _nothing(why: str) -> tuple[Figure, str]:
    figure = new_figure(4.0, 1.6)
    figure.text(0.5, 0.5, why, ha="center", va="center", color="0.4", wrap=True)
    return figure, f"Texts against co-occurrence; {why}."
