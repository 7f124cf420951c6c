"""Decoding images in parallel processes and writing them, in order, as arrays that can be memory-mapped."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from replication.data import rle
from replication.data.boxes import FRAME
from replication.data.images import decode_image, equalize_histogram, read_bytes, resize, resize_mask
from replication.errors import DataError

if TYPE_CHECKING:
    # Left out at run time: every worker imports this module, and pandas takes most of its start.
    import pandas as pd

PARALLEL_FROM = 4.0
"""Seconds of work from which more processes are started; one takes about a second to start."""

_CHUNK = 32
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Job(NamedTuple):
    """One image to read: its path, where it is listed, its annotation of the mask (at most one of two)."""

    path: Path
    origin: str
    size: int
    equalize: bool
    mask_rle: str = ""
    mask_path: Path | None = None


class Decoded(NamedTuple):
    """``image`` [S, S] uint8, ``mask`` [S, S] of 0 and 1 or ``None``; the rest is of the stored file."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    sha256: str
    width: int
    height: int
    view: str
    note: str


def jobs_of(records: pd.DataFrame, source: Path, size: int, *, equalize: bool = False) -> list[Job]:
    """A job for every row of ``DatasetReader.records``."""
    columns = (records[name].tolist() for name in ("file", "origin", "mask_rle", "mask_file"))
    return [
        Job(source / file, origin, size, equalize, mask_rle, source / mask_file if mask_file else None)
        for file, origin, mask_rle, mask_file in zip(*columns, strict=True)
    ]


def decode(job: Job) -> Decoded:
    """Read, check and shrink one image.

    Raises:
        DataError: the image or its mask is missing or damaged.
    """
    content = read_bytes(job.path)
    image = decode_image(content, f"{job.path} (listed in {job.origin})")
    pixels = equalize_histogram(image.pixels) if job.equalize else image.pixels
    height, width = pixels.shape
    return Decoded(
        resize(pixels, job.size),
        _mask(job),
        hashlib.sha256(content).hexdigest(),
        width,
        height,
        image.view,
        image.note,
    )


def decode_all(jobs: Sequence[Job], workers: int) -> Iterator[Decoded]:
    """Decode in up to ``workers`` processes; results come in the order of the jobs.

    The first images are decoded here and timed: small ones are done sooner than a process has started.
    """
    start = time.perf_counter()
    head = [decode(job) for job in jobs[:_CHUNK]]
    seconds = (time.perf_counter() - start) / max(len(head), 1) * (len(jobs) - len(head))
    yield from head
    jobs = jobs[_CHUNK:]
    if workers <= 1 or seconds < PARALLEL_FROM:
        yield from map(decode, jobs)
        return
    # A fresh interpreter per worker: forking a process that runs torch threads may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield from pool.map(decode, jobs, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)


class ArrayWriter:
    """Appends slices to an ``.npy`` file of known shape and takes its SHA-256 on the way.

    Written through a file rather than a memory map: on a full disk the former raises, the latter kills.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, array: NDArray[np.generic]) -> None:
        """Write the next slice."""
        content = np.ascontiguousarray(array).data
        self._file.write(content)
        self._digest.update(content)

    @property
    def sha256(self) -> str:
        """Of all slices so far."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def array_digest(array: NDArray[np.generic]) -> str:
    """The SHA-256 that ``ArrayWriter`` takes of the same content."""
    digest = hashlib.sha256()
    for start in range(0, len(array), 1024):
        digest.update(np.ascontiguousarray(array[start : start + 1024]).data)
    return digest.hexdigest()


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
def full_disk_is_reported(folder: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" into a ``DataError``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DataError(
            "The disk filled up while the data set was being prepared; nothing was kept.",
            where=folder,
            found=error.strerror,
            remedy="free some space, or put the work folder on another disk, and run the same command again",
        ) from error


def _mask(job: Job) -> NDArray[np.uint8] | None:
    if job.mask_path is not None:
        pixels = decode_image(read_bytes(job.mask_path), f"{job.mask_path} (listed in {job.origin})").pixels
        full = (pixels > 0).astype(np.uint8)
    elif job.mask_rle:
        full = np.zeros((FRAME, FRAME), np.uint8)
        for text in job.mask_rle.split("|"):
            full |= rle.decode(text, job.origin)
    else:
        return None
    if not full.any():
        raise DataError(
            "A mask is empty although its image is marked positive.",
            where=job.origin,
            found=str(job.mask_path or "run-length encoding without pixels"),
            allowed="at least one pixel",
            remedy="fetch the mask again",
        )
    return resize_mask(full, job.size)
