"""The folder that a preparation writes into: whether its disk has room."""

from __future__ import annotations

import shutil
from pathlib import Path

from replication.errors import DataError


def require_space(folder: Path, needed: int) -> None:
    """Raise ``DataError`` if the disk of ``folder`` has less than ``needed`` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            "The disk is too full for the image cache.",
            where=folder,
            found=f"{free / 2**20:.0f} MiB free",
            allowed=f"at least {needed / 2**20:.0f} MiB",
            remedy="free some space, choose a smaller image size, or put the work folder on another disk",
        )
