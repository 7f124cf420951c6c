"""Predictions and rows of one task on disk: where they lie, when they still hold, and what a row says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from replication import protocol_config
from replication.checkpoints import DONE, WEIGHTS
from replication.config import RunConfig
from replication.config_files import digest
from replication.data.batches import PreparedData
from replication.devices import device_name
from replication.errors import DataError
from replication.method import Method
from replication.records import (
    Row,
    atomic,
    check_predictions,
    provenance,
    read_json,
    read_metadata,
    read_predictions,
    result_name,
    write_predictions,
    write_rows,
)
from replication.tasks.common import Measurement, Predictions


class Measure(Protocol):
    """What a task measures of predictions."""

    def __call__(
        self, predictions: Predictions, protocol: protocol_config.Protocol, *, draws: int
    ) -> list[Measurement]:
        """Metrics with intervals from ``draws`` bootstrap resamples."""


@dataclass(frozen=True)
class Folders:
    """Where predictions and rows lie, a folder per run id in each."""

    predictions: Path
    rows: Path


@dataclass(frozen=True)
class EvaluatedRun:
    """A finished run, as its results remember it.

    Attributes:
        weights: SHA-256 of the weights. wall_seconds: of the pre-training.
    """

    method: Method
    config: RunConfig
    weights: str
    wall_seconds: float

    @classmethod
    def open(cls, run_folder: Path, method: Method, config: RunConfig) -> EvaluatedRun:
        """Of a run folder and the method that was loaded from it.

        Raises:
            DataError: the run is not finished.
        """
        done = read_json(run_folder / DONE)
        return cls(method, config, sha256(run_folder / WEIGHTS), float(done["wall_seconds"]))


@dataclass(frozen=True)
class Result:
    """The predictions and rows of one task of a run under one protocol.

    Attributes:
        fraction: share of the data set's labels that was learned from; 0 where nothing was.
        selection: which weights of the run were taken, and what was chosen after that.
        inputs: what else decides the predictions, by name; compared with what their file remembers.
    """

    run: EvaluatedRun
    task: str
    protocol: protocol_config.Protocol
    data: PreparedData
    folders: Folders
    selection: str
    fraction: float = 0.0
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Of the predictions; their arrays lie beside them with the suffix ``.npz``."""
        return self.folders.predictions / self.run.config.run_id / self._name

    @property
    def rows_path(self) -> Path:
        """Of the rows."""
        return self.folders.rows / self.run.config.run_id / self._name

    @property
    def _name(self) -> str:
        return result_name(self.task, self.protocol.id, self.fraction)

    @property
    def _facts(self) -> dict[str, str]:
        return {
            "run_id": self.run.config.run_id,
            "protocol": self.protocol.fingerprint,
            "manifest": self.data.fingerprint,
            "weights": self.run.weights,
            **self.inputs,
        }

    @property
    def is_predicted(self) -> bool:
        """Whether predictions of the same weights, data, protocol and inputs are there."""
        known = read_metadata(self.path)
        return self.path.is_file() and all(known.get(name) == value for name, value in self._facts.items())

    def write(self, predictions: Predictions, **remembered: Any) -> None:
        """Check and write predictions.

        Raises:
            DataError: see ``replication.records.check_predictions``; then nothing is written.
        """
        where = f"{self.run.method.name} on {self.protocol.id}"
        check_predictions(predictions.frame, where)
        arrays = _arrays_path(self.path)
        if predictions.arrays:
            with atomic(arrays) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **predictions.arrays)
        metadata = {
            **self._facts,
            "protocol_id": self.protocol.id,
            "device": device_name(next(self.run.method.parameters()).device),
            "dtype": "float32",
            "arrays": sha256(arrays) if predictions.arrays else "",
            **remembered,
            **vars(provenance()),
        }
        write_predictions(predictions.frame, self.path, metadata, where=where)

    def measure(self, measure: Measure, bootstrap: int) -> None:
        """Write the rows, unless there are rows of these very predictions."""
        key = {"predictions": sha256(self.path), "bootstrap": bootstrap}
        if read_metadata(self.rows_path).get("key") != key:
            measured = measure(load_predictions(self.path), self.protocol, draws=bootstrap)
            write_rows(self._rows(measured), self.rows_path, {"key": key})

    def leave_empty(self, reason: str) -> None:
        """Write that there is nothing to measure, and why."""
        write_rows([], self.rows_path, {"nothing": reason})

    def _rows(self, measured: Sequence[Measurement]) -> list[Row]:
        config, code, made = self.run.config, provenance(), read_metadata(self.path)
        return [
            Row(
                method=config.method,
                variant=config.variant,
                recipe=config.recipe,
                supervision=self.run.method.supervision,
                tier=config.tier,
                seed=config.seed,
                dataset=self.protocol.dataset,
                protocol=self.protocol.id,
                task=self.task,
                label_fraction=self.fraction,
                **vars(one),
                selection=self.selection,
                run_id=config.run_id,
                config_hash=digest(config),
                manifest_hash=self.data.fingerprint,
                code_version=code.code_version,
                code_dirty=code.code_dirty,
                environment_hash=code.environment_hash,
                device=made["device"],
                dtype=made["dtype"],
                wall_seconds=self.run.wall_seconds,
            )
            for one in measured
        ]


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
    if not arrays.is_file() or sha256(arrays) != expected:
        raise DataError(
            "The arrays are missing or not those of the table beside them.",
            where=arrays,
            remedy=f"delete {path}; both are made again",
        )
    with np.load(arrays, allow_pickle=False) as file:
        return Predictions(frame, {name: file[name] for name in file.files})


def _arrays_path(path: Path) -> Path:
    return path.with_suffix(".npz")


def sha256(path: Path) -> str:
    """Of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
