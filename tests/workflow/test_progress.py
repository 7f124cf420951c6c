from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from replication.workflow.plan import Workspace
from replication.workflow.progress import last_line, run_with_progress


def test_last_line_is_the_newest_state_of_a_progress_bar(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_bytes(b"start\nbar 1%\rbar 50%\rbar 99%\n\n")
    assert last_line(log) == "bar 99%"
    log.write_bytes(b"")
    assert last_line(log) == ""


def test_a_failed_job_shows_the_end_of_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace.open("smoke", tmp_path / "work", tmp_path / "results")
    log = workspace.work / "logs" / "prepare-x.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: a column is missing\n")
    script = (
        f"print('3 of 9 steps (33%) done'); print('    log: {log} (check log file)'); raise SystemExit(1)"
    )
    status = run_with_progress([sys.executable, "-c", script], workspace, dict(os.environ))
    said = capfd.readouterr().err
    assert status == 1
    assert "prepare-x" in said
    assert "a column is missing" in said
    assert "3 of 9 steps" in (workspace.work / "snakemake.log").read_text()
