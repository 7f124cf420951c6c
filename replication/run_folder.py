"""The folder of one pre-training run: who may write, what is logged, and the state it can be resumed from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from replication.checkpoints import CONFIG, DONE
from replication.config import RunConfig
from replication.config_files import derived_seed
from replication.errors import CheckpointError
from replication.files import atomic, locked, read_json, storage_errors_are_reported, sweep, write_json


@dataclass
class Position:
    """Where a run stands: the next step to do, and what the steps before it left behind.

    Attributes:
        seconds: spent so far, by all processes that worked on the run after another.
        training_seconds: the same without validation.
        images: seen so far.
        sums: of each loss over the steps done in this epoch.
        validation: validation loss of each finished epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    images: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    validation: list[float] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the lowest validation loss."""
        return min(range(len(self.validation)), key=self.validation.__getitem__)

    @property
    def images_per_second(self) -> float:
        """Of the training steps."""
        return round(self.images / max(self.training_seconds, 1e-9), 2)


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of a run."""

    path: Path

    @property
    def log(self) -> Path:
        """One JSON object per line."""
        return self.path / "log.jsonl"

    @property
    def state(self) -> Path:
        """Weights, optimiser and position after some step; replaced as a whole."""
        return self.path / "resume" / "state.pt"

    @property
    def best(self) -> Path:
        """Weights of the epoch with the lowest validation loss so far."""
        return self.path / "resume" / "best.safetensors"

    @property
    def is_done(self) -> bool:
        """Whether the run is complete."""
        return (self.path / DONE).is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, and clear away what a killed one was writing.

        Raises:
            DataError: another process trains here, or the folder cannot be written.
        """
        with locked(self.path, "training in this folder"):
            sweep(self.path)
            yield

    def claim(self, config: RunConfig) -> None:
        """Write the configuration; set the run of another configuration aside, as ``name.<digest>``."""
        path, wanted = self.path / CONFIG, config.model_dump(mode="json")
        found = read_json(path) if path.is_file() else None
        if found == wanted:
            return
        if found is not None:
            digest = derived_seed(json.dumps(found, sort_keys=True))
            aside = self.path.with_name(f"{self.path.name}.{digest:08x}")
            if (aside / CONFIG).exists():
                shutil.rmtree(aside)
            aside.mkdir(exist_ok=True)
            # The configuration last: what is interrupted here is gone on with, not taken for another run's.
            for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == CONFIG):
                entry.rename(aside / entry.name)
        write_json(path, wanted)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with storage_errors_are_reported(self.log), self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut_log(self, position: Position) -> None:
        """Drop the lines of steps that were done after the position was saved: they are done again."""
        if self.log.is_file():
            lines = self.log.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _lies_before(line, position)]
            with atomic(self.log) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def save_state(self, method: nn.Module, optimiser: Any, position: Position) -> None:
        """Replace the saved state."""
        state = {
            "method": method.state_dict(),
            "optimiser": optimiser.state_dict(),
            "position": asdict(position),
        }
        with atomic(self.state) as temporary, temporary.open("wb") as file:
            torch.save(state, file)

    def load_state(self, method: nn.Module, optimiser: Any) -> Position:
        """Bring method and optimiser to the saved state; the start if there is none.

        Raises:
            CheckpointError: the state is damaged or of another model.
        """
        if not self.state.is_file():
            return Position()
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
            method.load_state_dict(state["method"])
            optimiser.load_state_dict(state["optimiser"])
            return Position(**state["position"])
        except Exception as error:
            raise CheckpointError(
                "The saved state cannot be gone on with.",
                where=self.state,
                found=str(error).splitlines()[0],
                remedy=f"delete {self.state.parent} to start this run afresh",
            ) from error

    def clean(self) -> None:
        """Remove what only an unfinished run needs."""
        if self.state.parent.exists():
            shutil.rmtree(self.state.parent)


def _lies_before(line: str, position: Position) -> bool:
    """Whether a log line tells of a step before the position; a torn last line does not."""
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    if entry["epoch"] != position.epoch:
        return bool(entry["epoch"] < position.epoch)
    return bool(entry["kind"] == "step" and entry["step"] <= position.step)
