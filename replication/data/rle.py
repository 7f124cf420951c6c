"""The relative run-length encoding of SIIM-ACR masks.

A mask is a list of pairs (offset, length), the offset counted from the end of the run before it. Pixels are
numbered down the columns, so the decoded array is transposed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replication.data.boxes import FRAME
from replication.errors import DataError

EMPTY = "-1"
"""How the tables write an image without a mask (also with a space before it)."""


def decode(text: str, where: str, side: int = FRAME) -> NDArray[np.uint8]:
    """A relative run-length encoding -> mask of 0 and 1, ``[side, side]``.

    Raises:
        DataError: the text is no list of pairs of whole numbers, or a run leaves the image.
    """
    mask = np.zeros(side * side, np.uint8)
    if text.strip() == EMPTY:
        return mask.reshape(side, side)
    try:
        values = np.array([int(part) for part in text.split()], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise _malformed(text, where, "a value is no whole number") from error
    if values.size == 0 or values.size % 2:
        raise _malformed(text, where, f"{values.size} values, which is no list of pairs")
    offsets, lengths = values[0::2], values[1::2]
    if (offsets < 0).any() or (lengths < 1).any():
        raise _malformed(text, where, "a negative offset or an empty run")
    # Each value is checked on its own before the sums: what passes cannot overflow them.
    beyond = values.max() > side * side
    if not beyond:
        stops = np.cumsum(offsets + lengths)
        beyond = bool(stops[-1] > side * side)
    if beyond:
        raise DataError(
            "A run-length encoding leaves its image.",
            where=where,
            found=f"a run that ends behind pixel {side * side}",
            allowed=f"runs inside {side} x {side} = {side * side} pixels, offsets relative to the run before",
            remedy="check that the encoding is the relative one of SIIM-ACR and the row is complete",
        )
    for start, stop in zip(stops - lengths, stops, strict=True):
        mask[start:stop] = 1
    return np.ascontiguousarray(mask.reshape(side, side).T)


def encode(mask: NDArray[np.generic]) -> str:
    """The relative run-length encoding of where a square mask is not zero; ``-1`` for an empty one."""
    flat = np.concatenate([[0], (np.asarray(mask).T.ravel() != 0).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    if edges.size == 0:
        return EMPTY
    starts, stops = edges[0::2], edges[1::2]
    offsets = starts - np.concatenate([[0], stops[:-1]])
    pairs = np.stack([offsets, stops - starts], axis=1)
    return " ".join(map(str, pairs.ravel()))


def _malformed(text: str, where: str, problem: str) -> DataError:
    return DataError(
        f"A run-length encoding cannot be read: {problem}.",
        where=where,
        found=text if len(text) <= 60 else f"{text[:57]}...",
        allowed="'-1', or pairs 'offset length offset length ...'",
    )
