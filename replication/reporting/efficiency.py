"""What methods cost: parameters, pre-training speed and time, from what their runs put on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict

from replication.config_files import Strict, parse
from replication.records import read_json
from replication.reporting.report import LABEL_NAMES, Entry, Report, titled
from replication.reporting.tables import Cell, Column, Header, Row, Table

UNIT = "convirt"
"""The method whose cost is 1: two towers and one contrastive loss."""


class Cost(Strict):
    """What a finished run says about itself in its ``done.json``; other keys are not read.

    Attributes:
        images: seen in pre-training, all epochs. wall_seconds: of pre-training, validation included.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    parameters: int
    trainable_parameters: int
    images: int
    images_per_second: float
    wall_seconds: float
    device: str
    threads: int
    processes: int
    precision: str
    torch: str

    @property
    def setting(self) -> str:
        """``cpu, 1 thread, bf16, torch 2.14.1``; several processes are named."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        processes = [f"{self.processes} processes"] if self.processes != 1 else []
        return ", ".join([self.device, threads, *processes, self.precision, f"torch {self.torch}"])


@dataclass(frozen=True)
class Costs:
    """Of one line of the comparison: its finished runs by seed, and why there are none if so."""

    entry: Entry
    runs: tuple[str, ...]
    found: tuple[Cost, ...]
    missing: str

    @property
    def trained(self) -> bool:
        """Whether there was anything to train."""
        return any(one.images for one in self.found)

    @property
    def fastest(self) -> float:
        """Images a second of the fastest seed: what else the machine does makes runs slower, never faster."""
        return max(one.images_per_second for one in self.found)


def read_costs(report: Report) -> list[Costs]:
    """Costs of every method of the tier, variants left out.

    Raises:
        ConfigError: a ``done.json`` lacks a key. DataError: one is damaged.
    """
    folders = report.run_folders()
    found = []
    for entry in report.entries():
        if "/" in entry.label:
            continue
        rows = report.select(label=entry.label, recipe=entry.recipe)
        runs = rows[["seed", "run_id"]].drop_duplicates().sort_values("seed")["run_id"].astype(str)
        done = {run: folders[run] / "done.json" for run in runs if run in folders}
        finished = {run: path for run, path in done.items() if path.is_file()}
        costs = [parse(Cost, read_json(path), path) for path in finished.values()]
        missing = "its runs are not in the work folder" if len(runs) else "no run of it has been evaluated"
        found.append(Costs(entry, tuple(finished), tuple(costs), "" if costs else missing))
    return found


def efficiency_table(report: Report, found: Sequence[Costs]) -> Table:
    """``efficiency``: a line per method."""
    unit = next((one for one in found if one.entry.label == UNIT and one.trained), None)
    rows = [Row(one.entry.labels, _cells(one, unit), one.entry.reference) for one in found]
    seeds = any(len(one.found) > 1 for one in found)
    return Table(
        name="efficiency",
        title="Cost of pre-training",
        caption=(
            "Parameters of the whole network with its text encoder where it keeps one, and those that are "
            "trained. Speed: images a second of pre-training steps, data included. The fastest seed says "
            "what the method needs, the slowest what else the machine did meanwhile. Cost: seconds per image "
            f"of the fastest seed, {UNIT} = 1."
        ),
        label_names=LABEL_NAMES,
        columns=(
            Column("All", "Parameters", None, unit="M", decimals=2),
            Column("Trained", "Parameters", None, unit="M", decimals=2),
            Column("Fastest seed", "Images per second", True, decimals=0),
            Column("Slowest seed", "Images per second", None, decimals=0),
            Column("Time", "Pre-training", None, unit="min", decimals=1),
            Column("Cost", "Pre-training", False, decimals=2),
        ),
        rows=tuple(rows),
        header=Header(
            protocols=_setting(report, found),
            selection="",
            thresholds="",
            error_bars="time: mean over seeds ± sample standard deviation over seeds" if seeds else "",
            data="",
        ),
        notes=(
            "The time of evaluation is on record with the predictions of each run, and not shown. Steps of "
            "the same size as the released code's are timed in tests/benchmarks.",
        ),
    )


def _setting(report: Report, found: Sequence[Costs]) -> str:
    tier = report.tier
    settings = sorted({cost.setting for one in found if one.trained for cost in one.found})
    parts = [f"pre-training on {titled(tier.pretrain)} at {tier.image_size} px", *settings]
    return "; ".join(parts)


def _cells(one: Costs, unit: Costs | None) -> tuple[Cell, ...]:
    if one.missing:
        return (Cell.absent(one.missing),) * 6

    def cell(value: float, spread: float | None = None) -> Cell:
        return Cell(value, spread=spread, n_seeds=len(one.found), runs=one.runs)

    sizes = (cell(one.found[0].parameters / 1e6), cell(one.found[0].trainable_parameters / 1e6))
    if not one.trained:
        return (*sizes, *(Cell.absent("nothing is trained"),) * 4)
    minutes = np.array([cost.wall_seconds / 60 for cost in one.found])
    spread = float(minutes.std(ddof=1)) if len(minutes) > 1 else None
    relative = (
        cell(unit.fastest / one.fastest)
        if unit
        else Cell.absent(f"no finished run of {UNIT} to compare with")
    )
    slowest = min(cost.images_per_second for cost in one.found)
    return (*sizes, cell(one.fastest), cell(slowest), cell(float(minutes.mean()), spread), relative)
