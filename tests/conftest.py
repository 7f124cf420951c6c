"""Fixtures that find the files a test may need but the project does not contain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One torch thread: sums are the same on every machine, and parallel test workers do not compete."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with references that lies beside a developer's checkout."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the reference folder ../shared, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """Outputs of the released code on inputs that anyone can rebuild."""
    return shared / "reference"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """A few real radiographs; never copied into the repository."""
    path = Path(os.environ.get("CXR_REALDATA", ROOT.parent / "shared" / "realdata"))
    if not path.is_dir():
        pytest.skip("needs real radiographs: set CXR_REALDATA or provide ../shared/realdata")
    return path
