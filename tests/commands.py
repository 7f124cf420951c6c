"""Runs commands of the suite in processes that can be killed, without paying for their imports each time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

IMPORTED = (
    *("medslip", "replication.cli", "replication.workflow.steps", "replication.training"),
    *("replication.data.prepare", "replication.phantom.writers", "replication.knowledge.tiny_bert"),
    *("replication.knowledge.text_encoder", "replication.tasks.evaluate", "replication.reporting.notebooks"),
    *("replication.reporting.site", "transformers.models.bert.modeling_bert"),
)
ROOT = Path(__file__).resolve().parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(IMPORTED))


@dataclass
class Command:
    """A command at work, in a process group of its own."""

    process: BaseProcess
    said: Connection
    began: float

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.began

    def is_killed_after(self, seconds: float) -> bool:
        """Kill the whole group some time after now; false if the command has ended before."""
        assert self.process.pid is not None
        self.process.join(seconds)
        if self.process.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def outcome(self) -> tuple[int, str]:
        """Exit status and what it printed, after it has ended."""
        self.process.join(300)
        assert self.process.exitcode is not None
        os.set_blocking(self.said.fileno(), False)
        return self.process.exitcode, os.read(self.said.fileno(), 1 << 20).decode()


def start(folder: Path, *arguments: str, largest_file: int | None = None) -> Command:
    """Start ``replicate ARGUMENTS`` in a folder; a write that makes a file larger than asked fails."""
    said, saying = CONTEXT.Pipe(duplex=False)
    began = time.monotonic()
    process = CONTEXT.Process(target=_replicate, args=(str(folder), arguments, largest_file, saying))
    process.start()
    saying.close()
    assert process.pid is not None
    while process.is_alive() and os.getpgid(process.pid) != process.pid:
        time.sleep(0.001)
    return Command(process, said, began)


def replicate(folder: Path, *arguments: str, largest_file: int | None = None) -> tuple[int, str]:
    """Run ``replicate ARGUMENTS`` in a folder; exit status and what it printed."""
    return start(folder, *arguments, largest_file=largest_file).outcome()


def _replicate(folder: str, arguments: tuple[str, ...], largest_file: int | None, saying: Connection) -> None:
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(saying.fileno(), stream)
    saying.close()
    os.chdir(folder)
    # For the kernels of notebooks, which are interpreters of their own.
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.argv = ["replicate", *arguments]
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    from replication.cli import main

    main()
