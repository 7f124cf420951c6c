"""A process that is stopped between two renames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def stopped_after_renames(count: int) -> Iterator[None]:
    """The block must be interrupted at the rename that follows ``count`` others."""
    rename, done = Path.rename, []

    def fails(path: Path, target: Path) -> Path:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(target)
        return rename(path, target)

    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:  # noqa: PT012
        patch.setattr(Path, "rename", fails)
        yield
