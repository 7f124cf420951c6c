"""Tests of a difference against literal twins, SciPy, published tables and simulations of known truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from replication.comparison import (
    Difference,
    PairedScores,
    auc_components,
    delong_difference,
    hierarchical_difference,
    hierarchical_difference_by_seed,
    holm,
    paired_difference,
    rank_methods,
)
from replication.errors import DataError
from replication.metrics import roc_auc, roc_auc_draws
from replication.statistics import Resampling, percentile_interval


def scored(
    seed: int, images: int = 60, patients: int = 25, seeds: tuple[int, int] = (1, 1), levels: int = 7
) -> PairedScores:
    """Coarse scores, so that many tie; patients with several images of both classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, images)
    a, b = (
        np.round(levels * rng.random((count, images)) + skill * labels)
        for count, skill in zip(seeds, (2, 1), strict=True)
    )
    return PairedScores(labels, a, b, rng.integers(0, patients, images).astype(str))


def pairs_twin(finding: PairedScores) -> tuple[float, float]:
    """Difference and variance from all pairs of a positive and a negative, cluster by cluster: Obuchowski's
    formulas, one score on either side."""
    positives, negatives = np.flatnonzero(finding.labels == 1), np.flatnonzero(finding.labels == 0)

    def wins(scores: NDArray[Any], i: int, j: int) -> float:
        return 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0

    won = {(i, j): wins(finding.a[0], i, j) - wins(finding.b[0], i, j) for i in positives for j in negatives}
    m, n = len(positives), len(negatives)
    value = sum(won.values()) / (m * n)
    names = sorted(set(finding.patients.tolist()))
    s10 = s01 = s11 = 0.0
    with_positive = with_negative = 0
    for name in names:
        own_positives = [i for i in positives if finding.patients[i] == name]
        own_negatives = [j for j in negatives if finding.patients[j] == name]
        with_positive += bool(own_positives)
        with_negative += bool(own_negatives)
        x = sum(sum(won[i, j] for j in negatives) / n - value for i in own_positives)
        y = sum(sum(won[i, j] for i in positives) / m - value for j in own_negatives)
        s10, s01, s11 = s10 + x * x, s01 + y * y, s11 + x * y
    s10 *= with_positive / ((with_positive - 1) * m)
    s01 *= with_negative / ((with_negative - 1) * n)
    s11 *= len(names) / (len(names) - 1)
    return value, s10 / m + s01 / n + 2 * s11 / (m * n)


def as_z(found: Difference) -> float:
    """The standard error behind a normal interval."""
    return (found.upper - found.lower) / 2 / float(stats.norm.ppf(0.975))


@pytest.mark.parametrize("seed", range(8))
def test_delong_is_that_of_all_pairs_for_clustered_images(seed: int) -> None:
    finding = scored(seed)
    value, variance = pairs_twin(finding)
    found = delong_difference([finding])
    assert found.value == pytest.approx(value, abs=1e-12)
    assert as_z(found) ** 2 == pytest.approx(variance, rel=1e-9)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(value) / math.sqrt(variance)), rel=1e-9)


def test_delong_of_independent_images_is_the_covariance_of_structural_components() -> None:
    finding = scored(3, images=80)
    alone = PairedScores(finding.labels, finding.a, finding.b, np.arange(80).astype(str))
    a, b = (auc_components(finding.labels, scores) for scores in (finding.a, finding.b))
    covariances = [
        np.cov(np.stack([of_a[0], of_b[0]])) / of_a.shape[1]
        for of_a, of_b in ((a.positives, b.positives), (a.negatives, b.negatives))
    ]
    whole = sum(covariances)
    expected = whole[0, 0] + whole[1, 1] - 2 * whole[0, 1]
    assert as_z(delong_difference([alone])) ** 2 == pytest.approx(expected, rel=1e-9)


def test_delong_has_the_variance_of_the_rank_sum_where_it_is_known() -> None:
    """Two scores that know nothing: the AUC of each varies by (m + n + 1) / (12 m n), on its own."""
    rng = np.random.default_rng(0)
    labels, m, n = np.repeat([1, 0], (40, 60)), 40, 60
    who = np.arange(100)
    found = [
        as_z(delong_difference([PairedScores(labels, *rng.normal(size=(2, 1, 100)), who)])) ** 2
        for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(2 * (m + n + 1) / (12 * m * n), rel=0.03)


def test_components_average_to_the_auc() -> None:
    finding = scored(1, seeds=(3, 1))
    found = auc_components(finding.labels, finding.a)
    expected = [roc_auc(finding.labels, scores) for scores in finding.a]
    assert found.auc == pytest.approx(expected)
    assert found.negatives.mean(axis=1) == pytest.approx(expected)


def test_delong_of_means_over_findings_and_seeds_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(5)
    images = 600
    patients = rng.integers(0, 250, images)
    effect = rng.normal(size=(2, 250))[:, patients]
    findings = []
    for skill in (0.8, 1.2, 1.6):
        labels = (rng.random(images) < 0.3).astype(int)
        a, b = (
            np.stack([own * labels + shift + rng.normal(size=images) for _ in range(count)])
            for own, shift, count in ((skill + 0.3, effect[0], 3), (skill, effect[1], 2))
        )
        known = rng.random(images) < 0.9
        findings.append(PairedScores(labels[known], a[:, known], b[:, known], patients[known]))
    only_absent = PairedScores(np.zeros(4, int), np.ones((3, 4)), np.ones((2, 4)), np.arange(4))
    found = delong_difference([*findings, only_absent])
    names = np.unique(np.concatenate([one.patients for one in findings]).astype(str))
    resamples = Resampling.by_patient(names, 2000, 0)
    draws = []
    for one in findings:
        own = Resampling(np.searchsorted(names, one.patients.astype(str)), resamples.counts)
        a, b = (np.mean([roc_auc_draws(one.labels, s, own) for s in side], axis=0) for side in (one.a, one.b))
        draws.append(a - b)
    assert as_z(found) == pytest.approx(np.mean(draws, axis=0).std(), rel=0.08)
    values = [
        np.mean([roc_auc(one.labels, s) for s in one.a]) - np.mean([roc_auc(one.labels, s) for s in one.b])
        for one in findings
    ]
    assert found.value == pytest.approx(np.mean(values))


def test_delong_of_swapped_or_equal_methods() -> None:
    finding = scored(2, seeds=(2, 3))
    there = delong_difference([finding])
    back = delong_difference([PairedScores(finding.labels, finding.b, finding.a, finding.patients)])
    assert back == pytest.approx((-there.value, -there.upper, -there.lower, there.p_value))
    same = delong_difference([PairedScores(finding.labels, finding.a, 2 * finding.a + 1, finding.patients)])
    assert same == (0.0, 0.0, 0.0, 1.0)


def test_delong_without_enough_patients_or_classes_is_undefined() -> None:
    one_class = PairedScores(np.ones(3, int), np.ones((1, 3)), np.ones((1, 3)), np.arange(3))
    assert all(math.isnan(number) for number in delong_difference([one_class]))
    labels = np.array([1, 1, 0, 0])
    one_ill = PairedScores(labels, np.array([[3, 1, 2, 0]]), np.array([[0, 3, 2, 1]]), np.array(list("aabc")))
    found = delong_difference([one_ill])
    assert math.isfinite(found.value)
    assert math.isnan(found.p_value)
    certain = PairedScores(labels, labels[None], -labels[None], np.arange(4))
    assert delong_difference([certain]).value == 1
    assert math.isnan(delong_difference([certain]).p_value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": np.array([1, 0, -1])}, "Not a known label"),
        ({"labels": np.array([1, 0])}, "do not fit"),
        ({"a": np.ones(3)}, "do not fit"),
        ({"patients": np.array(["p"])}, "do not fit"),
        ({"b": np.array([[0.0, math.nan, 1.0]])}, "not finite"),
    ],
)
def test_scores_that_do_not_fit_are_refused(change: dict[str, NDArray[Any]], said: str) -> None:
    right = {
        "labels": np.array([1, 0, 1]),
        "a": np.ones((1, 3)),
        "b": np.ones((2, 3)),
        "patients": np.arange(3),
    }
    PairedScores(**right)
    with pytest.raises(DataError, match=said):
        PairedScores(**{**right, **change})


def test_paired_difference_sees_what_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    truth, common = rng.integers(0, 2, 300), rng.normal(size=300)
    good = truth + 1.5 * common + 0.02 * rng.normal(size=300)
    bad = 0.8 * truth + 1.5 * common + 0.02 * rng.normal(size=300)
    resamples = Resampling.by_patient(np.arange(300), 1000, 0)
    a, b = (roc_auc_draws(truth, scores, resamples) for scores in (good, bad))
    found = paired_difference(roc_auc(truth, good), a, roc_auc(truth, bad), b)
    assert found.lower > 0
    assert found.p_value < 0.01
    assert percentile_interval(a).lower < percentile_interval(b).upper
    assert paired_difference(0.7, a, 0.7, a).p_value == 1.0


def test_p_of_the_bootstrap_is_that_of_the_t_test_where_that_is_right() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.15, 1, 200), rng.normal(0, 1, 200)
    resamples = Resampling.by_patient(np.arange(200), 20_000, 0)
    found = paired_difference(a.mean(), resamples.means(a), b.mean(), resamples.means(b))
    expected = stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.01)
    assert found[1:3] == pytest.approx(expected.confidence_interval(), abs=0.01)


def test_undefined_draws_are_left_out() -> None:
    draws = np.array([0.1, math.nan, 0.3])
    assert paired_difference(0.5, draws, 0.3, np.zeros(3)).p_value == pytest.approx(2 / 3)
    assert math.isnan(paired_difference(0.5, draws * math.nan, 0.3, draws).p_value)
    two = np.stack([draws, draws])
    assert hierarchical_difference([0.2, 0.2], two, [0, 0], 0 * two).value == pytest.approx(0.2)
    assert math.isnan(hierarchical_difference([1, 2], two * math.nan, [0, 0], two).p_value)


def test_over_seeds_it_is_welch_s_test_where_patients_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 0.02, 4), rng.normal(0.05, 0.05, 3)
    constant = hierarchical_difference(a, np.repeat(a[:, None], 50, 1), b, np.repeat(b[:, None], 50, 1))
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert constant.p_value == pytest.approx(welch.pvalue, rel=1e-9)
    assert constant[1:3] == pytest.approx(welch.confidence_interval(), rel=1e-9)


def test_over_equal_seeds_it_is_the_bootstrap_over_patients() -> None:
    rng = np.random.default_rng(0)
    draws_a, draws_b = rng.normal(0.3, 0.1, 20_000), rng.normal(0.1, 0.1, 20_000)
    seeds = [np.stack([draws] * 3) for draws in (draws_a, draws_b)]
    found = hierarchical_difference([0.3] * 3, seeds[0], [0.1] * 3, seeds[1])
    plain = paired_difference(0.3, draws_a, 0.1, draws_b)
    assert found[1:3] == pytest.approx(plain[1:3], abs=0.01)
    back = hierarchical_difference([0.1] * 3, seeds[1], [0.3] * 3, seeds[0])
    assert back == pytest.approx((-found.value, -found.upper, -found.lower, found.p_value))


def test_over_seeds_needs_seeds() -> None:
    with pytest.raises(DataError, match="two seeds"):
        hierarchical_difference([1.0], np.ones((1, 5)), [1.0, 2.0], np.ones((2, 5)))


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(p_values)
def test_holm_is_the_step_down_procedure(values: list[float]) -> None:
    """At every level, the adjusted values reject exactly what the procedure rejects step by step."""
    adjusted = holm(values)
    for level in (0.01, 0.05, 0.3):
        order, rejected = np.argsort(values, kind="stable"), set()
        for step, place in enumerate(order):
            if values[place] * (len(values) - step) > level:
                break
            rejected.add(int(place))
        assert {i for i, value in enumerate(adjusted) if value <= level} == rejected


@given(p_values, st.randoms(use_true_random=False))
def test_holm_keeps_order_and_ignores_what_is_undefined(values: list[float], random: Any) -> None:
    adjusted = holm(values)
    assert (adjusted >= values).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(values, kind="stable")]) >= 0).all()
    places = list(range(len(values)))
    random.shuffle(places)
    assert holm(np.array(values)[places]) == pytest.approx(adjusted[places])
    gapped = holm([math.nan, *values, math.nan])
    assert np.isnan(gapped[[0, -1]]).all()
    assert gapped[1:-1] == pytest.approx(adjusted)


def test_holm_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 40):
        values = np.round(rng.random(count) ** 3, 2)
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-15)


def test_holm_of_nothing_and_of_no_probability() -> None:
    assert holm([]).size == 0
    assert np.isnan(holm([math.nan])).all()
    with pytest.raises(DataError, match="p value"):
        holm([0.2, 1.2])


@given(st.integers(2, 12), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_ranks_are_a_fair_share_of_places(blocks: int, methods: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 4, (blocks, methods)).astype(float)
    found = rank_methods(values)
    assert found.ranks.sum() == pytest.approx(methods * (methods + 1) / 2)
    assert ((found.ranks >= 1) & (found.ranks <= methods)).all()
    turned = rank_methods(-values, higher_is_better=False)
    assert turned.ranks == pytest.approx(found.ranks)
    assert rank_methods(np.exp(values)).ranks == pytest.approx(found.ranks)
    order = np.random.default_rng(seed).permutation(methods)
    assert rank_methods(values[:, order]).ranks == pytest.approx(found.ranks[order])


def test_friedman_is_that_of_the_textbook() -> None:
    values = np.random.default_rng(0).normal([0, 0.5, 1, 0.2], size=(9, 4))
    found = rank_methods(values)
    blocks, methods = values.shape
    statistic = 12 * blocks / (methods * (methods + 1)) * ((found.ranks - (methods + 1) / 2) ** 2).sum()
    assert found.p_value == pytest.approx(stats.chi2.sf(statistic, methods - 1))
    assert math.isnan(rank_methods(values[:, :2]).p_value)
    assert math.isnan(rank_methods(np.ones((5, 3))).p_value)


@pytest.mark.parametrize(
    ("methods", "quantile"),
    [
        (2, 1.960),
        (3, 2.343),
        (4, 2.569),
        (5, 2.728),
        (6, 2.850),
        (7, 2.949),
        (8, 3.031),
        (9, 3.102),
        (10, 3.164),
    ],
)
def test_nemenyi_has_the_published_quantiles(methods: int, quantile: float) -> None:
    """Table 5(a) of Demsar 2006, level 0.05."""
    found = rank_methods(np.random.default_rng(0).normal(size=(14, methods)))
    scale = math.sqrt(methods * (methods + 1) / (6 * 14))
    assert found.critical_difference / scale == pytest.approx(quantile, abs=1.1e-3)


def test_the_example_of_the_literature() -> None:
    """Four classifiers over 14 data sets have a critical difference of 1.25 (Demsar 2006, section 3.2.4)."""
    assert rank_methods(np.random.default_rng(0).normal(size=(14, 4))).critical_difference == pytest.approx(
        1.25, abs=0.005
    )


@pytest.mark.parametrize(
    "values", [np.ones((1, 4)), np.ones((4, 1)), np.array([[1.0, math.nan], [1, 2]]), np.ones(3)]
)
def test_ranks_need_a_full_table(values: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="two methods"):
        rank_methods(values)


def test_pairs_of_one_seed_are_the_paired_t_test_where_patients_do_not_matter() -> None:
    a, b = np.array([0.80, 0.84, 0.70, 0.77]), np.array([0.78, 0.83, 0.69, 0.74])
    draws = [np.repeat(values[:, None], 50, axis=1) for values in (a, b)]
    found = hierarchical_difference_by_seed(a, draws[0], b, draws[1])
    expected = stats.ttest_rel(a, b)
    assert found.value == pytest.approx(np.mean(a - b))
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-5)
    assert (found.lower, found.upper) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-7)
    assert hierarchical_difference(a, draws[0], b, draws[1]).p_value > found.p_value
