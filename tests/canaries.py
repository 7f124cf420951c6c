"""Texts and pictures that must not get out, and a search for them in everything that was written."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

CELLS = 16
"""Cells a side of the picture: enough that chance does not look like it, few enough to survive scaling."""

_ALIKE = 0.6
_EMBEDDED = re.compile(r'"image/png": "([A-Za-z0-9+/=\\n]+)"|data:image/png;base64,([A-Za-z0-9+/=]+)')
_STREAM = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)


def picture(side: int, k: int = 0) -> NDArray[np.uint8]:
    """A chequered picture ``[side, side]`` with noise that differs from one number to the next."""
    cells = np.random.default_rng(7).integers(0, 2, (CELLS, CELLS)) * 180 + 30
    noise = np.random.default_rng([7, k]).integers(0, 20, (side, side))
    wide = cv2.resize(cells.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
    return (wide + noise).astype(np.uint8)


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Bytes of every file; of archives, tables and compressed streams what they hold."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        content = path.read_bytes()
        yield str(path), content
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield str(path), json.dumps(table.to_pydict(), default=str).encode()
            yield str(path), str(table.schema.metadata).encode()
        elif path.suffix == ".pdf":
            for stream in _STREAM.findall(content):
                yield str(path), zlib.decompressobj().decompress(stream)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path}/{name}", name.encode() + archive.read(name)


def pictures(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """All pictures, grey: image files, those inside notebooks and pages, and every plane of stored arrays."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".png":
            yield str(path), _grey(path.read_bytes())
        elif path.suffix in {".ipynb", ".html"}:
            for match in _EMBEDDED.finditer(path.read_text()):
                encoded = (match[1] or match[2]).replace("\\n", "")
                yield str(path), _grey(base64.b64decode(encoded))
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                for name in arrays.files:
                    yield from ((f"{path}/{name}", plane) for plane in _planes(arrays[name]))


def shows(image: NDArray[np.uint8]) -> bool:
    """Whether the picture is somewhere in an image, in whatever size."""
    shrunk = min(1.0, 900 / max(image.shape))
    image = cv2.resize(image, None, fx=shrunk, fy=shrunk, interpolation=cv2.INTER_AREA)
    sides = np.unique((24 * 1.06 ** np.arange(70)).astype(int))
    wanted = picture(512)
    for side in sides[sides <= min(image.shape)]:
        small = cv2.resize(wanted, (int(side), int(side)), interpolation=cv2.INTER_AREA)
        alike = cv2.matchTemplate(image, small, cv2.TM_CCOEFF_NORMED)
        if np.nanmax(np.where(np.isfinite(alike) & (alike <= 1), alike, 0)) > _ALIKE:
            return True
    return False


def _grey(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L"))


def _planes(array: NDArray[np.generic]) -> Iterator[NDArray[np.uint8]]:
    """Numbers of at least 24 x 24 as pictures that use all greys."""
    if array.ndim < 2 or min(array.shape[-2:]) < 24 or not np.issubdtype(array.dtype, np.number):
        return
    for plane in array.reshape(-1, *array.shape[-2:]).astype(np.float64):
        low, high = np.nanmin(plane), np.nanmax(plane)
        yield (255 * (plane - low) / max(high - low, 1e-12)).astype(np.uint8)
