"""Where the time of a replication goes: its jobs by stage, and how much of it is training and inference."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from replication.files import atomic, read_json
from replication.records import read_metadata
from replication.workflow.plan import Workspace

STAGES = ("phantom", "prepare", "text-encoder", "pretrain", "evaluate", "rows", "notebook", "site")
"""As the names of the files begin that Snakemake leaves for each job."""

TABLE = "stages.csv"


@dataclass(frozen=True)
class Stages:
    """The time of all jobs in a work folder, whichever call they belonged to.

    Attributes:
        table: a line per stage: jobs, seconds (wall clock, summed over jobs), cpu_seconds, peak_mib (of one).
        training: seconds inside training loops. inference: seconds inside models in evaluation, the training
            of tasks that learn from labels included.
    """

    table: pd.DataFrame
    training: float
    inference: float

    @property
    def overhead(self) -> float:
        """Share of the jobs' time that is neither training nor inference."""
        return 1.0 - (self.training + self.inference) / float(self.table["seconds"].sum())

    def __str__(self) -> str:
        lines = [
            f"{one.stage:14}{one.jobs:5} jobs {one.seconds:9.0f} s {one.cpu_seconds:9.0f} s of CPU "
            f"{one.peak_mib:7.0f} MiB"
            for one in self.table.itertuples()
        ]
        return "\n".join([*lines, f"neither training nor inference: {self.overhead:.0%} of the jobs' time"])


def stages(workspace: Workspace) -> Stages | None:
    """What the jobs of a workspace took; ``None`` where no job was measured."""
    measured = [
        pd.read_csv(path, sep="\t").assign(stage=stage)
        for stage in STAGES
        for path in sorted(workspace.times.glob(f"{stage}*.tsv"))
    ]
    if not measured:
        return None
    jobs = pd.concat(measured)
    # Snakemake writes NA for what a very short job did not live to show.
    for name in ("cpu_time", "max_rss"):
        jobs[name] = pd.to_numeric(jobs[name], errors="coerce")
    table = jobs.groupby("stage").agg(
        jobs=("s", "size"), seconds=("s", "sum"), cpu_seconds=("cpu_time", "sum"), peak_mib=("max_rss", "max")
    )
    table = table.reindex([stage for stage in STAGES if stage in table.index]).reset_index()
    return Stages(table.round(1), _training_seconds(workspace), _inference_seconds(workspace))


def write_stages(workspace: Workspace) -> Stages | None:
    """Write ``stages.csv`` beside the rows; see ``stages``."""
    found = stages(workspace)
    if found is not None:
        with atomic(workspace.results / TABLE) as path:
            found.table.to_csv(path, index=False)
    return found


def _training_seconds(workspace: Workspace) -> float:
    """Of the runs whose jobs were measured; one with the weights of another remembers the other's time."""
    return sum(
        float(read_json(path)["wall_seconds"])
        for path in workspace.work.glob("runs/*/done.json")
        if (workspace.times / f"pretrain-{path.parent.name}.tsv").exists()
        and read_json(path.with_name("config.json")).get("weights", "own") == "own"
    )


def _inference_seconds(workspace: Workspace) -> float:
    """Of all stored predictions of this version's making; older ones do not remember it."""
    return sum(
        float(read_metadata(path).get("seconds", 0.0)) for path in workspace.predictions.glob("*/*.parquet")
    )
