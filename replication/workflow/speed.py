"""How fast methods train: given, measured by a probe of some steps, or known from runs that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from replication.errors import ConfigError
from replication.files import atomic, read_json
from replication.tier_config import TierConfig
from replication.workflow.plan import Run, Workspace

TABLE = "speed.csv"
"""In the work folder of a tier: what probes measured."""


@dataclass(frozen=True)
class Speed:
    """Training throughput of a method under a recipe.

    Attributes:
        images_per_second: of training steps, augmentation included, validation and reading from disk not.
        device: ``cpu``, a GPU's name, or ``not said``. threads: of the process; 0 where not said.
        source: where the figure is from.
    """

    label: str
    recipe: str
    images_per_second: float
    device: str
    threads: int
    source: str


def given_speeds(given: Sequence[str], tier: TierConfig) -> list[Speed]:
    """What ``METHOD=N`` says, or a table as ``speed.csv`` is.

    Raises:
        ConfigError: neither, or no positive number.
    """
    found = []
    for item in given:
        name, equals, value = item.partition("=")
        if equals:
            found.append(Speed(name, tier.recipe, _positive(value, item), "not said", 0, "given"))
        else:
            found += _read(Path(item))
    return found


def _positive(value: object, where: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(
            "Not a speed.", where=where, found=value, allowed="METHOD=N with N > 0 images per second"
        )
    return number


def _read(path: Path) -> list[Speed]:
    allowed = "METHOD=N, or a CSV file with the columns label, recipe, images_per_second, device, threads"
    if not path.is_file():
        raise ConfigError(
            "No such table of speeds.", where="--images-per-second", found=path, allowed=allowed
        )
    table = pd.read_csv(path)
    needed = ["label", "recipe", "images_per_second", "device", "threads"]
    if missing := [name for name in needed if name not in table.columns]:
        raise ConfigError("A table of speeds lacks a column.", where=path, found=missing, allowed=allowed)
    return [
        Speed(
            str(row["label"]),
            str(row["recipe"]),
            _positive(row["images_per_second"], f"{path}, row {number}"),
            str(row["device"]),
            int(row["threads"]),
            str(row.get("source") or path),
        )
        for number, row in enumerate(table.to_dict("records"), 2)
    ]


def measured_speeds(workspace: Workspace) -> list[Speed]:
    """What earlier probes found."""
    path = workspace.work / TABLE
    return _read(path) if path.is_file() else []


def keep_speeds(workspace: Workspace, speeds: Sequence[Speed]) -> Path:
    """Add speeds to those that are kept, in place of older ones of the same method and recipe."""
    kept = {(speed.label, speed.recipe): speed for speed in [*measured_speeds(workspace), *speeds]}
    with atomic(workspace.work / TABLE) as path:
        pd.DataFrame([asdict(speed) for speed in kept.values()]).to_csv(path, index=False)
    return workspace.work / TABLE


def finished_speeds(workspace: Workspace) -> list[Speed]:
    """Of the runs of a workspace that are done and were trained."""
    found = []
    for path in sorted(workspace.work.glob("runs/*/done.json")):
        done, run = read_json(path), Run.from_key(path.parent.name)
        if done.get("images"):
            rate = float(done["images_per_second"])
            found.append(
                Speed(
                    run.label, run.recipe, rate, str(done["device"]), int(done["threads"]), f"run {run.key}"
                )
            )
    return found


def known_speeds(workspace: Workspace, given: Sequence[str] = ()) -> dict[tuple[str, str], Speed]:
    """By label and recipe: what is given, else what runs took, else what a probe measured before."""
    known = [*measured_speeds(workspace), *finished_speeds(workspace), *given_speeds(given, workspace.tier)]
    return {(speed.label, speed.recipe): speed for speed in known}
