"""How often intervals hold the truth where it is known: 2,000 simulated test sets each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from replication.comparison import (
    Difference,
    PairedScores,
    delong_difference,
    hierarchical_difference,
    hierarchical_difference_by_seed,
    paired_difference,
)
from replication.metrics import roc_auc, roc_auc_draws
from replication.statistics import Estimate, Interval, Resampling, hierarchical_mean, percentile_interval

TRIALS = 2000
PATIENTS, IMAGES = 200, 400
"""Of a test set, about what the smallest of the phantom tier has."""

OWN, COMMON, NOISE = 1.3, 0.5, 0.8
"""Errors of a score: of one score on a patient, of both scores on a patient, of an image."""

NAMES = np.arange(PATIENTS).astype(str)

pytestmark = pytest.mark.slow


def coverage(found: Sequence[Difference | Estimate | Interval], truth: float) -> float:
    """Share of the intervals that hold the truth."""
    return float(np.mean([one.lower <= truth <= one.upper for one in found]))


def images(rng: np.random.Generator, skills: tuple[float, float]) -> PairedScores:
    """Two scores; images of a patient share most of their errors, and half of them the diagnosis.

    Every patient has an image, many have several.
    """
    patient = np.sort(np.concatenate([np.arange(PATIENTS), rng.integers(0, PATIENTS, IMAGES - PATIENTS)]))
    usual, new = rng.random(PATIENTS) < 0.3, rng.random(IMAGES) < 0.3
    labels = np.where(rng.random(IMAGES) < 0.5, usual[patient], new).astype(int)
    own, common = rng.normal(size=(2, PATIENTS)), rng.normal(size=PATIENTS)
    errors = OWN * own[:, patient] + COMMON * common[patient] + NOISE * rng.normal(size=(2, IMAGES))
    scores = np.array(skills)[:, None] * labels + errors
    return PairedScores(labels, scores[:1], scores[1:], NAMES[patient])


def true_auc(skill: float) -> float:
    """Of an image of one patient against an image of another."""
    return float(stats.norm.cdf(skill / np.sqrt(2 * (OWN**2 + COMMON**2 + NOISE**2))))


def apart(one: PairedScores) -> PairedScores:
    """As if every image were of another patient."""
    return PairedScores(one.labels, one.a, one.b, np.arange(IMAGES))


def test_auc_and_its_difference_for_clustered_images() -> None:
    rng = np.random.default_rng(1)
    skills = (2.4, 1.2)
    truths = [true_auc(skill) for skill in skills]
    resamples = Resampling.by_patient(NAMES, 400, 0)
    single, bootstrap, delong, ignorant = [], [], [], []
    for _ in range(TRIALS):
        one = images(rng, skills)
        unit = resamples.unit[one.patients.astype(int)]
        own = Resampling(unit, resamples.counts)
        draws = [roc_auc_draws(one.labels, scores[0], own) for scores in (one.a, one.b)]
        values = [roc_auc(one.labels, scores[0]) for scores in (one.a, one.b)]
        single.append(percentile_interval(draws[1]))
        bootstrap.append(paired_difference(values[0], draws[0], values[1], draws[1]))
        delong.append(delong_difference([one]))
        ignorant.append(delong_difference([apart(one)]))
    difference = truths[0] - truths[1]
    shares = {
        "one AUC, bootstrap": coverage(single, truths[1]),
        "difference, bootstrap": coverage(bootstrap, difference),
        "difference, DeLong": coverage(delong, difference),
    }
    print(shares, "images taken as independent:", coverage(ignorant, difference))
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares
    assert coverage(ignorant, difference) < 0.93


def test_delong_finds_a_difference_as_often_as_it_may_where_there_is_none() -> None:
    rng = np.random.default_rng(4)
    found = [delong_difference([images(rng, (1.5, 1.5))]).p_value for _ in range(TRIALS)]
    print("p < 0.05:", np.mean(np.array(found) < 0.05))
    assert 0.03 <= np.mean(np.array(found) < 0.05) <= 0.07
    assert stats.kstest(found, "uniform").pvalue > 0.001


SOURCES = {
    "seeds differ most": (0.1, 0.3, 0.3),
    "patients differ most": (1.0, 0.3, 0.02),
    "each seed errs on patients of its own": (0.3, 1.0, 0.05),
    "all alike": (0.5, 0.7, 0.1),
}
"""Standard deviations: of a method on a patient, of a seed on a patient, of a seed."""


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (3, 5)])
@pytest.mark.parametrize("source", SOURCES)
def test_means_over_seeds_and_their_difference(source: str, seeds: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    of_method, of_both, of_seed = SOURCES[source]
    shares_drawn = Resampling.by_patient(NAMES, 1000, 0).counts / PATIENTS
    differences, means = [], []
    for _ in range(TRIALS):
        sides = []
        for count in seeds:
            on_patient = of_method * rng.normal(size=PATIENTS) + of_both * rng.normal(size=(count, PATIENTS))
            sides.append(on_patient + of_seed * rng.normal(size=(count, 1)))
        draws = [side @ shares_drawn for side in sides]
        values = [side.mean(axis=1) for side in sides]
        differences.append(hierarchical_difference(values[0], draws[0], values[1], draws[1]))
        means.append(hierarchical_mean(values[0], draws[0]))
    found = {"difference": coverage(differences, 0.0), "mean": coverage(means, 0.0)}
    print(source, seeds, found)
    assert 0.93 <= found["difference"] <= (0.98 if min(seeds) == 2 else 0.97)
    assert 0.93 <= found["mean"] <= (0.99 if min(seeds) == 2 else 0.97)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("source", SOURCES)
def test_pairs_of_seeds_are_told_apart_as_often_as_they_may(source: str, seeds: int) -> None:
    """At 0.01 too, because that is where an adjustment for several tests looks."""
    rng = np.random.default_rng(3)
    of_pair, of_both, of_seed = SOURCES[source]
    shares_drawn = Resampling.by_patient(NAMES, 400, 0).counts / PATIENTS
    found = []
    for _ in range(TRIALS):
        pairs = of_pair * rng.normal(size=PATIENTS) + of_both * rng.normal(size=(seeds, PATIENTS))
        pairs += of_seed * rng.normal(size=(seeds, 1))
        draws, values = pairs @ shares_drawn, pairs.mean(axis=1)
        nothing = np.zeros_like(values), np.zeros_like(draws)
        found.append(hierarchical_difference_by_seed(values, draws, *nothing))
    p_values = np.array([one.p_value for one in found])
    shares = {level: float(np.mean(p_values < level)) for level in (0.05, 0.01)}
    print(source, seeds, shares, "covers", coverage(found, 0.0))
    assert shares[0.05] <= 0.07
    assert shares[0.01] <= 0.018
