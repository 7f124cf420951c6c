"""Is this machine, with its data, ready for a tier?"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from replication.errors import UserError
from replication.workflow.doctor_inputs import data, image_weights, text_encoders, tokenizers
from replication.workflow.estimate import disk
from replication.workflow.finding import Finding, judged
from replication.workflow.needs import needs
from replication.workflow.plan import Workspace, run_config, runs

GIB = 2**30
MIB = 2**20
LOCK = Path(__file__).parents[2] / "requirements.lock"
"""Beside the packages in a checkout; an installed wheel has none."""


def examine(workspace: Workspace) -> list[Finding]:
    """Everything a tier needs before compute is spent."""
    python = ".".join(map(str, sys.version_info[:3]))
    return [
        judged("python", python, sys.version_info >= (3, 11), "use Python 3.11 or newer"),
        packages(LOCK),
        *_machine(workspace),
        _disk(workspace),
        _writable(workspace.work),
        _writable(workspace.results),
        *data(workspace),
        *text_encoders(workspace),
        *tokenizers(workspace),
        *image_weights(workspace),
        *_configurations(workspace),
    ]


def packages(lock: Path) -> Finding:
    """Whether the installed versions are those of the lock file; local parts (``+cu130``) may differ."""
    if not lock.is_file():
        return Finding("packages", "there is no lock file here to compare with", "ok")
    missing, other = [], []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            missing.append(wanted.name)
            continue
        if found.partition("+")[0] not in wanted.specifier:
            other.append(f"{wanted.name} {found} instead of {str(wanted.specifier).lstrip('=')}")
    remedy = f"pip install --requirement {lock}"
    if missing:
        return Finding("packages", _some("not installed", missing), "missing", remedy)
    return judged("packages", _some("not as locked", other) if other else "as locked", not other, remedy)


def _some(what: str, names: list[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{rest}"


def _machine(workspace: Workspace) -> Iterable[Finding]:
    """Cores, memory and accelerator against the most that one job asks for."""
    wanted = needs(workspace.tier)
    threads = max(need.threads for need in wanted.values())
    memory = max(need.mem_mb for need in wanted.values()) * MIB
    elsewhere = "use a larger machine, or run the jobs on a cluster (--profile slurm)"
    cores = os.cpu_count() or 1
    yield judged("cores", f"{cores}, {threads} for one job", cores >= threads, elsewhere)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    state = f"{total / GIB:.0f} GiB, {memory / GIB:.0f} GiB for one job"
    yield judged("memory", state, total >= memory, elsewhere)
    if any(need.gpu for need in wanted.values()):
        import torch

        there = torch.cuda.is_available()
        state = torch.cuda.get_device_name(0) if there else "none that torch can use"
        yield judged("accelerator", state, there, elsewhere, "missing")


def _disk(workspace: Workspace) -> Finding:
    needed = (
        disk(workspace, runs(workspace.tier)).total - _occupied(workspace.work) - _occupied(workspace.results)
    )
    free = shutil.disk_usage(_existing(workspace.work)).free
    state = f"{free / GIB:.1f} GiB free, at most {max(needed, 0) / GIB:.1f} GiB still needed"
    return judged("disk", state, free > needed, "free some space, or name another folder with --work")


def _occupied(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _existing(path: Path) -> Path:
    return next(parent for parent in [path, *path.absolute().parents] if parent.exists())


def _writable(path: Path) -> Finding:
    fine = os.access(_existing(path), os.W_OK)
    return judged(f"folder {path}", "writable" if fine else "read-only", fine, "name another folder")


def _configurations(workspace: Workspace) -> Iterable[Finding]:
    """That every run can be configured."""
    wrong = []
    for run in runs(workspace.tier):
        try:
            run_config(workspace, run)
        except UserError as error:
            state = str(error).replace("\n", ";")
            wrong.append(Finding(f"run {run.key}", state, "wrong", "correct the tier or the recipe"))
    return wrong or [Finding("runs", f"{len(runs(workspace.tier))} configured", "ok")]
