"""How much one file may claim, so that a damaged or hostile one cannot take the memory of the machine."""

from __future__ import annotations

from pathlib import Path

from replication.errors import DataError

MAX_PIXELS = 2**26
"""Of one image: 8192 x 8192."""

MAX_BYTES = 2**29
"""Of one image file: such an image with four samples of two bytes."""


def check_pixels(count: int, where: str | Path) -> None:
    """Raise ``DataError`` if an image claims more than ``MAX_PIXELS``; asked before they are decoded."""
    if count > MAX_PIXELS:
        raise too_many_pixels(f"{count} pixels", where)


def too_many_pixels(found: object, where: str | Path) -> DataError:
    """The error for an image of a size that no radiograph has."""
    return DataError(
        "An image claims more pixels than a radiograph has.",
        where=where,
        found=found,
        allowed=f"at most {MAX_PIXELS}",
        remedy="its header is damaged: fetch the file again",
    )


def check_bytes(count: int, where: str | Path) -> None:
    """Raise ``DataError`` if an image file is larger than ``MAX_BYTES``; asked before it is read."""
    if count > MAX_BYTES:
        raise DataError(
            "An image file is larger than a radiograph can be.",
            where=where,
            found=f"{count} bytes",
            allowed=f"at most {MAX_BYTES}",
            remedy="fetch the file again",
        )
