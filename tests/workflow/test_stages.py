"""The time of a replication by stage."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from replication.files import write_json
from replication.records import write_predictions
from replication.workflow.plan import Workspace
from replication.workflow.stages import stages, write_stages

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def job(workspace: Workspace, name: str, seconds: float, cpu: str = "1.0", rss: str = "100.0") -> None:
    workspace.times.mkdir(parents=True, exist_ok=True)
    line = f"{seconds}\t0:00:00\t{rss}\t1\t1\t1\t0\t0\t99\t{cpu}\n"
    (workspace.times / f"{name}.tsv").write_text(HEADER + line)


def run(workspace: Workspace, key: str, seconds: float, weights: str = "own") -> None:
    folder = workspace.work / "runs" / key
    write_json(folder / "done.json", {"wall_seconds": seconds})
    write_json(folder / "config.json", {"weights": weights})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open("smoke", tmp_path / "work", tmp_path / "results")


def test_jobs_are_summed_by_stage_and_set_against_training_and_inference(workspace: Workspace) -> None:
    job(workspace, "pretrain-a.matched.seed0", 60.0, cpu="55.5", rss="400.0")
    job(workspace, "pretrain-b.matched.seed0", 30.0, cpu="30.0", rss="500.0")
    job(workspace, "evaluate-a.matched.seed0", 10.0, cpu="NA", rss="NA")
    run(workspace, "a.matched.seed0", 45.0)
    run(workspace, "b.matched.seed0", 25.0)
    job(workspace, "pretrain-a~other-rule.matched.seed0", 0.0)
    run(workspace, "a~other-rule.matched.seed0", 45.0, weights="default")
    run(workspace, "trained-before.matched.seed0", 99.0)
    frame = pd.DataFrame(
        {"sample": ["s"], "patient": ["p"], "split": ["test"], "finding": ["f"], "score": [0.5], "label": [1]}
    ).astype({"score": "float32", "label": "int8"})
    write_predictions(frame, workspace.predictions / "id" / "task.parquet", {"seconds": 5.0})
    found = write_stages(workspace)
    assert found is not None
    table = pd.read_csv(workspace.results / "stages.csv").set_index("stage")
    assert list(table.index) == ["pretrain", "evaluate"]
    assert table.loc["pretrain"].to_dict() == {
        "jobs": 3, "seconds": 90.0, "cpu_seconds": 86.5, "peak_mib": 500.0,
    }  # fmt: skip
    assert (found.training, found.inference) == (70.0, 5.0)
    assert found.overhead == pytest.approx(0.25)
    assert "25% of the jobs' time" in str(found)


def test_without_measured_jobs_there_is_nothing_to_tell(workspace: Workspace) -> None:
    assert stages(workspace) is None
    assert write_stages(workspace) is None
    assert not workspace.results.exists()
