"""What all tasks share: inference over images, names of samples, and the form of a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from replication.config_files import derived_seed
from replication.data.batches import PreparedData
from replication.devices import compute_device
from replication.errors import DataError
from replication.method import Finding, Method
from replication.protocol_config import Protocol
from replication.registry import dataset_reader
from replication.statistics import FloatArray, Resampling, percentile_interval, ratio

MEAN = "mean"
"""The finding of rows that average over all findings of a protocol."""

THRESHOLD = "threshold"
"""The metric of rows that only record which threshold was used."""

Score = Callable[[Tensor, Sequence[Finding]], Tensor]


class NothingToMeasure(DataError):
    """A task has no meaning for a method or a data set; its rows stay out, with this reason."""


@dataclass(frozen=True)
class Predictions:
    """All that the metrics of a task are computed from.

    Attributes:
        frame: columns of ``replication.records.PREDICTION_SCHEMA``.
        arrays: what does not fit a table, by name; stored beside it.
    """

    frame: pd.DataFrame
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """One metric of one finding; the measured part of a row, see ``replication.records.Row``."""

    finding: str
    metric: str
    value: float
    lower: float
    upper: float
    n: int
    n_positive: int
    higher_is_better: bool
    threshold_rule: str


@dataclass(frozen=True)
class Draws:
    """A metric with its bootstrap draws ``[R]``, before it is summarised."""

    finding: str
    metric: str
    value: float
    draws: FloatArray
    n: int
    n_positive: int
    threshold_rule: str = ""
    higher_is_better: bool = True

    def measured(self) -> Measurement:
        """With the percentile interval in place of the draws."""
        interval = percentile_interval(self.draws)
        return Measurement(
            self.finding,
            self.metric,
            self.value,
            interval.lower,
            interval.upper,
            self.n,
            self.n_positive,
            self.higher_is_better,
            self.threshold_rule,
        )


def threshold_used(finding: str, threshold: float, draws: int, rule: str, n: int, positive: int) -> Draws:
    """A threshold on record, as a metric without interval."""
    nothing = np.full(draws, np.nan)
    return Draws(finding, THRESHOLD, threshold, nothing, n, positive, rule, higher_is_better=False)


def with_means(found: Sequence[Draws], images: int, *, of_one: bool = False) -> list[Draws]:
    """The metrics, followed by the mean over findings of each (thresholds have none).

    Findings whose metric is undefined are left out of the mean, as is an undefined draw of a finding.

    Args:
        images: n of the mean rows.
        of_one: also where a metric has one finding only.
    """
    means = []
    for metric in dict.fromkeys(one.metric for one in found if one.metric != THRESHOLD):
        group = [one for one in found if one.metric == metric]
        defined = [one for one in group if np.isfinite(one.value)]
        if not defined or (len(group) < 2 and not of_one):
            continue
        stacked = np.stack([one.draws for one in defined])
        known = np.isfinite(stacked)
        means.append(
            replace(
                defined[0],
                finding=MEAN,
                value=float(np.mean([one.value for one in defined])),
                draws=ratio(np.where(known, stacked, 0.0).sum(axis=0), known.sum(axis=0)),
                n=images,
                n_positive=sum(one.n_positive for one in defined),
            )
        )
    return [*found, *means]


def resampling(patients: NDArray[Any] | Sequence[str], protocol: Protocol, draws: int) -> Resampling:
    """The bootstrap of a protocol: the same for all runs, so their differences are paired."""
    return Resampling.by_patient(patients, draws, derived_seed("bootstrap", protocol.id))


def protocol_findings(protocol: Protocol) -> list[Finding]:
    """The findings of a protocol as methods are asked for them."""
    return [Finding(f.name, f.text, f.pathology) for f in protocol.findings]


def evaluation_rows(data: PreparedData) -> NDArray[np.int64]:
    """Rows of the validation and test split, in the manifest's order within each.

    Raises:
        DataError: the test split is empty.
    """
    test = data.rows("test")
    if not len(test):
        raise DataError(
            "The test split is empty.", where=data.name, remedy="prepare the data with a split that has one"
        )
    return np.concatenate([data.rows("val"), test])


def identifiers(data: PreparedData, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Columns sample, patient and split of some rows.

    Identifiers of a credentialed data set must not leave it: there, numbers of the prepared manifest stand
    for images and patients.
    """
    manifest = data.manifest
    samples, patients = manifest["sample_id"], manifest["patient_id"]
    if dataset_reader(data.name).credentialed:
        samples = pd.Series([f"row {row:07d}" for row in range(len(manifest))])
        codes = pd.factorize(manifest["patient_id"], sort=False)[0]
        patients = pd.Series([f"patient {code:07d}" for code in codes])
    columns = {"sample": samples, "patient": patients, "split": manifest["split"]}
    return pd.DataFrame({name: column.to_numpy()[rows] for name, column in columns.items()}, dtype=str)


def long_format(
    names: pd.DataFrame, findings: Sequence[str], scores: NDArray[Any], labels: NDArray[Any]
) -> pd.DataFrame:
    """One line per image and finding, finding by finding.

    Args:
        names: ``identifiers`` of N images. scores, labels: ``[N, F]``.
    """
    frame = pd.concat([names] * len(findings), ignore_index=True)
    frame["finding"] = np.repeat(np.asarray(findings, dtype=object), len(names))
    frame["score"] = np.asarray(scores, dtype=np.float32).T.reshape(-1)
    frame["label"] = np.asarray(labels, dtype=np.int8).T.reshape(-1)
    return frame


def answers(
    method: Method,
    score: Score,
    data: PreparedData,
    rows: NDArray[np.int64],
    findings: Sequence[Finding],
    *,
    batch_size: int,
    progress: bool,
    title: str,
) -> Iterator[NDArray[np.float32]]:
    """What a method says of the images of some rows, batch by batch: ``[B, F, ...]`` float32."""
    device = compute_device()
    method.to(device).eval()
    with tqdm(total=len(rows), unit="img", desc=title, disable=not progress, mininterval=0.5) as bar:
        for start in range(0, len(rows), batch_size):
            batch = data.batch(rows[start : start + batch_size], augmentation=None, seed=0)
            with torch.inference_mode():
                yield score(batch.images.to(device), findings).float().cpu().numpy()
            bar.update(len(batch))
