"""Commands that are started twice, or that the disk refuses: what they say, and what they leave alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import replicate
from filelock import FileLock
from own_tier import COMMANDS, NOTEBOOK, VARIANT, Command, check_whole, files, new_folder, of_tier

ROOT = Path(__file__).resolve().parents[2]
WORK, RESULTS = Path("work/own"), Path("results/own")

# What each command writes, and a size in bytes that one of its files is larger than.
TARGETS: dict[Command, tuple[Path, int]] = dict(
    zip(
        COMMANDS,
        (
            (WORK / "raw/mimic-cxr", 1000),
            (WORK / "raw/nih-cxr14", 1000),
            (WORK / "prepared/mimic-cxr", 20_000),
            (WORK / "prepared/nih-cxr14", 20_000),
            (WORK / "text/tiny-bert", 5000),
            (WORK / "runs/medslip.matched.seed0", 50_000),
            (WORK / "runs/medslip~random-grounding-query.matched.seed0", 50_000),
            (RESULTS / "predictions", 3000),
            (RESULTS / "predictions", 3000),
            (RESULTS / "rows.parquet", 3000),
            (RESULTS / "notebooks" / f"{NOTEBOOK}.ipynb", 36_000),
            (RESULTS / "site/index.html", 3000),
        ),
        strict=True,
    )
)
LOCKS = {
    ("evaluate", "medslip"): WORK / "runs/medslip.matched.seed0/evaluated",
    ("evaluate", VARIANT): WORK / "runs/medslip~random-grounding-query.matched.seed0/evaluated",
}
WITHOUT_LOCK: tuple[Command, ...] = (("rows",), ("report", "--site"))
"""Of these, each writes one file as a whole, and two of them write the same."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits of file sizes"),
]


def lock(path: Path) -> FileLock:
    """What another process would hold that writes ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Of every file under its final name."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files(folder)}


def test_every_command_says_what_keeps_it_from_writing(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "own")
    for command, (target, largest) in TARGETS.items():
        before = state(folder)
        complaints = {"disk is full": replicate(folder, *of_tier(command), largest_file=largest)}
        assert not (folder / target).is_file()
        blocked = folder / target.parent
        kept = blocked.with_name(f".{blocked.name}")
        if blocked.exists():
            blocked.rename(kept)
        blocked.parent.mkdir(parents=True, exist_ok=True)
        blocked.write_text("a file where a folder is wanted\n")
        complaints["cannot be written"] = replicate(folder, *of_tier(command))
        blocked.unlink()
        if kept.exists():
            kept.rename(blocked)
        if command not in WITHOUT_LOCK:
            with lock(folder / LOCKS.get(command, target)):
                complaints["Another process is"] = replicate(folder, *of_tier(command))
        for words, (status, said) in complaints.items():
            assert status == 2, (command, said)
            assert words in said, (command, said)
            assert "remedy" in said
            assert target.parent.name in said, (command, said)
            assert "Traceback" not in said, said
        check_whole(folder, {})
        assert before.items() <= state(folder).items()
        status, said = replicate(folder, *of_tier(command))
        assert status == 0, said


def test_a_second_run_stops_at_once(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "own")
    for taken in (WORK, RESULTS):
        with lock(folder / taken):
            done = subprocess.run(
                [sys.executable, "-m", "replication.cli", "run", "--tier", "own.yaml"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
            )
        assert done.returncode == 2, done.stderr
        assert "Another process is running this tier" in done.stderr
        assert str(taken) in done.stderr
        assert not (folder / WORK / "raw").exists()
