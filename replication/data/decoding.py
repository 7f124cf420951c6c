"""Decoding images in parallel processes: results in order, a bounded number of them in memory."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replication.data import rle
from replication.data.boxes import FRAME
from replication.data.images import decode_image, equalize_histogram, read_bytes, resize, resize_mask
from replication.errors import DataError
from replication.processes import end_with_the_parent

if TYPE_CHECKING:
    # Left out at run time: every worker imports this module, and pandas takes most of its start.
    import pandas as pd

PARALLEL_FROM = 4.0
"""Seconds of work from which more processes are started; one takes about a second to start."""

CHUNK = 32
"""Images that a process is given at a time."""

_AHEAD = 3
"""Chunks per process that may be under way or waiting to be written: what bounds the memory."""


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


class WorkerLostError(DataError):
    """A process that decodes was ended from outside; the data themselves may be sound."""


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


def try_decode(job: Job) -> Decoded | DataError:
    """The image, or what is wrong with it."""
    try:
        return decode(job)
    except DataError as error:
        return error


def decode_all(jobs: Sequence[Job], workers: int) -> Iterator[Decoded | DataError]:
    """Decode in up to ``workers`` processes; results, or what is wrong, come in the order of the jobs.

    The first images are decoded here and timed: small ones are done sooner than a process has started.

    Raises:
        WorkerLostError: the system ended a process, which is what happens when memory runs out.
    """
    start = time.perf_counter()
    head = [try_decode(job) for job in jobs[:CHUNK]]
    seconds = (time.perf_counter() - start) / max(len(head), 1) * (len(jobs) - len(head))
    yield from head
    if workers <= 1 or seconds < PARALLEL_FROM:
        yield from map(try_decode, jobs[CHUNK:])
        return
    # A fresh interpreter per worker: forking a process that runs torch threads may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_the_parent)
    waiting: deque[Future[list[Decoded | DataError]]] = deque()
    try:
        for first in range(CHUNK, len(jobs), CHUNK):
            waiting.append(pool.submit(_decode_chunk, jobs[first : first + CHUNK]))
            if len(waiting) > _AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerLostError(
            "A process that decodes images was ended by the system.",
            where=jobs[0].path.parent,
            found=error,
            remedy="run the command again, it goes on where it stopped; with --workers 1 if memory ran out",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_chunk(jobs: Sequence[Job]) -> list[Decoded | DataError]:
    return [try_decode(job) for job in jobs]


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
