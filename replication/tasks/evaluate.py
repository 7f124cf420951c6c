"""From a trained method to rows: predict if need be, measure what was predicted, write both."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replication.checkpoints import DONE, WEIGHTS
from replication.config import Protocol, RunConfig, digest
from replication.data.batches import PreparedData
from replication.errors import ConfigError, DataError, nearest
from replication.method import Method
from replication.records import (
    PREDICTION_SCHEMA,
    Row,
    atomic,
    check_predictions,
    check_scores,
    provenance,
    read_json,
    read_metadata,
    read_predictions,
    write_predictions,
    write_rows,
)
from replication.tasks import zero_shot_classification, zero_shot_grounding, zero_shot_relations
from replication.tasks.common import (
    Measurement,
    NothingToMeasure,
    Predictions,
    evaluation_rows,
    long_format,
)
from replication.training import device_name

TASKS: dict[str, ModuleType] = {
    "zero_shot_classification": zero_shot_classification,
    "zero_shot_grounding": zero_shot_grounding,
    "zero_shot_relations": zero_shot_relations,
}
"""Tasks by the name that protocols use."""


def predictions_path(predictions_folder: Path, run_id: str, task: str, protocol: Protocol) -> Path:
    """Where predictions lie; heat maps beside them with the suffix ``.npz``."""
    return predictions_folder / run_id / f"{task}.{protocol.slug}.parquet"


def rows_path(rows_folder: Path, run_id: str, task: str, protocol: Protocol) -> Path:
    """Where the rows of one run, task and protocol lie."""
    return rows_folder / run_id / f"{task}.{protocol.slug}.parquet"


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
) -> None:
    """All tasks of a protocol for one run; what is there and still fits is not computed again.

    A task that has no meaning for the method or the data is reported on stderr and leaves an empty rows file.

    Args:
        run_folder: of ``replication.training.pretrain``.
        bootstrap: resamples of the intervals.

    Raises:
        ConfigError: the protocol names an unknown task. DataError: the data are not those of the protocol, or
            predictions are damaged. CheckpointError, DataError: the run is not finished.
    """
    torch.set_num_threads(threads)
    for task in protocol.tasks:
        if task not in TASKS:
            raise ConfigError("Unknown task.", where=protocol.id, found=task, remedy=nearest(task, TASKS))
    data.check_protocol(protocol)
    done = read_json(run_folder / DONE)
    facts = {
        "run_id": config.run_id,
        "protocol": digest(protocol),
        "manifest": data.fingerprint,
        "weights": _sha256(run_folder / WEIGHTS),
    }
    for task in protocol.tasks:
        path = predictions_path(predictions_folder, config.run_id, task, protocol)
        target = rows_path(rows_folder, config.run_id, task, protocol)
        try:
            _predict(TASKS[task], method, data, protocol, path, facts, batch_size, progress)
        except NothingToMeasure as reason:
            print(f"{config.label}, {task}, {protocol.id}: {reason}", file=sys.stderr)
            write_rows([], target, {"nothing": str(reason)})
            continue
        key = {"predictions": _sha256(path), "bootstrap": bootstrap}
        if read_metadata(target).get("key") != key:
            measured = TASKS[task].measure(load_predictions(path), protocol, draws=bootstrap)
            rows = _rows(measured, config, method, protocol, task, data, read_metadata(path), done)
            write_rows(rows, target, {"key": key})


def _predict(
    task: ModuleType,
    method: Method,
    data: PreparedData,
    protocol: Protocol,
    path: Path,
    facts: Mapping[str, str],
    batch_size: int,
    progress: bool,
) -> None:
    """Write predictions unless those that are there were made from the same weights, data and protocol."""
    known = read_metadata(path)
    if path.is_file() and all(known.get(name) == value for name, value in facts.items()):
        return
    predictions: Predictions = task.predict(method, data, protocol, batch_size=batch_size, progress=progress)
    where = f"{method.name} on {protocol.id}"
    check_predictions(predictions.frame, where)
    arrays = _arrays_path(path)
    if predictions.arrays:
        with atomic(arrays) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **predictions.arrays)
    device = next(method.parameters()).device
    metadata = {
        **facts,
        "protocol_id": protocol.id,
        "device": device_name(device),
        "dtype": "float32",
        "arrays": _sha256(arrays) if predictions.arrays else "",
        **vars(provenance()),
    }
    write_predictions(predictions.frame, path, metadata, where=where)


def load_predictions(path: Path) -> Predictions:
    """Stored predictions of a task with the arrays beside them.

    Raises:
        DataError: a file is damaged, or the two do not belong together.
    """
    frame = read_predictions(path)
    expected = read_metadata(path)["arrays"]
    if not expected:
        return Predictions(frame)
    arrays = _arrays_path(path)
    if not arrays.is_file() or _sha256(arrays) != expected:
        raise DataError(
            "The heat maps are missing or not those of the table beside them.",
            where=arrays,
            remedy=f"delete {path}; both are made again",
        )
    with np.load(arrays, allow_pickle=False) as file:
        return Predictions(frame, {name: file[name] for name in file.files})


def _arrays_path(path: Path) -> Path:
    return path.with_suffix(".npz")


def _rows(
    measured: list[Measurement],
    config: RunConfig,
    method: Method,
    protocol: Protocol,
    task: str,
    data: PreparedData,
    made: Mapping[str, Any],
    done: Mapping[str, Any],
) -> list[Row]:
    code = provenance()
    return [
        Row(
            method=config.method,
            variant=config.variant,
            recipe=config.recipe,
            supervision=method.supervision,
            tier=config.tier,
            seed=config.seed,
            dataset=protocol.dataset,
            protocol=protocol.id,
            task=task,
            label_fraction=0.0,
            **vars(one),
            selection=config.training.select,
            run_id=config.run_id,
            config_hash=digest(config),
            manifest_hash=data.fingerprint,
            code_version=code.code_version,
            code_dirty=code.code_dirty,
            environment_hash=code.environment_hash,
            device=made["device"],
            dtype=made["dtype"],
            wall_seconds=float(done["wall_seconds"]),
        )
        for one in measured
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def score_predictions(
    csv: Path, protocol: Protocol, data: PreparedData | None = None, *, draws: int = 1000
) -> pd.DataFrame:
    """Zero-shot classification metrics of somebody else's scores.

    Args:
        csv: columns ``sample``, ``finding``, ``score``, one line per image and finding. Scores of the
            validation images serve to choose thresholds; without them F1 and accuracy stay undefined.
        data: the prepared data set, for labels, patients and splits. Without it the file must also have the
            column ``label``, and may have ``patient`` (each image its own patient) and ``split`` (``test``).

    Returns:
        Columns of ``replication.tasks.common.Measurement``.

    Raises:
        DataError: names the line and what is wrong with it: a missing column, an unknown image or finding, a
            score that is not a number, a test image without a score.
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
        frame, expected = _with_labels(frame, protocol, data, csv)
    check_predictions(frame, csv)
    check_predictions(frame[frame["split"] == "test"], csv, samples=expected)
    missing = set(names) - set(frame["finding"])
    if missing:
        raise DataError(
            "A finding of the protocol has no scores.", where=csv, found=", ".join(sorted(missing))
        )
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
