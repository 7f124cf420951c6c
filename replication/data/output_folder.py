"""The folder that a preparation writes into: its space, its permissions, and one process at a time."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from replication.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}


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


@contextmanager
def disk_errors_are_reported(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a ``DataError``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DataError(
                "The disk filled up while the data set was being prepared; nothing was kept.",
                where=folder,
                found=error.strerror,
                remedy="free some space, or put the work folder on another disk; then run the command again",
            ) from error
        if error.errno not in _REFUSED:
            raise
        raise DataError(
            "The output folder cannot be written.",
            where=folder,
            found=error,
            remedy="choose a folder that can be written, or change its permissions",
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing ``folder``; the lock ends with the process, however that ends.

    Raises:
        DataError: another process has it.
    """
    path = folder.with_name(f".{folder.name}.lock")
    try:
        with FileLock(path, timeout=0):
            try:
                yield
            finally:
                # Removed while it is held: a process that opened the removed file does not get its lock.
                path.unlink(missing_ok=True)
    except Timeout as error:
        raise DataError(
            "Another process is preparing this folder.",
            where=folder,
            remedy="wait for it, or end it; the preparation can then be gone on with",
        ) from error
