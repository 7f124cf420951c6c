"""Shows a running workflow: how many jobs are done, and the last progress line of each job at work."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from replication.files import atomic
from replication.workflow.plan import Workspace

STEPS = re.compile(r"(\d+) of (\d+) steps")
LOG_OF_FAILED_JOB = re.compile(r"^\s*log:\s+(\S+)")
SECONDS_WITHOUT_TERMINAL = 15.0


def last_line(log: Path) -> str:
    """The newest non-empty line or progress-bar state of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return lines[-1] if lines else ""


def active_logs(folder: Path, since: float) -> Iterator[Path]:
    """Logs that were written to in the last few seconds, oldest first."""
    now = time.time()
    fresh = [p for p in folder.glob("*.log") if p.stat().st_mtime > max(since, now - 30)]
    yield from sorted(fresh, key=lambda p: p.stat().st_ctime)


def run_with_progress(command: list[str], workspace: Workspace, environment: dict[str, str]) -> int:
    """Run Snakemake, show its progress and, if it fails, the end of each failed job's log.

    Returns:
        The exit status of Snakemake.
    """
    console = Console(stderr=True)
    logs = workspace.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    started = time.time()
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said: list[str] = []
    counts = [0, 0]

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            if match := STEPS.search(line):
                counts[:] = [int(match[1]), int(match[2])]

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        _show(process, console, logs, started, counts, workspace.tier.name)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    listener.join()
    with atomic(workspace.work / "snakemake.log") as log:
        log.write_text("\n".join(said) + "\n", encoding="utf-8")
    if process.returncode != 0:
        _explain(console, said, workspace)
    else:
        console.print(f"{counts[0]} of {counts[1]} jobs run in {time.time() - started:.0f} s")
    return process.returncode


def _show(
    process: subprocess.Popen[str],
    console: Console,
    logs: Path,
    started: float,
    counts: list[int],
    title: str,
) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[detail]}"),
    )
    shown_at = 0.0
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        overall = progress.add_task(f"tier {title}", total=None, detail="")
        jobs: dict[Path, TaskID] = {}
        while process.poll() is None:
            time.sleep(0.5)
            progress.update(overall, completed=counts[0], total=counts[1] or None)
            states = {log: last_line(log) for log in active_logs(logs, started)}
            if console.is_terminal:
                for log in set(jobs) - set(states):
                    progress.remove_task(jobs.pop(log))
                for log, state in states.items():
                    if log not in jobs:
                        jobs[log] = progress.add_task(f"  {log.stem}", total=None, detail="")
                    progress.update(jobs[log], detail=state[-100:])
            elif time.time() - shown_at > SECONDS_WITHOUT_TERMINAL:
                shown_at = time.time()
                console.print(f"{counts[0]} of {counts[1] or '?'} jobs done, {shown_at - started:.0f} s")
                for log, state in states.items():
                    console.print(f"  {log.stem}: {state[-140:]}", markup=False)


def _explain(console: Console, said: list[str], workspace: Workspace) -> None:
    failed = sorted({match[1] for line in said if (match := LOG_OF_FAILED_JOB.match(line))})
    for name in failed:
        log = Path(name)
        console.print(f"failed: {log.stem} ({log})", style="red", markup=False)
        if log.exists():
            for line in re.split(r"[\r\n]+", log.read_text(errors="replace").strip())[-12:]:
                console.print(f"  {line}", markup=False)
    if not failed:
        console.print("\n".join(said[-15:]), markup=False)
    console.print(
        f"the whole account: {workspace.work / 'snakemake.log'}; mend and run the same command again"
    )
