"""Retrieval: does an image find its report among the test reports, and a report its image?

A study may have several images, and two studies may have the very same report. So an image searches the
*distinct* reports for its own, and a study's report searches the images for any of a study with the same
report. Only the rank of the first hit is stored: recall at any depth and the median rank follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replication.config_files import derived_seed
from replication.data.batches import PreparedData
from replication.devices import compute_device
from replication.method import CannotAnswer, Method
from replication.protocol_config import Protocol
from replication.statistics import FloatArray, Resampling
from replication.tasks.common import (
    Draws,
    Measurement,
    NothingToMeasure,
    Predictions,
    answers,
    identifiers,
    long_format,
    resampling,
)

TO_REPORT, TO_IMAGE = "image_to_report", "report_to_image"
DEPTHS = (1, 5, 10)
"""K of recall at K."""

MAX_STUDIES = 1000
"""So many test studies at most are searched, the same for all methods; with more, recall would be lower."""


def predict(
    method: Method, data: PreparedData, protocol: Protocol, *, batch_size: int = 128, progress: bool = False
) -> Predictions:
    """Ranks of the first hit, in the column ``score``: 1 is best.

    Every image has a rank in both directions. Those of its report are equal for all images of a study; the
    label is 1 for the first of them and -1 for the others, so that a report counts once. The arrays
    ``candidates`` ``[2]`` and ``hits`` ``[N, 2]`` say how many reports and images there are to choose from,
    and how many of these are right.

    Raises:
        DataError: the data are not those of the protocol.
        NothingToMeasure: the method compares no reports, or there are fewer than two distinct ones.
    """
    data.check_protocol(protocol)
    rows, studies = searched(data, derived_seed("retrieval", protocol.id))
    texts, own = np.unique([_plain(data.reports[study]) for study in studies], return_inverse=True)
    if len(texts) < 2:
        raise NothingToMeasure(
            "Retrieval needs at least two different reports in the test split.",
            where=data.name,
            found=len(texts),
            remedy="evaluate this task on data with reports",
        )
    method.to(compute_device()).eval()
    first_with = np.unique(own, return_index=True)[1]
    try:
        with torch.inference_mode():
            scorer = method.report_scorer([data.reports[studies[i]] for i in first_with])
    except CannotAnswer as reason:
        raise NothingToMeasure(str(reason), where=method.name) from reason
    said = answers(
        method,
        lambda images, _: scorer(images),
        data,
        rows,
        [],
        batch_size=batch_size,
        progress=progress,
        title=protocol.id,
    )
    scores = np.concatenate(list(said))
    right = own[:, None] == np.arange(len(texts))
    ranks = np.stack([first_hit(scores, right), first_hit(scores.T, right.T)[own]], axis=1)
    hits = np.stack([np.ones_like(own), right.sum(axis=0)[own]], axis=1)
    counted = np.where(pd.Series(studies).duplicated(), -1, 1)
    labels = np.stack([np.ones_like(counted), counted], axis=1)
    return Predictions(
        long_format(identifiers(data, rows), [TO_REPORT, TO_IMAGE], ranks, labels),
        {"candidates": np.array([len(texts), len(rows)]), "hits": hits.astype(np.int32)},
    )


def searched(data: PreparedData, seed: int) -> tuple[NDArray[np.int64], list[str]]:
    """Test images with a report, of at most ``MAX_STUDIES`` studies, and the study of each."""
    rows = data.rows("test")
    studies = data.manifest["study_id"].astype(str).to_numpy()[rows]
    told = np.array([bool(_plain(data.reports.get(study, ""))) for study in studies], dtype=bool)
    rows, studies = rows[told], studies[told]
    names = np.unique(studies)
    if len(names) > MAX_STUDIES:
        names = np.random.default_rng(seed).choice(names, MAX_STUDIES, replace=False)
    chosen = np.isin(studies, names)
    return rows[chosen], [str(study) for study in studies[chosen]]


def _plain(report: str) -> str:
    """A report without differences of white space."""
    return " ".join(report.split())


def first_hit(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> FloatArray:
    """Rank of the best right candidate of each query, 1 being first; ties count as in a random order.

    Args:
        scores: ``[Q, M]``. right: ``[Q, M]``, at least one in each row.

    Returns:
        ``[Q]``; with t wrong and h right candidates at the best right score, t / (h + 1) of the wrong ones
        are expected before the first right one.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    above = ((scores > best) & ~right).sum(axis=1)
    tied = scores == best
    return np.asarray(1 + above + (tied & ~right).sum(axis=1) / ((tied & right).sum(axis=1) + 1.0))


def chance_recall(hits: NDArray[np.integer], candidates: int, depth: int) -> FloatArray:
    """Chance that one of the first ``depth`` of a random order is right, by query.

    Args:
        hits: ``[Q]`` right ones among the ``candidates``.
    """
    places = np.arange(min(depth, candidates))
    wrong = np.clip((candidates - hits[:, None] - places) / (candidates - places), 0, 1)
    return np.asarray(1 - wrong.prod(axis=1), dtype=np.float64)


def measure(predictions: Predictions, protocol: Protocol, *, draws: int = 1000) -> list[Measurement]:
    """Recall at 1, 5 and 10, what a random order would reach, and the median rank, in both directions."""
    return [one.measured() for one in metric_draws(predictions, protocol, draws=draws)]


def metric_draws(predictions: Predictions, protocol: Protocol, *, draws: int) -> list[Draws]:
    """The metrics of ``measure`` with their bootstrap draws, paired over runs of one protocol."""
    found = []
    for number, direction in enumerate((TO_REPORT, TO_IMAGE)):
        lines = predictions.frame[predictions.frame["finding"] == direction]
        counted = lines["label"].to_numpy() == 1
        ranks = lines["score"].to_numpy(np.float64)[counted]
        hits = predictions.arrays["hits"][counted, number]
        candidates = int(predictions.arrays["candidates"][number])
        resamples = resampling(lines["patient"].to_numpy(), protocol, draws)[counted]
        metrics: Sequence[tuple[str, FloatArray]] = [
            *((f"recall_at_{k}", (ranks <= k).astype(np.float64)) for k in DEPTHS),
            *((f"chance_recall_at_{k}", chance_recall(hits, candidates, k)) for k in DEPTHS),
        ]
        count = len(ranks)
        found += [
            Draws(direction, name, float(values.mean()), resamples.means(values), count, count)
            for name, values in metrics
        ]
        medians = median_draws(ranks, resamples)
        value = float(np.median(ranks))
        found.append(Draws(direction, "median_rank", value, medians, count, count, higher_is_better=False))
    return found


def median_draws(values: FloatArray, resamples: Resampling) -> FloatArray:
    """Median of ``[N]`` values in each resample, ``[R]``; NaN where nothing is drawn."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    weights = np.cumsum(resamples.counts[resamples.unit[order]], axis=0, dtype=np.float64)
    total = weights[-1]
    # The middle value, or the mean of the two in the middle where their number is even.
    low = ranked[(weights < total / 2).sum(axis=0).clip(max=len(ranked) - 1)]
    high = ranked[(weights <= total / 2).sum(axis=0).clip(max=len(ranked) - 1)]
    return np.where(total > 0, (low + high) / 2, np.nan)
