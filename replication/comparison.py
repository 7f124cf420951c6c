"""Comparisons between methods: tests of a difference, correction for many tests, ranks over many blocks.

Bootstrap draws are those of ``replication.statistics``, paired by their resampling: draw r of any two runs
under one protocol holds the same patients. All p values are two-sided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from replication.errors import DataError
from replication.statistics import (
    ErrorOverSeeds,
    FloatArray,
    SeedVariance,
    degrees_of_freedom,
    percentile_interval,
    ratio,
)

LEVEL = 0.95
"""Of every interval; 1 - LEVEL is the level of every test."""


class Difference(NamedTuple):
    """A minus B: interval, and two-sided p value of no difference; NaN where undefined."""

    value: float
    lower: float
    upper: float
    p_value: float


def paired_difference(
    value_a: float, draws_a: NDArray[Any], value_b: float, draws_b: NDArray[Any], level: float = LEVEL
) -> Difference:
    """Paired bootstrap: percentile interval of A minus B on the same resamples ``[R]``.

    Covers the choice of test patients alone. The p value is twice the share of resamples on the far side of
    zero, counted with the sample itself so that it is never below 2 / (R + 1) (Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, section 4.2).
    """
    differences = np.asarray(draws_a, dtype=np.float64) - np.asarray(draws_b, dtype=np.float64)
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return Difference(value_a - value_b, float("nan"), float("nan"), float("nan"))
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (len(differences) + 1))
    return Difference(value_a - value_b, *percentile_interval(differences, level), p_value)


def hierarchical_difference(
    values_a: Sequence[float] | NDArray[Any],
    draws_a: NDArray[Any],
    values_b: Sequence[float] | NDArray[Any],
    draws_b: NDArray[Any],
    level: float = LEVEL,
) -> Difference:
    """Difference of two means over training seeds; covers the choice of seeds and of test patients.

    As ``replication.statistics.hierarchical_mean``: the bootstrap variance over patients of the difference,
    plus what the seeds of A and of B add to it, and Student's t with Satterthwaite's degrees of freedom.
    Simulated intervals for 2 to 5 seeds cover 93 to 97 % (``tests/test_comparison_coverage.py``); normal
    quantiles would cover 82 % where two seeds differ much.

    Args:
        values_a, values_b: ``[Sa]`` and ``[Sb]`` the metric of each seed.
        draws_a, draws_b: ``[Sa, R]`` and ``[Sb, R]`` their bootstrap draws.

    Raises:
        DataError: a method has fewer than two seeds.
    """
    values = [np.asarray(v, dtype=np.float64) for v in (values_a, values_b)]
    draws = [np.asarray(d, dtype=np.float64) for d in (draws_a, draws_b)]
    counts = [len(v) for v in values]
    if min(counts) < 2:
        raise DataError("A comparison over seeds needs two seeds of each method.", found=counts)
    value = float(values[0].mean() - values[1].mean())
    defined = np.isfinite(np.concatenate(draws)).all(axis=0)
    if defined.sum() < 2:
        return Difference(value, float("nan"), float("nan"), float("nan"))
    draws = [d[:, defined] for d in draws]
    of_patients = float((draws[0].mean(axis=0) - draws[1].mean(axis=0)).var(ddof=1))
    seeds = [SeedVariance.of(v, d) for v, d in zip(values, draws, strict=True)]
    variance = of_patients + sum(part.own for part in seeds)
    freedom = degrees_of_freedom(variance, seeds)
    return _t_test(value, variance**0.5, freedom, level)


def hierarchical_difference_by_seed(
    values_a: NDArray[Any], draws_a: NDArray[Any], values_b: NDArray[Any], draws_b: NDArray[Any]
) -> Difference:
    """As ``hierarchical_difference`` where run s of A and run s of B are a pair: ``[S]`` and ``[S, R]`` each.

    The interval is that of ``replication.statistics.hierarchical_mean`` of the pairs' differences.

    Raises:
        DataError: there are fewer than two pairs.
    """
    values, draws = values_a - values_b, draws_a - draws_b
    if len(values) < 2:
        raise DataError("A comparison over seeds needs two seeds of each method.", found=len(values))
    value = float(values.mean())
    draws = draws[:, np.isfinite(draws).all(axis=0)]
    if draws.shape[1] < 2:
        return Difference(value, *[float("nan")] * 3)
    error = ErrorOverSeeds.of(values, draws)
    if error.normal + error.seeds == 0:
        return _t_test(value, 0.0, 1.0, LEVEL)
    half = error.half_width(LEVEL)
    return Difference(value, value - half, value + half, error.beyond(value))


def _t_test(value: float, error: float, freedom: float, level: float) -> Difference:
    """Student's t; without any spread a difference of 0 is certain, and any other is beyond this test."""
    if error == 0:
        nothing = float("nan")
        return Difference(value, 0.0, 0.0, 1.0) if value == 0 else Difference(value, *[nothing] * 3)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Difference(value, value - half, value + half, float(2 * stats.t.sf(abs(value) / error, freedom)))


@dataclass(frozen=True)
class PairedScores:
    """Scores of two methods for one finding of the same N images.

    Attributes:
        labels: ``[N]`` 1 present, 0 absent.
        a, b: ``[Sa, N]`` and ``[Sb, N]`` scores of each seed, higher = more likely present.
        patients: ``[N]`` patient of each image.

    Raises:
        DataError: the shapes do not agree, a label is not 0 or 1, or a score is not finite.
    """

    labels: NDArray[Any]
    a: NDArray[Any]
    b: NDArray[Any]
    patients: NDArray[Any]

    def __post_init__(self) -> None:
        shapes = [np.shape(x) for x in (self.labels, self.a, self.b, self.patients)]
        images = np.size(self.labels)
        if not all(len(s) == dim and s[-1] == images for s, dim in zip(shapes, (1, 2, 2, 1), strict=True)):
            allowed = "labels [N], a [Sa, N], b [Sb, N], patients [N]"
            raise DataError(
                "Labels, scores and patients do not fit each other.", found=shapes, allowed=allowed
            )
        if not np.isin(self.labels, (0, 1)).all():
            raise DataError("Not a known label.", found=np.unique(self.labels).tolist(), allowed="0 or 1")
        if not (np.isfinite(self.a).all() and np.isfinite(self.b).all()):
            raise DataError("A score is not finite.", allowed="finite numbers")

    @property
    def defined(self) -> bool:
        """Whether both classes are there."""
        return len(np.unique(self.labels)) == 2


class AucComponents(NamedTuple):
    """AUC of K scores with what each image contributes (the structural components).

    Attributes:
        auc: ``[K]``.
        positives: ``[K, M]`` for each positive the share of negatives it scores above; ties count one half.
        negatives: ``[K, N - M]`` for each negative the share of positives that score above it.
    """

    auc: FloatArray
    positives: FloatArray
    negatives: FloatArray


def auc_components(labels: NDArray[Any], scores: NDArray[Any]) -> AucComponents:
    """Structural components of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988) from midranks.

    O(K N log N) by the identity of Sun and Xu (IEEE Signal Processing Letters 21, 2014).

    Args:
        labels: ``[N]`` 0 or 1, both present. scores: ``[K, N]``.
    """
    present = np.asarray(labels) == 1
    scores = np.asarray(scores, dtype=np.float64)
    ranks = stats.rankdata(scores, axis=1)
    above = [ranks[:, part] - stats.rankdata(scores[:, part], axis=1) for part in (present, ~present)]
    positives, negatives = above[0] / (~present).sum(), 1 - above[1] / present.sum()
    return AucComponents(positives.mean(axis=1), positives, negatives)


def delong_difference(findings: Sequence[PairedScores], level: float = LEVEL) -> Difference:
    """Test of DeLong et al. (1988) for the AUC of A minus that of B, with images clustered by patient.

    With several findings or seeds, the difference of the means over them: the components of all findings and
    seeds are averaged before the variance is taken, as for any linear contrast. The variance is that of
    Obuchowski (Biometrics 53, 1997) for clustered data: components are summed within each patient, for
    positives and negatives apart. With one image per patient it is DeLong's. Covers the choice of test
    patients alone.

    Args:
        findings: those without both classes are left out of the mean.

    Returns:
        All NaN where no finding has both classes; interval and p value NaN where a finding has positives or
        negatives of a single patient only.
    """
    usable = [finding for finding in findings if finding.defined]
    if not usable:
        return Difference(*[float("nan")] * 4)
    names = np.concatenate([np.asarray(finding.patients, dtype=str) for finding in usable])
    patients, unit = np.unique(names, return_inverse=True)
    units = np.split(unit, np.cumsum([len(finding.labels) for finding in usable])[:-1])
    count = len(patients)
    values, parts, clusters = [], [], []
    for finding, own in zip(usable, units, strict=True):
        a, b = (auc_components(finding.labels, scores) for scores in (finding.a, finding.b))
        value = float(a.auc.mean() - b.auc.mean())
        values.append(value)
        for label, of_a, of_b in ((1, a.positives, b.positives), (0, a.negatives, b.negatives)):
            who = own[finding.labels == label]
            centred = of_a.mean(axis=0) - of_b.mean(axis=0) - value
            parts.append(np.bincount(who, centred, minlength=count) / len(who))
            clusters.append(len(np.unique(who)))
    by_part, those = np.stack(parts), np.asarray(clusters)
    own_squares = (by_part**2).sum(axis=1)
    crossed = (by_part.sum(axis=0) ** 2).sum() - own_squares.sum()
    variance = float(
        (own_squares * ratio(those, those - 1)).sum()
        + crossed * ratio(np.asarray(count), np.asarray(count - 1))
    )
    return _t_test(float(np.mean(values)), max(variance, 0.0) ** 0.5 / len(values), float("inf"), level)


def holm(p_values: Sequence[float] | NDArray[Any]) -> FloatArray:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics 6, 1979): ``[M]`` -> ``[M]``.

    Undefined p values stay NaN and do not count as tests.

    Raises:
        DataError: a p value is outside 0 to 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    tested = ~np.isnan(values)
    if ((values[tested] < 0) | (values[tested] > 1)).any():
        raise DataError("Not a p value.", found=values.tolist(), allowed="0 to 1")
    count = int(tested.sum())
    order = np.flatnonzero(tested)[np.argsort(values[tested], kind="stable")]
    adjusted = np.full(values.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(count, 0, -1)))
    return adjusted


class Ranking(NamedTuple):
    """Methods ranked over blocks.

    Attributes:
        ranks: ``[M]`` average rank of each method, 1 is best; ties share their ranks.
        blocks: B, what was ranked over.
        p_value: of Friedman's test that all methods rank equally; NaN for two methods or where all tie.
        critical_difference: two methods whose average ranks differ by at least this are told apart by
            Nemenyi's test.
    """

    ranks: FloatArray
    blocks: int
    p_value: float
    critical_difference: float


def rank_methods(values: NDArray[Any], *, higher_is_better: bool = True, level: float = LEVEL) -> Ranking:
    """Average ranks with Friedman's test and Nemenyi's critical difference (Demsar, JMLR 7, 2006).

    The tests take the blocks for independent. Findings of one data set are not, which makes the critical
    difference too small to that extent.

    Args:
        values: ``[B, M]`` the metric of each of M methods in each of B blocks (data sets, findings).

    Raises:
        DataError: fewer than two methods or two blocks, or a value is missing.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        raise DataError(
            "Ranks need two methods or more, each with a number in two blocks or more.",
            found=f"{table.shape} values, {int((~np.isfinite(table)).sum())} of them missing",
            allowed="[blocks, methods]",
        )
    blocks, methods = table.shape
    ranks = stats.rankdata(-table if higher_is_better else table, axis=1)
    tied = bool((ranks == ranks[:, :1]).all())
    p_value = float("nan") if methods < 3 or tied else float(stats.friedmanchisquare(*table.T).pvalue)
    critical = _nemenyi_quantile(methods, level) * (methods * (methods + 1) / (6 * blocks)) ** 0.5
    return Ranking(ranks.mean(axis=0), blocks, p_value, critical)


@cache
def _nemenyi_quantile(methods: int, level: float) -> float:
    return float(stats.studentized_range.ppf(level, methods, np.inf)) / 2**0.5
