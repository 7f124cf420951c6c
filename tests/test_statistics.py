from __future__ import annotations

import math

import numpy as np
import pytest

from replication.metrics import roc_auc_draws
from replication.statistics import (
    Resampling,
    hierarchical_mean,
    percentile_interval,
)


def test_whole_patients_are_drawn() -> None:
    patients = np.array(["b", "a", "b", "c", "a"])
    resamples = Resampling.by_patient(patients, 200, seed=1)
    assert resamples.counts.shape == (3, 200)
    assert (resamples.counts.sum(axis=0) == 3).all()
    assert resamples.unit.tolist() == [1, 0, 1, 2, 0]
    assert resamples.counts.mean() == pytest.approx(1)


def test_draws_do_not_depend_on_the_order_of_images() -> None:
    rng = np.random.default_rng(0)
    patients, order = rng.integers(0, 9, 40).astype(str), rng.permutation(40)
    labels, scores = rng.integers(0, 2, 40), rng.normal(size=40)
    one = roc_auc_draws(labels, scores, Resampling.by_patient(patients, 50, 3))
    two = roc_auc_draws(labels[order], scores[order], Resampling.by_patient(patients[order], 50, 3))
    assert one == pytest.approx(two)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Clusters of five equal images: an interval that ignored patients would cover far less often."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = np.repeat(rng.normal(size=40), 5)
        resamples = Resampling.by_patient(np.repeat(np.arange(40), 5), 300, trial)
        lower, upper = percentile_interval(resamples.means(values))
        covered += lower < 0 < upper
    assert 0.88 <= covered / 200 <= 0.99


def test_means_are_those_of_the_drawn_images_and_skip_undefined_ones() -> None:
    values = np.array([1.0, math.nan, 3.0, 8.0])
    resamples = Resampling.by_patient(np.array(list("abcd")), 20, 0)
    for draw, mean in enumerate(resamples.means(values)):
        repeats = resamples.counts[resamples.unit, draw].astype(int)
        chosen = np.repeat(values, repeats)
        expected = np.nanmean(chosen) if np.isfinite(chosen).any() else math.nan
        assert mean == pytest.approx(expected, nan_ok=True)


def test_interval_leaves_undefined_draws_out() -> None:
    draws = np.array([math.nan, *np.linspace(0, 1, 101)])
    assert percentile_interval(draws) == pytest.approx((0.025, 0.975))
    assert all(math.isnan(end) for end in percentile_interval(np.array([math.nan])))


def test_the_mean_over_seeds_is_wider_than_over_patients_alone() -> None:
    rng = np.random.default_rng(0)
    draws = 0.8 + 0.01 * rng.normal(size=(1, 1000)) + np.array([[-0.05], [0.0], [0.05]])
    over_seeds = hierarchical_mean([0.75, 0.8, 0.85], draws)
    patients_only = percentile_interval(draws.mean(axis=0))
    assert over_seeds.value == pytest.approx(0.8)
    assert over_seeds.upper - over_seeds.lower > 2 * (patients_only.upper - patients_only.lower)
    one = hierarchical_mean([0.75], draws[:1])
    assert one[1:] == pytest.approx(percentile_interval(draws[0]))
