"""Is this machine, with its data, ready for a tier?"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from replication.config import digest
from replication.errors import UserError
from replication.workflow.plan import Workspace, datasets, run_config, runs

GIB = 2**30
CACHE_BYTES_PER_PIXEL = 3.0  # raw file, cached image and mask, generously


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: str
    fine: bool
    remedy: str = ""


def _disk(workspace: Workspace) -> Finding:
    phantom = workspace.tier.phantom
    images = 2.5 * sum(phantom.patients.values()) if phantom else 600_000
    needed = images * workspace.tier.image_size**2 * CACHE_BYTES_PER_PIXEL + GIB
    folder = next(
        parent for parent in [workspace.work, *workspace.work.absolute().parents] if parent.exists()
    )
    free = shutil.disk_usage(folder).free
    return Finding(
        "disk",
        f"{free / GIB:.1f} GiB free, about {needed / GIB:.1f} GiB needed",
        free > needed,
        "free some space, or name another folder with --work",
    )


def _writable(path: Path) -> Finding:
    folder = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    return Finding(
        f"folder {path}",
        "writable" if os.access(folder, os.W_OK) else "read-only",
        os.access(folder, os.W_OK),
        "name another folder",
    )


def _packages() -> Finding:
    import torch

    missing = []
    for name in ("transformers", "accelerate", "pydicom", "snakemake", "papermill", "cv2"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    state = f"missing: {', '.join(missing)}" if missing else f"complete; torch {torch.__version__}"
    return Finding("packages", state, not missing, "make the environment from requirements.lock")


def _data(workspace: Workspace) -> list[Finding]:
    found = []
    for dataset in datasets(workspace.tier):
        raw, prepared = workspace.raw(dataset), workspace.prepared(dataset) / "prepare.json"
        generated = workspace.tier.phantom is not None and dataset in workspace.tier.phantom.patients
        state = (
            "prepared"
            if prepared.exists()
            else "there"
            if raw.exists()
            else "generated when needed"
            if generated
            else "missing"
        )
        found.append(
            Finding(f"data {dataset}", state, state != "missing", f"link the folder of the data set to {raw}")
        )
    return found


def _configurations(workspace: Workspace) -> list[Finding]:
    found = []
    for run in runs(workspace.tier):
        try:
            state, fine = digest(run_config(workspace, run))[:12], True
        except UserError as error:
            state, fine = str(error).replace("\n", ";"), False
        found.append(Finding(f"run {run.key}", state, fine, "correct the tier or the recipe"))
    return found


def examine(workspace: Workspace) -> list[Finding]:
    """Everything a tier needs before compute is spent."""
    python = ".".join(map(str, sys.version_info[:3]))
    return [
        Finding("python", python, sys.version_info >= (3, 11), "use Python 3.11 or newer"),
        _packages(),
        Finding("cores", str(os.cpu_count()), True),
        _disk(workspace),
        _writable(workspace.work),
        _writable(workspace.results),
        *_data(workspace),
        *_configurations(workspace),
    ]
