"""Thirty kills at random moments, and what is left in the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import replicate, start
from own_tier import COMMANDS, Command, check_whole, new_folder, of_tier, outcome

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "replication.cli", *of_tier(("run",))]
KILLS = dict(zip(COMMANDS, (2, 1, 3, 2, 3, 5, 2, 3, 2, 1, 2, 1), strict=True))
KILLS_OF_WHOLE_RUNS = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs process groups"),
]


def seconds_of_commands(folder: Path) -> dict[Command, float]:
    """Run the tier undisturbed."""
    replicate(folder, "list", "tiers")
    seconds = {}
    for command in COMMANDS:
        started = start(folder, *of_tier(command))
        status, said = started.outcome()
        assert status == 0, said
        seconds[command] = started.seconds
    return seconds


def environment() -> dict[str, str]:
    """In which a run finds this project, wherever it is started."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def kill_a_whole_run(folder: Path, draw: random.Random, longest: float) -> None:
    """Start Snakemake with all its jobs, and kill them some time after the first job has begun."""
    began = time.time()
    process = subprocess.Popen(
        RUN, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    logs = folder / "work/own/logs"
    while not any(log.stat().st_mtime > began for log in logs.glob("*.log")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(draw.uniform(0, longest))
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_thirty_kills_change_nothing(tmp_path: Path) -> None:
    assert sum(KILLS.values()) + KILLS_OF_WHOLE_RUNS == 30
    undisturbed, disturbed = new_folder(tmp_path / "undisturbed"), new_folder(tmp_path / "disturbed")
    seconds = seconds_of_commands(undisturbed)
    draw = random.Random(20240315)
    known: dict[Path, tuple[int, int, int]] = {}
    for command in COMMANDS:
        longest = seconds[command]
        for _ in range(KILLS[command]):
            started = start(disturbed, *of_tier(command))
            while not started.is_killed_after(draw.uniform(0, longest)):
                status, said = started.outcome()
                assert status == 0, said
                # What is done is not done again, so the next one has less time to be killed in.
                longest = started.seconds
                started = start(disturbed, *of_tier(command))
            check_whole(disturbed, known)
        status, said = replicate(disturbed, *of_tier(command))
        assert status == 0, said
    assert outcome(disturbed) == outcome(undisturbed)
    # Something to do for whole runs.
    shutil.rmtree(disturbed / "results")
    for _ in range(KILLS_OF_WHOLE_RUNS):
        kill_a_whole_run(disturbed, draw, 2 * seconds[("evaluate", "medslip")])
        check_whole(disturbed, known)
    done = subprocess.run(RUN, cwd=disturbed, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert outcome(disturbed) == outcome(undisturbed)
