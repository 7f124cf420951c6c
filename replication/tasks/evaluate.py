"""From a trained method to rows: predict if need be, measure what was predicted, write both."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replication.config import RunConfig
from replication.data.batches import PreparedData
from replication.data.leaks import refuse_leaks
from replication.errors import ConfigError, DataError, nearest
from replication.method import Method
from replication.protocol_config import Protocol
from replication.records import PREDICTION_SCHEMA, check_predictions, check_scores
from replication.tasks import (
    disentanglement,
    disentanglement_patches,
    retrieval,
    transfer,
    zero_shot_classification,
    zero_shot_grounding,
    zero_shot_relations,
)
from replication.tasks.common import NothingToMeasure, Predictions, evaluation_rows, long_format
from replication.tasks.results import EvaluatedRun, Folders, Result
from replication.transfer_config import base_task

TASKS: dict[str, ModuleType] = {
    "zero_shot_classification": zero_shot_classification,
    "zero_shot_grounding": zero_shot_grounding,
    "zero_shot_relations": zero_shot_relations,
    "disentanglement": disentanglement,
    "disentanglement_patches": disentanglement_patches,
    "retrieval": retrieval,
}
"""Tasks that leave a method as it is, by the name that protocols use."""

_PROBE = "penalty of highest AUC on val"
CHOSEN = {"disentanglement": _PROBE, "disentanglement_patches": _PROBE}
"""What some tasks choose beside the weights, and how."""


def evaluate(
    run_folder: Path,
    method: Method,
    config: RunConfig,
    protocol: Protocol,
    data: PreparedData,
    *,
    predictions_folder: Path,
    rows_folder: Path,
    bootstrap: int = 1000,
    batch_size: int = 128,
    threads: int = 1,
    progress: bool = True,
    allow_leaks: bool = False,
) -> None:
    """All tasks of a protocol that leave the method as it is, for one run.

    What is there and still fits is not computed again.
    A task that has no meaning for the method or the data is reported on stderr and leaves an empty rows file.

    Args:
        run_folder: of ``replication.training.pretrain``.
        bootstrap: resamples of the intervals.
        allow_leaks: score although splits share patients or pictures.

    Raises:
        ConfigError: the protocol names an unknown task. DataError: the data are not those of the protocol or
            leak, or predictions are damaged. CheckpointError, DataError: the run is not finished.
    """
    torch.set_num_threads(threads)
    known = {*TASKS, *map(base_task, transfer.TASKS)}
    for task in protocol.tasks:
        if task not in known:
            raise ConfigError("Unknown task.", where=protocol.id, found=task, remedy=nearest(task, known))
    data.check_protocol(protocol)
    refuse_leaks(data, protocol, pretrained_on=config.dataset, allow=allow_leaks)
    run = EvaluatedRun.open(run_folder, method, config)
    folders = Folders(predictions_folder, rows_folder)
    for task in protocol.tasks:
        if task not in TASKS:
            continue
        selection = "; ".join(filter(None, [config.training.select, CHOSEN.get(task)]))
        result = Result(run, task, protocol, data, folders, selection)
        try:
            if not result.is_predicted:
                began = time.monotonic()
                predict = TASKS[task].predict
                predictions = predict(method, data, protocol, batch_size=batch_size, progress=progress)
                result.write(predictions, seconds=round(time.monotonic() - began, 2))
        except NothingToMeasure as reason:
            print(f"{config.label}, {task}, {protocol.id}: {reason}", file=sys.stderr)
            result.leave_empty(str(reason))
            continue
        result.measure(TASKS[task].measure, bootstrap)


def score_predictions(
    csv: Path,
    protocol: Protocol,
    data: PreparedData | None = None,
    *,
    draws: int = 1000,
    allow_leaks: bool = False,
) -> pd.DataFrame:
    """Zero-shot classification metrics of somebody else's scores.

    Args:
        csv: columns ``sample``, ``finding``, ``score``, one line per image and finding. Scores of the
            validation images serve to choose thresholds; without them F1 and accuracy stay undefined.
        data: the prepared data set, for labels, patients and splits. Without it the file must also have the
            column ``label``, and may have ``patient`` (each image its own patient) and ``split`` (``test``).
        allow_leaks: score although splits share patients or pictures.

    Returns:
        Columns of ``replication.tasks.common.Measurement``.

    Raises:
        DataError: the data leak; or names the line and what is wrong with it: a missing column, an unknown
            image or finding, a score that is not a number, a test image without a score.
    """
    frame = _read_csv(
        csv, ("sample", "finding", "score") if data else ("sample", "finding", "score", "label")
    )
    names = [finding.name for finding in protocol.findings]
    _known(frame, "finding", names, csv)
    check_scores(frame, csv, first_line=2)
    frame["score"] = pd.to_numeric(frame["score"])
    if data is None:
        frame["patient"] = frame.get("patient", frame["sample"])
        frame["split"] = frame.get("split", "test")
        frame["label"] = pd.to_numeric(frame["label"], errors="coerce").fillna(-9)
        expected = set(frame.loc[frame["split"] == "test", "sample"])
    else:
        data.check_protocol(protocol)
        refuse_leaks(data, protocol, allow=allow_leaks)
        frame, expected = _with_labels(frame, protocol, data, csv)
    check_predictions(frame, csv)
    check_predictions(frame[frame["split"] == "test"], csv, samples=expected)
    missing = set(names) - set(frame["finding"])
    if missing:
        raise DataError(
            "A finding of the protocol has no scores.", where=csv, found=", ".join(sorted(missing))
        )
    labels = frame[frame["split"] == "test"].pivot(index="sample", columns="finding", values="label")
    zero_shot_classification.check_test_classes(labels[names].to_numpy(), protocol, csv)
    typed = frame[PREDICTION_SCHEMA.names].astype({"score": "float32", "label": "int8"})
    measured = zero_shot_classification.measure(Predictions(typed), protocol, draws=draws)
    return pd.DataFrame([vars(one) for one in measured])


def _read_csv(csv: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(csv, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError("The file cannot be read as CSV.", where=csv, found=error) from error
    for column in columns:
        if column not in frame:
            raise DataError(
                f"The column {column!r} is missing.",
                where=csv,
                found=", ".join(frame.columns),
                allowed=", ".join(columns),
                remedy=nearest(column, frame.columns),
            )
    return frame


def _known(frame: pd.DataFrame, column: str, allowed: list[str] | NDArray[Any], csv: Path) -> None:
    wrong = ~frame[column].isin(allowed)
    if wrong.any():
        line = int(wrong.to_numpy().argmax())
        raise DataError(
            f"Unknown {column}.",
            where=f"{csv}, line {line + 2}",
            found=frame[column].iloc[line],
            allowed=f"one of {len(allowed)}",
            remedy=nearest(frame[column].iloc[line], list(allowed)[:5000]),
        )


def _with_labels(
    frame: pd.DataFrame, protocol: Protocol, data: PreparedData, csv: Path
) -> tuple[pd.DataFrame, set[str]]:
    """Scores with patient, split and label of each image, and the test images."""
    rows = evaluation_rows(data)
    manifest = data.manifest.iloc[rows]
    _known(frame, "sample", manifest["sample_id"].to_numpy(), csv)
    columns = [data.label_names.index(finding.column) for finding in protocol.findings]
    labels = data.labels[rows][:, columns]
    names = manifest[["sample_id", "patient_id", "split"]].set_axis(["sample", "patient", "split"], axis=1)
    known = long_format(names, [f.name for f in protocol.findings], np.zeros(labels.shape), labels)
    joined = frame[["sample", "finding", "score"]].merge(
        known.drop(columns="score"), on=["sample", "finding"]
    )
    return joined, set(names.loc[names["split"] == "test", "sample"])
