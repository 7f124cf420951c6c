"""Uncertainty of measured numbers: patient-cluster bootstrap, intervals, means over seeds.

Every function works on *draws*: an array with one value of a metric per bootstrap resample. Two runs that are
resampled with the same ``Resampling`` have paired draws; ``replication.comparison`` tests their difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Resampling:
    """How often each patient is drawn in each bootstrap resample.

    Attributes:
        unit: ``[N]`` index of the patient that each of N samples belongs to.
        counts: ``[P, R]`` float32, how often each of P patients is drawn in each of R resamples.
    """

    unit: IntArray
    counts: NDArray[np.float32]

    @classmethod
    def by_patient(cls, patients: Sequence[str] | NDArray[Any], draws: int, seed: int) -> Resampling:
        """Whole patients with replacement, so that images of one patient stay together.

        The draws depend on the set of patients and the seed alone, not on the order of the samples.

        Args:
            patients: ``[N]`` patient of each sample.
        """
        names, unit = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        count = len(names)
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
        return cls(unit.astype(np.int64), np.ascontiguousarray(drawn.T, dtype=np.float32))

    @classmethod
    def none(cls, samples: int) -> Resampling:
        """One resample that holds every sample once: gives the plain metric."""
        return cls(np.zeros(samples, dtype=np.int64), np.ones((1, 1), dtype=np.float32))

    def __getitem__(self, selected: NDArray[Any]) -> Resampling:
        """The same resamples, for a selection (mask or index) of the samples."""
        return Resampling(self.unit[selected], self.counts)

    @property
    def draws(self) -> int:
        """R, the number of resamples."""
        return int(self.counts.shape[1])

    def weighted_sums(self, values: NDArray[Any]) -> FloatArray:
        """Sum of each column of values over the samples of each resample: ``[N, K]`` -> ``[K, R]``."""
        patients = np.zeros((self.counts.shape[0], values.shape[1]))
        np.add.at(patients, self.unit, values)
        return np.asarray(patients.T @ self.counts.astype(np.float64))

    def means(self, values: NDArray[Any]) -> FloatArray:
        """Mean over the samples of each resample: ``[N]`` -> ``[R]``; samples that are NaN do not count."""
        finite = np.isfinite(values)
        sums = self.weighted_sums(np.stack([np.where(finite, values, 0.0), finite], axis=1))
        return ratio(sums[0], sums[1])


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> FloatArray:
    """Quotient as float64; NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


class Interval(NamedTuple):
    """Lower and upper end."""

    lower: float
    upper: float


def percentile_interval(draws: NDArray[Any], level: float = 0.95) -> Interval:
    """Percentile interval of bootstrap draws ``[R]``; undefined draws are left out, NaN if all are."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(float("nan"), float("nan"))
    tail = 100 * (1 - level) / 2
    lower, upper = np.percentile(finite, [tail, 100 - tail])
    return Interval(float(lower), float(upper))


class Estimate(NamedTuple):
    """A number with its interval."""

    value: float
    lower: float
    upper: float


class SeedVariance(NamedTuple):
    """How much a mean over S training seeds varies because of the choice of seeds.

    Attributes:
        total: variance of the seeds' values over S.
        of_patients: the part of it that the test patients cause; the bootstrap over patients has it already.
        freedom: degrees of freedom of ``total``, S - 1.
    """

    total: float
    of_patients: float
    freedom: int

    @classmethod
    def of(cls, values: NDArray[Any], draws: NDArray[Any]) -> SeedVariance:
        """From the metric of each seed ``[S]`` and its bootstrap draws ``[S, R]``; at least two seeds."""
        count = len(values)
        deviations = draws - draws.mean(axis=0)
        of_patients = deviations.var(axis=1, ddof=1).sum() / (count - 1)
        return cls(float(np.var(values, ddof=1)) / count, float(of_patients) / count, count - 1)

    @property
    def own(self) -> float:
        """What the seeds add to the variance over patients."""
        return max(0.0, self.total - self.of_patients)


def degrees_of_freedom(variance: float, seeds: Sequence[SeedVariance]) -> float:
    """Of a variance that holds those of seeds (Satterthwaite, Biometrics Bulletin 2, 1946).

    Test patients are taken as many. The variance of the seeds counts in full, because that of the patients is
    subtracted from it and not known better. A sum is never less certain than its least certain part, so the
    answer is not below the smallest S - 1; without this floor the subtraction could bring it near 0 where the
    patients' part is the same for both sides of a difference.
    """
    counted = [part for part in seeds if part.total > 0]
    squares = sum(part.total**2 / part.freedom for part in counted)
    if squares == 0:
        return float("inf")
    return max(variance**2 / squares, float(min(part.freedom for part in counted)))


@cache
def _chi_square(freedom: int) -> tuple[FloatArray, FloatArray]:
    """Values of chi square over its degrees of freedom, and the weights to integrate by (Gauss-Legendre)."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return np.asarray(stats.chi2.ppf((nodes + 1) / 2, freedom) / freedom), weights / 2


class ErrorOverSeeds(NamedTuple):
    """Distribution of the error of a mean over S seeds: a normal part plus a part that is Student's t.

    The t part is the variance between seeds, in full; the normal part is what the variance over patients has
    beyond it. Subtracting from the part that is known worst would leave next to nothing where three seeds
    happen to agree, and with it far too many small p values.

    Attributes:
        normal: variance of the normal part. seeds: square of the scale of the t part. freedom: S - 1.
    """

    normal: float
    seeds: float
    freedom: int

    @classmethod
    def of(cls, values: NDArray[Any], draws: NDArray[Any]) -> ErrorOverSeeds:
        """From the metric of each seed ``[S]`` and its bootstrap draws ``[S, R]``; at least two seeds."""
        seeds = SeedVariance.of(values, draws)
        over_patients = float(draws.mean(axis=0).var(ddof=1))
        return cls(max(0.0, over_patients - seeds.of_patients), seeds.total, seeds.freedom)

    def beyond(self, distance: float) -> float:
        """Probability of an error at least so large, on either side."""
        if self.normal + self.seeds == 0:
            return float(distance == 0)
        # Student's t is a normal variable whose variance is divided by that of chi square.
        divisors, weights = _chi_square(self.freedom)
        variances = self.normal + self.seeds / divisors
        return float(weights @ special.erfc(abs(distance) / np.sqrt(2 * variances)))

    def half_width(self, level: float) -> float:
        """Of the interval that the error stays in with this probability."""
        upper = (1 + level) / 2
        sure = stats.norm.ppf(upper) * self.normal**0.5 + stats.t.ppf(upper, self.freedom) * self.seeds**0.5
        if sure == 0:
            return 0.0
        return float(optimize.brentq(lambda half: self.beyond(half) - (1 - level), 0.0, 2 * sure))


def hierarchical_mean(
    values: Sequence[float] | NDArray[Any], draws: NDArray[Any], *, level: float = 0.95
) -> Estimate:
    """Mean over training seeds; its interval covers the choice of seeds and of patients.

    The two levels of a hierarchical bootstrap, the upper one in closed form: seeds drawn with replacement
    from three that differ much would give intervals that cover 70 % instead of 95 %. See ``ErrorOverSeeds``;
    what simulated intervals cover is in ``docs/statistics.md``. One seed has the percentile interval over
    patients.

    Args:
        values: ``[S]`` the metric of each seed. draws: ``[S, R]`` its bootstrap draws; the resamples are the
            same for all seeds.
    """
    values, draws = np.asarray(values, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    value = float(values.mean())
    if len(values) == 1:
        return Estimate(value, *percentile_interval(draws[0], level))
    draws = draws[:, np.isfinite(draws).all(axis=0)]
    if draws.shape[1] < 2:
        return Estimate(value, float("nan"), float("nan"))
    half = ErrorOverSeeds.of(values, draws).half_width(level)
    return Estimate(value, value - half, value + half)
