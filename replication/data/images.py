"""Radiographs of any format -> 8-bit grey arrays.

What is read is decided by the content, not by the file's name. Eight-bit pixels are kept as they are.
Deeper ones are mapped linearly from the image's smallest to its largest value onto 0..255, as the makers of
MIMIC-CXR-JPG did; a DICOM with a display window uses that window instead.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from replication.data.dicom import decode_dicom, looks_like_dicom
from replication.data.limits import check_bytes, check_pixels, too_many_pixels
from replication.errors import DataError

Grey = NDArray[np.uint8]

_FORMATS = ("PNG", "JPEG")

cv2.setNumThreads(1)


class Radiograph(NamedTuple):
    """``pixels`` [H, W] uint8, light bones; ``view`` as stated in the file or ``""``; ``note`` on repairs."""

    pixels: Grey
    view: str = ""
    note: str = ""


def decode_image(content: bytes, where: str | Path) -> Radiograph:
    """The content of a PNG, JPEG or DICOM file -> grey image.

    Raises:
        DataError: the content is no image, is cut short, claims more pixels than ``MAX_PIXELS``, or is a
            DICOM file without pixels.
    """
    if not content:
        raise DataError(
            "An image file is empty.", where=where, found="0 bytes", remedy="fetch the file again"
        )
    if looks_like_dicom(content):
        dicom = decode_dicom(content, where)
        return Radiograph(_grey(dicom.pixels), dicom.view, dicom.note)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            check_pixels(image.width * image.height, where)
            image.load()
            return Radiograph(_from_pil(image))
    except UnidentifiedImageError as error:
        raise DataError(
            "The file is no image.",
            where=where,
            found=f"content that starts with {content[:8]!r}",
            allowed="PNG, JPEG or DICOM",
            remedy="fetch the file again",
        ) from error
    except Image.DecompressionBombError as error:
        raise too_many_pixels(error, where) from error
    # Pillow reports damage in kinds of its own for every format.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(
            "An image is damaged or cut short.",
            where=where,
            found=f"{error} ({len(content)} bytes)",
            remedy="fetch the file again",
        ) from error


def read_bytes(path: Path) -> bytes:
    """The content of a file; ``DataError`` where it is missing, unreadable or larger than ``MAX_BYTES``."""
    try:
        check_bytes(path.stat().st_size, path)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            "A file is missing.", where=path, remedy="fetch it, or remove its row from the table"
        ) from error
    except OSError as error:
        raise DataError("A file cannot be read.", where=path, found=error) from error


def read_image(path: Path, *, equalize: bool = False) -> Grey:
    """A radiograph from a file: ``[H, W]`` uint8.

    Args:
        equalize: flatten the histogram, see ``equalize_histogram``.

    Raises:
        DataError: as ``decode_image``, or the file is missing.
    """
    pixels = decode_image(read_bytes(path), path).pixels
    return equalize_histogram(pixels) if equalize else pixels


def equalize_histogram(image: Grey) -> Grey:
    """Flatten the histogram, as the released code reads RSNA (RCLS): scikit-image's ``equalize_hist`` of the
    values in 0..1 with 256 bins between smallest and largest, truncated to 8 bits.

    Done on the 256 values an image can have rather than on its pixels, which is exact and ten times faster.
    """
    counts = np.bincount(image.ravel(), minlength=256)
    present = np.flatnonzero(counts)
    values = present / 255.0
    histogram, edges = np.histogram(values, bins=256, weights=counts[present])
    shares = np.cumsum(histogram) / image.size
    table = np.zeros(256, np.uint8)
    table[present] = np.interp(values, (edges[:-1] + edges[1:]) / 2, shares) * 255.0
    return table[image]


def resize(image: Grey, size: int) -> Grey:
    """To ``[size, size]``, aspect not kept, as in the released test transform; area mean when shrinking."""
    if image.shape == (size, size):
        return image
    shrinks = min(image.shape) >= size
    return np.asarray(
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR),
        np.uint8,
    )


def resize_mask(mask: Grey, size: int) -> Grey:
    """A mask of 0 and 1 to ``[size, size]`` by nearest neighbour, as in the released code."""
    return np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST), np.uint8)


def _from_pil(image: Image.Image) -> Grey:
    if image.mode.startswith(("I", "F")):
        return _grey(np.asarray(image))
    # NIH holds a few RGBA files; their alpha says nothing and is dropped.
    return np.asarray(image.convert("L"), np.uint8)


def _grey(pixels: NDArray[np.generic]) -> Grey:
    """Colour to luminance; deeper than eight bits to 0..255 by minimum and maximum."""
    if pixels.ndim == 3:
        return np.asarray(Image.fromarray(_eight_bits(pixels)).convert("L"), np.uint8)
    return _eight_bits(pixels)


def _eight_bits(pixels: NDArray[np.generic]) -> Grey:
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    values = pixels.astype(np.float64)
    low, high = values.min(), values.max()
    scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    return np.asarray(np.rint(scaled), np.uint8)
