from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn import metrics as sklearn_metrics

from replication import metrics
from replication.statistics import Resampling

few = settings(max_examples=30, deadline=None)
SCORES = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=40)


def arrays(pairs: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = zip(*pairs, strict=True)
    return np.array(labels, dtype=np.int8), np.array(scores, dtype=np.float32) / 4


@few
@given(SCORES)
def test_ranking_metrics_are_those_of_scikit_learn(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = arrays(pairs)
    auc, precision = metrics.roc_auc(labels, scores), metrics.average_precision(labels, scores)
    if 0 < labels.sum() < len(labels):
        assert auc == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
        u = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
        assert auc == pytest.approx(u / labels.sum() / (len(labels) - labels.sum()))
    else:
        assert math.isnan(auc)
    if labels.any():
        assert precision == pytest.approx(sklearn_metrics.average_precision_score(labels, scores))
    else:
        assert math.isnan(precision)


@few
@given(SCORES, st.integers(0, 1000))
def test_draws_are_the_metric_of_the_drawn_images(pairs: list[tuple[bool, int]], seed: int) -> None:
    labels, scores = arrays(pairs)
    patients = np.random.default_rng(seed).integers(0, 5, len(labels)).astype(str)
    resamples = Resampling.by_patient(patients, 6, seed)
    calls = scores >= 0
    auc = metrics.roc_auc_draws(labels, scores, resamples)
    precision = metrics.average_precision_draws(labels, scores, resamples)
    f1, accuracy = metrics.threshold_metrics_draws(labels, calls, resamples)
    for draw in range(6):
        repeats = resamples.counts[resamples.unit, draw].astype(int)
        y, s, c = (np.repeat(array, repeats) for array in (labels, scores, calls))
        assert auc[draw] == pytest.approx(metrics.roc_auc(y, s), nan_ok=True)
        assert precision[draw] == pytest.approx(metrics.average_precision(y, s), nan_ok=True)
        assert accuracy[draw] == pytest.approx(np.mean(y == c))
        assert f1[draw] == pytest.approx(sklearn_metrics.f1_score(y, c, zero_division=0))


def test_blocks_of_resamples_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 50), rng.normal(size=50)
    resamples = Resampling.by_patient(np.arange(50), 20, 1)
    whole = metrics.roc_auc_draws(labels, scores, resamples)
    monkeypatch.setattr(metrics, "_COLUMNS", 7)
    assert np.array_equal(whole, metrics.roc_auc_draws(labels, scores, resamples))


def test_a_thousand_draws_of_fourteen_findings_take_less_than_two_seconds() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 900, 5000)
    labels, scores = rng.random((14, 5000)) < 0.06, rng.normal(size=(14, 5000))
    started = time.process_time()
    resamples = Resampling.by_patient(patients, 1000, 0)
    for y, s in zip(labels, scores, strict=True):
        draws = metrics.roc_auc_draws(y, s, resamples)
        assert draws.std() > 0
    assert time.process_time() - started < 2


@few
@given(SCORES)
def test_the_threshold_by_f1_is_the_best_of_the_precision_recall_curve(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = arrays(pairs)
    threshold = metrics.best_threshold(labels, scores)
    if not labels.any():
        assert math.isnan(threshold)
        return
    every = {t: sklearn_metrics.f1_score(labels, scores >= t) for t in scores.tolist()}
    best = max(every.values())
    assert threshold == min(t for t, value in every.items() if value == pytest.approx(best))


@pytest.mark.filterwarnings("ignore:A single label was found")
@few
@given(SCORES)
def test_the_threshold_by_matthews_correlation_is_as_good_as_any(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = arrays(pairs)
    threshold = metrics.best_threshold(labels, scores, "mcc")
    if not labels.any():
        assert math.isnan(threshold)
        return
    every = {t: sklearn_metrics.matthews_corrcoef(labels, scores >= t) for t in scores.tolist()}
    assert every[threshold] == pytest.approx(max(every.values()))


def test_threshold_operator_decides_about_the_threshold_itself() -> None:
    scores = np.array([0.1, 0.5, 0.9])
    assert metrics.predicted(scores, 0.5, "ge").tolist() == [False, True, True]
    assert metrics.predicted(scores, 0.5, "gt").tolist() == [False, False, True]


def literal_pointing(heat: np.ndarray, truth: np.ndarray, any_pixel: bool) -> float:
    """Pixel by pixel: each cell repeated, as the released code does."""
    side = len(truth) // len(heat)
    hottest = np.argwhere(heat == heat.max())
    hits = []
    for row, column in hottest:
        cell = truth[row * side : (row + 1) * side, column * side : (column + 1) * side]
        hits.append(bool(cell.any()) if any_pixel else bool(cell[side // 2, side // 2]))
    return float(any(hits)) if any_pixel else float(np.mean(hits))


@few
@given(st.integers(0, 10_000))
def test_pointing_game(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.integers(0, 4, size=(3, 4, 4)).astype(float)
    truth = rng.random((3, 16, 16)) < 0.1
    for tie in ("any_pixel", "cell_centre"):
        ours = metrics.pointing_hits(heat, truth, tie)
        literal = [literal_pointing(h, t, tie == "any_pixel") for h, t in zip(heat, truth, strict=True)]
        assert ours.tolist() == literal


def test_a_constant_map_points_no_better_than_chance() -> None:
    truth = np.zeros((1, 32, 32), dtype=bool)
    truth[0, :16] = True
    flat = np.ones((1, 8, 8))
    assert metrics.pointing_hits(flat, truth, "cell_centre")[0] == 0.5
    assert metrics.pointing_hits(flat, truth, "any_pixel")[0] == 1.0


def test_grids_that_do_not_divide_the_image_cover_it() -> None:
    truth = np.zeros((1, 10, 10), dtype=bool)
    truth[0, 9, 9] = True
    heat = np.arange(9.0).reshape(1, 3, 3)
    assert metrics.pointing_hits(heat, truth, "any_pixel")[0] == 1.0


@few
@given(st.integers(0, 10_000))
def test_overlap_is_the_one_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    region, truth = rng.random((2, 5, 6, 6)) < rng.random()
    truth[:, 0, 0] = True
    found = metrics.overlap(region, truth)
    for i in range(5):
        y, p = truth[i].ravel(), region[i].ravel()
        assert found.iou[i] == pytest.approx(sklearn_metrics.jaccard_score(y, p, zero_division=0))
        assert found.dice[i] == pytest.approx(sklearn_metrics.f1_score(y, p, zero_division=0))
        assert found.recall[i] == pytest.approx(sklearn_metrics.recall_score(y, p))
        assert found.precision[i] == pytest.approx(sklearn_metrics.precision_score(y, p, zero_division=0))


def test_pixel_auc_is_the_auc_of_each_image() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 5, size=(4, 8, 8)).astype(np.float32)
    truth = rng.random((4, 8, 8)) < 0.3
    truth[3] = True
    found = metrics.pixel_auc(maps, truth)
    for i in range(3):
        assert found[i] == pytest.approx(sklearn_metrics.roc_auc_score(truth[i].ravel(), maps[i].ravel()))
    assert math.isnan(found[3])


def test_the_mean_auc_leaves_out_what_is_unknown_or_has_one_class() -> None:
    labels = np.array([[1, 1, 1], [0, 1, -1], [1, 1, 0], [0, 1, 0], [-1, 1, 1]], dtype=np.int8)
    scores = np.random.default_rng(0).random((5, 3))
    expected = np.mean(
        [
            sklearn_metrics.roc_auc_score(labels[labels[:, k] >= 0, k], scores[labels[:, k] >= 0, k])
            for k in (0, 2)
        ]
    )
    assert metrics.mean_roc_auc(labels, scores) == pytest.approx(expected)
    assert math.isnan(metrics.mean_roc_auc(labels[:, 1:2], scores[:, 1:2]))
