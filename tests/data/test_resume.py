"""Preparation that was killed, interrupted, or started twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from interruptions import stopped_after_renames

from replication.data import decoding
from replication.data.cache import JOURNAL, ImageCache
from replication.data.decoding import Job
from replication.data.images import resize
from replication.data.prepare import prepare
from replication.errors import DataError

from . import raw


def run(
    source: Path, out: Path, dataset: str = "siim-acr", workers: int = 1, quarantine: float = 0.0
) -> Path:
    return prepare(dataset, source, out, size=24, workers=workers, progress=False, quarantine=quarantine)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded in this process."""
    names: list[str] = []
    decode = decoding.decode

    def counted(job: Job) -> decoding.Decoded:
        names.append(job.path.name)
        return decode(job)

    monkeypatch.setattr(decoding, "decode", counted)
    return names


def interrupted(source: Path, out: Path, images: int) -> None:
    """Run until some images are written."""
    add = ImageCache.add

    def add_until(cache: ImageCache, result: decoding.Decoded) -> object:
        if len(cache.entries) == images:
            raise KeyboardInterrupt
        return add(cache, result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageCache, "add", add_until)
        with pytest.raises(KeyboardInterrupt):
            run(source, out)


@pytest.mark.parametrize("images", [0, 1, 9, 15])
def test_an_interrupted_run_goes_on_and_decodes_nothing_twice(
    images: int, tmp_path: Path, decoded: list[str]
) -> None:
    source = raw.write_siim_png(tmp_path / "raw")
    whole = run(source, tmp_path / "whole")
    interrupted(source, tmp_path / "out", images)
    assert not (tmp_path / "out").exists()
    decoded.clear()
    assert content(run(source, tmp_path / "out")) == content(whole)
    assert len(decoded) == 16 - images
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw", "whole"]


def test_whatever_of_the_files_was_lost_the_outcome_is_the_same(tmp_path: Path) -> None:
    """A machine that stops may lose the end of each file, whichever was written first."""
    source = raw.write_siim_png(tmp_path / "raw")
    whole = content(run(source, tmp_path / "whole"))
    draw = random.Random(7)
    for case in range(30):
        out = tmp_path / str(case)
        interrupted(source, out, draw.randrange(16))
        for name in draw.sample(["images.npy", "masks.npy", JOURNAL], draw.randrange(4)):
            path = out.with_name(f"{case}.partial") / name
            kept = path.read_bytes()[: draw.randrange(path.stat().st_size + 1)]
            path.write_bytes(kept + bytes(draw.randrange(2) * 100))
        assert content(run(source, out)) == whole


KILLED = """
import multiprocessing, os, signal, sys

if __name__ == "__main__":
    from replication.data import cache, decoding
    from replication.data.prepare import prepare

    add = cache.ImageCache.add

    def add_until(self, result):
        if len(self.entries) == 100:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return add(self, result)

    cache.ImageCache.add = add_until
    decoding.PARALLEL_FROM = 0.0
    prepare("nih-cxr14", sys.argv[1], sys.argv[2], size=24, workers=2, progress=False)
"""


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")
def test_a_killed_run_goes_on_and_leaves_no_process_behind(tmp_path: Path, decoded: list[str]) -> None:
    source = raw.write_nih(tmp_path / "raw", patients=80)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.run(
        [sys.executable, str(script), str(source), str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    workers = [int(text) for text in process.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while not all(map(ended, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run(source, tmp_path / "out", "nih-cxr14")
    assert len(decoded) == 60
    assert content(tmp_path / "out") == content(run(source, tmp_path / "whole", "nih-cxr14"))


@pytest.mark.parametrize("renames", [0, 1])
def test_an_interruption_at_the_very_end_costs_nothing(
    renames: int, tmp_path: Path, decoded: list[str]
) -> None:
    source, out = raw.write_siim_png(tmp_path / "raw"), tmp_path / "out"
    run(source, out)
    raw.write_picture(source / "png_images/1_train_0_.png", raw.picture(99))
    with stopped_after_renames(renames):
        run(source, out)
    decoded.clear()
    run(source, out)
    assert not decoded
    assert content(out) == content(run(source, tmp_path / "whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw", "whole"]


def test_other_inputs_start_afresh(tmp_path: Path, decoded: list[str]) -> None:
    source, out = raw.write_siim_png(tmp_path / "raw"), tmp_path / "out"
    interrupted(source, out, 9)
    raw.write_picture(source / "png_images/1_train_0_.png", raw.picture(99))
    decoded.clear()
    run(source, out)
    assert len(decoded) == 16


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    source, out = raw.write_siim_png(tmp_path / "raw"), tmp_path / "out"
    with FileLock(tmp_path / ".out.lock"), pytest.raises(DataError, match="Another process") as error:
        run(source, out)
    assert str(out) in str(error.value)
    run(source, out)
    # What is complete can be used while somebody holds the lock.
    with FileLock(tmp_path / ".out.lock"):
        run(source, out)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = raw.write_siim_png(tmp_path / "raw")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="cannot be written") as error:
        run(source, tmp_path / "file" / "out")
    assert "remedy" in str(error.value)


class HerePool:
    """Does the work of a pool of processes at once, in this process."""

    submitted = 0

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, work: Callable[[Any], Any], jobs: list[Job]) -> Future[Any]:
        type(self).submitted += 1
        future: Future[Any] = Future()
        future.set_result(work(jobs))
        return future

    def shutdown(self, **_: object) -> None:
        pass


class DyingPool(HerePool):
    """Loses a process at the second piece of work."""

    def submit(self, work: Callable[[Any], Any], jobs: list[Job]) -> Future[Any]:
        future = super().submit(work, jobs)
        if self.submitted > 1:
            future = Future()
            future.set_exception(BrokenProcessPool("ended abruptly"))
        return future


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """An NIH folder of 400 images."""
    return raw.write_nih(tmp_path / "raw", patients=200)


def test_decoding_does_not_run_ahead_of_writing(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PARALLEL_FROM", 0.0)
    monkeypatch.setattr(decoding, "ProcessPoolExecutor", HerePool)
    monkeypatch.setattr(HerePool, "submitted", 0)
    jobs = [Job(path, "here", 24, False) for path in sorted(many.rglob("*.png"))]
    assert len(jobs) == 400
    for number, result in enumerate(decoding.decode_all(jobs, 2)):
        assert isinstance(result, decoding.Decoded)
        assert (resize(raw.picture(number), 24) == result.image).all()
        assert HerePool.submitted <= number // decoding.CHUNK + 3 * 2
    assert number == 399


def test_a_lost_process_is_an_error_that_keeps_what_was_done(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "PARALLEL_FROM", 0.0)
        patch.setattr(decoding, "ProcessPoolExecutor", DyingPool)
        patch.setattr(DyingPool, "submitted", 0)
        with pytest.raises(DataError, match="ended by the system") as error:
            run(many, out, "nih-cxr14", workers=2)
    assert "goes on where it stopped" in str(error.value)
    decoded.clear()
    run(many, out, "nih-cxr14")
    assert len(decoded) == 400 - 2 * decoding.CHUNK
