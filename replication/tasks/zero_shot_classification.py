"""Zero-shot classification: how well a method's scores tell images with a finding from those without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.data.batches import PreparedData
from replication.errors import DataError
from replication.method import Method
from replication.metrics import (
    ThresholdGoal,
    ThresholdOp,
    average_precision_draws,
    best_threshold,
    mean_roc_auc,
    predicted,
    roc_auc_draws,
    threshold_metrics_draws,
)
from replication.protocol_config import Protocol
from replication.statistics import Resampling
from replication.tasks.common import (
    Draws,
    Measurement,
    NothingToMeasure,
    Predictions,
    answers,
    evaluation_rows,
    identifiers,
    long_format,
    protocol_findings,
    resampling,
    threshold_used,
    with_means,
)


def predict(
    method: Method, data: PreparedData, protocol: Protocol, *, batch_size: int = 128, progress: bool = False
) -> Predictions:
    """Scores of the validation and test images for all findings of a protocol.

    Raises:
        DataError: the data are not those of the protocol. NothingToMeasure: see ``check_test_classes``.
    """
    data.check_protocol(protocol)
    check_test_classes(labels_of(data, data.rows("test"), protocol), protocol, data.name)
    rows, findings = evaluation_rows(data), protocol_findings(protocol)
    said = answers(
        method,
        method.score,
        data,
        rows,
        findings,
        batch_size=batch_size,
        progress=progress,
        title=protocol.id,
    )
    scores = np.concatenate(list(said))
    labels = labels_of(data, rows, protocol)
    names = [finding.name for finding in protocol.findings]
    return Predictions(long_format(identifiers(data, rows), names, scores, labels))


def labels_of(data: PreparedData, rows: NDArray[np.int64], protocol: Protocol) -> NDArray[np.int8]:
    """Labels ``[M, F]`` of M images for the findings of a protocol."""
    columns = [data.label_names.index(finding.column) for finding in protocol.findings]
    return np.asarray(data.labels[rows][:, columns])


def check_test_classes(labels: NDArray[np.int8], protocol: Protocol, where: str | Path) -> None:
    """Refuse test images that cannot tell a good score from a bad one.

    Args:
        labels: ``[M, F]`` of the test images; 1 present, 0 absent, anything else unknown.

    Raises:
        NothingToMeasure: no finding has both classes.
    """
    present, absent = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    if not ((present > 0) & (absent > 0)).any():
        raise NothingToMeasure(
            "No finding has both classes among the test images.",
            where=f"{where}, {protocol.id}",
            found=f"{int(present.sum())} labels present, {int(absent.sum())} absent",
            allowed="at least one finding with both",
            remedy="test on more images",
        )


def measure(
    predictions: Predictions, protocol: Protocol, *, draws: int = 1000, threshold_op: ThresholdOp = "ge"
) -> list[Measurement]:
    """AUC, average precision, and F1 and accuracy at the F1-optimal threshold, per finding and on average.

    Thresholds are chosen per finding on the split that the protocol names. F1 and accuracy are undefined
    (NaN) where that split holds no positive; AUC and average precision where the test split lacks a class.

    Args:
        draws: bootstrap resamples of the test patients.
        threshold_op: ``gt`` leaves the threshold itself out, as the released code does (audit Z4).
    """
    found = metric_draws(predictions.frame, protocol, draws=draws, threshold_op=threshold_op)
    return [one.measured() for one in found]


def validation_auc(method: Method, data: PreparedData, protocol: Protocol, *, batch_size: int = 128) -> float:
    """Mean AUC over findings on the validation images alone; what settings are chosen by.

    Raises:
        DataError: the data are not those of the protocol, or no finding has both classes in the split.
    """
    data.check_protocol(protocol)
    rows, findings = data.rows("val"), protocol_findings(protocol)
    said = answers(
        method, method.score, data, rows, findings, batch_size=batch_size, progress=False, title=protocol.id
    )
    found = mean_roc_auc(labels_of(data, rows, protocol), np.concatenate(list(said)))
    if np.isnan(found):
        raise DataError(
            "No finding has both classes among the validation images.", where=data.name, found=len(rows)
        )
    return found


def metric_draws(
    frame: pd.DataFrame,
    protocol: Protocol,
    *,
    draws: int,
    threshold_op: ThresholdOp = "ge",
    threshold_goal: ThresholdGoal = "f1",
) -> list[Draws]:
    """The metrics of ``measure`` with their bootstrap draws, paired over runs of one protocol.

    Args:
        threshold_goal: what the threshold maximises; KAD's released code takes ``mcc`` (audit A8).
    """
    test = frame[frame["split"] == "test"]
    everyone = resampling(test["patient"].to_numpy(), protocol, draws)
    chosen_on = frame if protocol.threshold_source == "val" else test
    chosen_on = chosen_on[chosen_on["split"] == protocol.threshold_source]
    relation = ">=" if threshold_op == "ge" else ">"
    rule = f"maximum {threshold_goal.upper()} on {protocol.threshold_source}, score {relation} it"
    found = []
    for finding in protocol.findings:
        known = ((test["finding"] == finding.name) & (test["label"] >= 0)).to_numpy()
        tuning = chosen_on[(chosen_on["finding"] == finding.name) & (chosen_on["label"] >= 0)]
        threshold = best_threshold(tuning["label"].to_numpy(), tuning["score"].to_numpy(), threshold_goal)
        found += _of_finding(finding.name, test[known], everyone[known], threshold, threshold_op, rule)
    return with_means(found, test["sample"].nunique())


def _of_finding(
    name: str,
    test: pd.DataFrame,
    resamples: Resampling,
    threshold: float,
    threshold_op: ThresholdOp,
    rule: str,
) -> list[Draws]:
    labels, scores = test["label"].to_numpy(), test["score"].to_numpy()
    itself = Resampling.none(len(labels))
    count, positive = len(labels), int((labels == 1).sum())
    found = [
        Draws(
            name,
            metric,
            float(of(labels, scores, itself)[0]),
            of(labels, scores, resamples),
            count,
            positive,
        )
        for metric, of in (("auc", roc_auc_draws), ("ap", average_precision_draws))
    ]
    calls = predicted(scores, threshold, threshold_op)
    plain, drawn = (threshold_metrics_draws(labels, calls, r) for r in (itself, resamples))
    undefined = np.isnan(threshold) or not count
    for metric in ("f1", "accuracy"):
        value = float("nan") if undefined else float(getattr(plain, metric)[0])
        values = np.full(resamples.draws, np.nan) if undefined else getattr(drawn, metric)
        found.append(Draws(name, metric, value, values, count, positive, rule))
    return [*found, threshold_used(name, threshold, resamples.draws, rule, count, positive)]
