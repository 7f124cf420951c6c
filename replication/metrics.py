"""Metrics of scores and of heat maps, as pure functions of arrays.

Each ranking metric has one implementation that takes a ``Resampling`` and answers for all bootstrap resamples
at once; the plain metric is the same function with every sample counted once.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from replication.statistics import FloatArray, Resampling, ratio

ThresholdOp = Literal["ge", "gt"]
PointingTie = Literal["cell_centre", "any_pixel"]
ThresholdGoal = Literal["f1", "mcc"]
BoolArray = NDArray[np.bool_]

_COLUMNS = 256
"""Resamples that are worked on at once; bounds memory to a few hundred megabytes for 30,000 images."""


def roc_auc_draws(labels: NDArray[Any], scores: NDArray[Any], resampling: Resampling) -> FloatArray:
    """Area under the ROC curve in each resample; ties count one half.

    Args:
        labels: ``[N]`` 0 or 1. scores: ``[N]``, higher = more likely 1.

    Returns:
        ``[R]``; NaN where a resample holds only one class.
    """
    positive, negative = _segment_counts(labels, scores, resampling)

    def auc(pos: FloatArray, neg: FloatArray) -> FloatArray:
        below = np.cumsum(neg, axis=0)
        won = (pos * (below[0:-1:2] + 0.5 * neg[1::2])).sum(axis=0)
        return ratio(won, pos.sum(axis=0) * below[-1])

    return _per_block(auc, positive, negative, resampling)


def average_precision_draws(labels: NDArray[Any], scores: NDArray[Any], resampling: Resampling) -> FloatArray:
    """Average precision in each resample: the sum over thresholds of precision times the step in recall.

    Returns:
        ``[R]``; NaN where a resample holds no positive.
    """
    positive, negative = _segment_counts(labels, scores, resampling)

    def precision(pos: FloatArray, neg: FloatArray) -> FloatArray:
        true = np.cumsum(pos[::-1], axis=0)
        false = np.cumsum(neg[::-1], axis=0)[1::2]
        steps = pos[::-1] * np.nan_to_num(ratio(true, true + false))
        return ratio(steps.sum(axis=0), pos.sum(axis=0))

    return _per_block(precision, positive, negative, resampling)


def roc_auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the ROC curve; NaN without both classes."""
    return float(roc_auc_draws(labels, scores, Resampling.none(len(labels)))[0])


def mean_roc_auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Mean area under the ROC curve over columns, ``[N, F]`` each; NaN if no column has both classes.

    Args:
        labels: 0 or 1; below 0 unknown, left out.
    """
    columns = zip(labels.T, scores.T, strict=True)
    found = [roc_auc(known[known >= 0], values[known >= 0]) for known, values in columns]
    defined = [value for value in found if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def average_precision(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Average precision; NaN without a positive."""
    return float(average_precision_draws(labels, scores, Resampling.none(len(labels)))[0])


def _segment_counts(labels: NDArray[Any], scores: NDArray[Any], resampling: Resampling) -> tuple[Any, Any]:
    """Samples of each patient by segment of the score axis.

    The K distinct scores of positives cut the axis into 2K + 1 segments: below the first, equal to it,
    between it and the second, ... Only these counts matter for ranking metrics, and multiplied with the
    resampling counts they give the metric's ingredients for all resamples at once.

    Returns:
        Sparse ``[K, P]`` of positives (segments 1, 3, ...) and ``[2K + 1, P]`` of negatives.
    """
    present = np.asarray(labels) == 1
    marks = np.unique(scores[present])
    count, patients = len(marks), resampling.counts.shape[0]
    index = np.searchsorted(marks, scores)
    tied = marks[np.minimum(index, count - 1)] == scores if count else np.zeros(len(scores), dtype=bool)

    def counted(rows: NDArray[Any], chosen: BoolArray, height: int) -> Any:
        ones = np.ones(int(chosen.sum()), dtype=np.float32)
        cells = (rows[chosen], resampling.unit[chosen])
        return sparse.csr_matrix((ones, cells), shape=(height, patients))

    return counted(index, present, count), counted(2 * index + tied, ~present, 2 * count + 1)


def _per_block(metric: Any, positive: Any, negative: Any, resampling: Resampling) -> FloatArray:
    blocks = []
    for start in range(0, resampling.draws, _COLUMNS):
        counts = resampling.counts[:, start : start + _COLUMNS]
        # Counts are small integers, exact in float32; their products and running sums need float64.
        blocks.append(metric((positive @ counts).astype(np.float64), (negative @ counts).astype(np.float64)))
    return np.concatenate(blocks)


def predicted(scores: NDArray[Any], threshold: float, op: ThresholdOp = "ge") -> BoolArray:
    """Which scores count as present. ``gt`` leaves the threshold itself out (released code, audit Z4)."""
    scores = np.asarray(scores)
    return np.asarray(scores >= threshold if op == "ge" else scores > threshold)


def best_threshold(labels: NDArray[Any], scores: NDArray[Any], goal: ThresholdGoal = "f1") -> float:
    """The score that maximises the goal when "present" means ``score >= threshold``; the lowest of equals.

    Args:
        labels: ``[N]`` 0 or 1. scores: ``[N]``.
        goal: F1, or Matthews' correlation of labels and calls (KAD's released code, audit A8), which is 0
            where all or none are called.

    Returns:
        NaN if there is no positive.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    total = int((labels == 1).sum())
    if total == 0:
        return float("nan")
    candidates, index = np.unique(scores, return_inverse=True)
    called = np.cumsum(np.bincount(index, minlength=len(candidates))[::-1])[::-1]
    true = np.cumsum(np.bincount(index, weights=labels == 1, minlength=len(candidates))[::-1])[::-1]
    if goal == "f1":
        reached = 2 * true / (called + total)
    else:
        count = len(labels)
        spread = np.sqrt(called * (count - called) * float(total * (count - total)))
        reached = np.nan_to_num(ratio(count * true - called * total, spread))
    return float(candidates[np.argmax(reached)])


class ThresholdMetrics(NamedTuple):
    """F1 and accuracy in each resample, ``[R]`` each."""

    f1: FloatArray
    accuracy: FloatArray


def threshold_metrics_draws(
    labels: NDArray[Any], calls: BoolArray, resampling: Resampling
) -> ThresholdMetrics:
    """F1 and accuracy of yes-or-no calls ``[N]`` in each resample; F1 is 0 where nothing is called."""
    present = np.asarray(labels) == 1
    table = np.stack([calls & present, calls, present, calls == present, np.ones_like(present)], axis=1)
    true, called, positive, right, all_ = resampling.weighted_sums(table)
    return ThresholdMetrics(np.nan_to_num(ratio(2 * true, called + positive)), ratio(right, all_))


def pointing_hits(heat: NDArray[Any], truth: BoolArray, tie: PointingTie = "cell_centre") -> FloatArray:
    """Pointing game per image: does the highest cell of the map lie in the true region?

    Args:
        heat: ``[P, h, w]`` on the method's own grid. truth: ``[P, S, S]``.
        tie: ``cell_centre`` asks for the centre of the highest cell, and a tie of k cells counts as the share
            of them that hit, so that a constant map scores the share of the image that the region covers;
            ``any_pixel`` counts a hit if any pixel of any highest cell lies in the region (audit G6).

    Returns:
        ``[P]`` between 0 and 1.
    """
    _, height, width = heat.shape
    highest = heat == heat.max(axis=(1, 2), keepdims=True)
    rows, columns = (_edges(truth.shape[axis], cells) for axis, cells in ((1, height), (2, width)))
    if tie == "any_pixel":
        covered = np.logical_or.reduceat(
            np.logical_or.reduceat(truth, rows[:-1], axis=1), columns[:-1], axis=2
        )
        return np.asarray((highest & covered).any(axis=(1, 2)), dtype=np.float64)
    inside = truth[:, (rows[:-1] + rows[1:]) // 2][:, :, (columns[:-1] + columns[1:]) // 2]
    return np.asarray((highest & inside).sum(axis=(1, 2)) / highest.sum(axis=(1, 2)), dtype=np.float64)


def _edges(pixels: int, cells: int) -> NDArray[np.int64]:
    """First pixel of each cell, and the end: ``[cells + 1]``."""
    return np.arange(cells + 1) * pixels // cells


class Overlap(NamedTuple):
    """Per image, ``[P]`` each."""

    iou: FloatArray
    dice: FloatArray
    recall: FloatArray
    precision: FloatArray


def overlap(region: BoolArray, truth: BoolArray) -> Overlap:
    """How well a predicted region ``[P, S, S]`` covers the true one, per image.

    An empty prediction has precision 0; every true region must hold a pixel.
    """
    both = (region & truth).sum(axis=(1, 2)).astype(np.float64)
    found = region.sum(axis=(1, 2)).astype(np.float64)
    true = truth.sum(axis=(1, 2)).astype(np.float64)
    return Overlap(
        iou=ratio(both, found + true - both),
        dice=ratio(2 * both, found + true),
        recall=ratio(both, true),
        precision=np.nan_to_num(ratio(both, found)),
    )


def pixel_auc(maps: NDArray[Any], truth: BoolArray) -> FloatArray:
    """Per image, the probability that a pixel of the true region is hotter than one outside; ties one half.

    Args:
        maps: ``[P, S, S]``. truth: ``[P, S, S]``.

    Returns:
        ``[P]``; NaN where the region is empty or the whole image.
    """
    ranks = stats.rankdata(maps.reshape(len(maps), -1), axis=1)
    inside = truth.reshape(len(truth), -1)
    count = inside.sum(axis=1).astype(np.float64)
    won = (ranks * inside).sum(axis=1) - count * (count + 1) / 2
    return ratio(won, count * (inside.shape[1] - count))
