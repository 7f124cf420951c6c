"""Uncertainty of measured numbers: patient-cluster bootstrap, intervals, means over seeds, differences.

Every function works on *draws*: an array with one value of a metric per bootstrap resample. Two runs that are
resampled with the same ``Resampling`` have paired draws, so their difference can be tested draw by draw.
Tests that need no resampling (DeLong, Holm) belong here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def hierarchical_mean(
    values: Sequence[float] | NDArray[Any], draws: NDArray[Any], seed: int, level: float = 0.95
) -> Estimate:
    """Mean over training seeds; its interval covers the choice of seeds and of patients.

    In each resample the seeds are drawn with replacement, and each contributes its own bootstrap draw of
    that resample, so the patients are the same for all seeds.

    Args:
        values: ``[S]`` the metric of each seed. draws: ``[S, R]`` its bootstrap draws.
    """
    count, resamples = draws.shape
    chosen = np.random.default_rng(seed).integers(0, count, size=(count, resamples))
    means = np.take_along_axis(np.asarray(draws, dtype=np.float64), chosen, axis=0).mean(axis=0)
    return Estimate(float(np.mean(values)), *percentile_interval(means, level))


class Difference(NamedTuple):
    """A minus B: interval, and two-sided p value of no difference."""

    value: float
    lower: float
    upper: float
    p_value: float


def paired_difference(
    value_a: float,
    draws_a: NDArray[Any],
    value_b: float,
    draws_b: NDArray[Any],
    level: float = 0.95,
) -> Difference:
    """Paired bootstrap: A minus B on the same resamples ``[R]``.

    The p value is twice the share of resamples on the far side of zero, counted with the sample itself so
    that it is never 0 (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2).
    """
    differences = draws_a - draws_b
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return Difference(value_a - value_b, float("nan"), float("nan"), float("nan"))
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (len(differences) + 1))
    return Difference(value_a - value_b, *percentile_interval(differences, level), p_value)
