"""Arrays on disk that can be memory-mapped, written in order, and gone on with after an interruption."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from replication.data.decoding import Decoded

JOURNAL = "decoded.jsonl"
"""Beside the arrays while they are written."""


class ArrayWriter:
    """Appends slices to an ``.npy`` file and takes the SHA-256 of its content on the way.

    Written through a file rather than a memory map: on a full disk the former raises, the latter kills.
    Slices of an existing file can be taken over; ``cut`` drops the others.

    Args:
        item: shape of one slice.
    """

    def __init__(self, path: Path, item: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._item = item
        self._dtype = np.dtype(dtype)
        self._bytes = math.prod(item) * self._dtype.itemsize
        self._digest = hashlib.sha256()
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._count = 0
        self._write_header()
        self._start = self._file.tell()

    @property
    def sha256(self) -> str:
        """Of all slices so far."""
        return self._digest.hexdigest()

    @property
    def count(self) -> int:
        """Slices so far."""
        return self._count

    def append(self, array: NDArray[np.generic]) -> None:
        """Write the next slices: one, or an array of several."""
        content = np.ascontiguousarray(array).data
        self._file.write(content)
        self._digest.update(content)
        self._count += content.nbytes // self._bytes

    def flush(self) -> None:
        """Hand all slices to the operating system: from then on they survive the end of this process."""
        self._file.flush()

    def holds(self, sha256: str) -> bool:
        """Whether the file goes on with a slice with which its content has this digest."""
        return self._with_next().hexdigest() == sha256

    def take_over(self) -> None:
        """Count the next slice of the file as written."""
        self._digest, self._count = self._with_next(), self._count + 1

    def cut(self) -> None:
        """Drop what the file holds behind the slices so far."""
        self._file.seek(self._start + self._count * self._bytes)
        self._file.truncate()

    def _with_next(self) -> hashlib._Hash:
        """The digest of all slices so far and of the one behind them."""
        self._file.seek(self._start + self._count * self._bytes)
        digest = self._digest.copy()
        digest.update(self._file.read(self._bytes))
        return digest

    def _write_header(self) -> None:
        """NumPy pads the header so that the number of slices can be filled in later."""
        self._file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._item),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self.cut()
                self._write_header()


class Entry(NamedTuple):
    """What is known of one image after decoding, without its pixels; ``damage`` is why it was left out."""

    sha256: str = ""
    width: int = 0
    height: int = 0
    view: str = ""
    note: str = ""
    mask_row: int = -1
    damage: str = ""


class ImageCache:
    """``images.npy`` and ``masks.npy`` of a folder, and a journal that lets a killed process be gone on with.

    After each image its entry is added to the journal together with the digests of both arrays up to there.
    On opening, entries are taken over as long as the arrays bear their digests out; what follows is dropped.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.entries: list[Entry] = []
        self._journal_path = folder / JOURNAL
        self._masks_path = folder / "masks.npy"
        with ExitStack() as stack:
            self._images = stack.enter_context(ArrayWriter(folder / "images.npy", (size, size), np.uint8))
            self._masks = stack.enter_context(ArrayWriter(self._masks_path, (size, size), np.uint8))
            kept = self._restore()
            self._journal = stack.enter_context(self._journal_path.open("r+b" if kept else "wb"))
            self._journal.seek(kept)
            self._journal.truncate()
            self._stack = stack.pop_all()

    def add(self, result: Decoded) -> Entry:
        """Write the next image, and its mask if it has one."""
        self._images.append(result.image)
        mask_row = -1
        if result.mask is not None:
            mask_row = self._masks.count
            self._masks.append(result.mask)
        facts = (result.sha256, result.width, result.height, result.view, result.note)
        return self._record(Entry(*facts, mask_row))

    def leave_out(self, damage: str) -> Entry:
        """Note that the next image is damaged and has no place in the arrays."""
        return self._record(Entry(damage=damage))

    def finish(self) -> dict[str, str]:
        """Complete the arrays; the digest of each. Without masks there is no ``masks.npy``."""
        self._stack.close()
        digests = {"images": self._images.sha256, "masks": self._masks.sha256}
        if self._masks.count == 0:
            self._masks_path.unlink()
            del digests["masks"]
        return digests

    def _record(self, entry: Entry) -> Entry:
        self._images.flush()
        self._masks.flush()
        line = [*entry, self._images.sha256, self._masks.sha256]
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()
        self.entries.append(entry)
        return entry

    def _restore(self) -> int:
        """Take over the entries that the arrays bear out; the length in bytes of their lines."""
        length = 0
        if self._journal_path.is_file():
            with self._journal_path.open("rb") as lines:
                for line in lines:
                    entry = self._restored(line)
                    if entry is None:
                        break
                    self.entries.append(entry)
                    length += len(line)
        self._images.cut()
        self._masks.cut()
        return length

    def _restored(self, line: bytes) -> Entry | None:
        """The entry of a line, or ``None`` if the line was cut short or the arrays do not bear it out."""
        try:
            *facts, images, masks = json.loads(line)
            entry = Entry(*facts)
        except (ValueError, TypeError):
            # The last line of a killed process.
            return None
        if entry.damage:
            return entry
        arrays = [(self._images, images)] + ([(self._masks, masks)] if entry.mask_row >= 0 else [])
        if not all(array.holds(digest) for array, digest in arrays):
            return None
        for array, _ in arrays:
            array.take_over()
        return entry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def array_digest(array: NDArray[np.generic]) -> str:
    """The SHA-256 that ``ArrayWriter`` takes of the same content."""
    digest = hashlib.sha256()
    for start in range(0, len(array), 1024):
        digest.update(np.ascontiguousarray(array[start : start + 1024]).data)
    return digest.hexdigest()
