"""Files and folders that are written whole or not at all, by one process at a time; JSON in them."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from replication.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
}
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust tell of the operating system's errors."""


def storage_error(error: BaseException, path: Path | str | None = None) -> DataError | None:
    """The operating system's refusal to write, in words; ``None`` for any other error.

    Args:
        path: what was being written, where the error itself does not say.
    """
    match = _NUMBER_IN_TEXT.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
    named = getattr(error, "filename", None) or path
    if number in _FULL:
        return DataError(
            "The disk is full; what was being written was not kept.",
            where=path or named,
            found=error,
            remedy="free some space, or put the folder on another disk; then run the same command again",
        )
    if number in _REFUSED:
        return DataError(
            "A file or folder cannot be written.",
            where=path or named,
            found=error,
            remedy="choose a folder that can be written, or change its permissions",
        )
    return None


@contextmanager
def storage_errors_are_reported(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into a ``DataError``."""
    try:
        yield
    except Exception as error:
        reported = storage_error(error, path)
        if reported is None:
            raise
        raise reported from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes ``path`` if the block succeeds and vanishes if not.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    with storage_errors_are_reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            os.replace(temporary, path)  # noqa: PTH105  replaces on every system
        finally:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left of ``atomic`` below a folder, which nobody else may be writing."""
    for left in folder.rglob(".*.tmp"):
        left.unlink(missing_ok=True)


def replace_folder(written: Path, out: Path) -> None:
    """Put a folder that was written beside ``out`` in its place; ``out`` is never there in part."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    written.rename(out)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Keep other processes from writing ``path``; the lock ends with the process, however that ends.

    Args:
        path: a file or folder, which need not exist; the lock is a hidden file beside it.
        doing: as in "Another process is ... ."

    Raises:
        DataError: another process has it, or there is no writing beside ``path``.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    with storage_errors_are_reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise DataError(
                f"Another process is {doing}.",
                where=path,
                remedy="wait for it, or end it; the same command can then go on from there",
            ) from error
    try:
        yield
    finally:
        # Removed while it is held: a process that opened the removed file does not get its lock.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write text (UTF-8) or bytes, whole or not at all; returns the path."""
    with atomic(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_json(path: Path, values: Any) -> None:
    """Readable JSON, written whole or not at all; sorted keys, so equal values give equal files."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Values of a JSON file of ours.

    Raises:
        DataError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("The file cannot be read as JSON.", where=path, found=error) from error
