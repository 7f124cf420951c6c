"""Bounding boxes: read in the 1024-pixel frame they were drawn in, kept as fractions of the image.

NIH, RSNA and SIIM drew their annotations on 1024 x 1024 copies; the stored image may have any other size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from replication.errors import DataError

FRAME = 1024
"""Side in pixels of the frame of all annotations."""

_TOLERANCE = 1.0
"""Published boxes overshoot the frame by rounding; a pixel is cut off, more is an error."""


class Box(NamedTuple):
    """A finding's box: left edge, top edge, width, height, all as fractions (0..1) of the image."""

    finding: str
    x: float
    y: float
    w: float
    h: float


def box_in_frame(finding: str, corners: Sequence[float], where: str) -> Box:
    """A box from (x, y, width, height) in pixels of the 1024 frame.

    Raises:
        DataError: the box is empty or lies outside the frame by more than a pixel.
    """
    x, y, w, h = corners
    inside = (
        all(map(math.isfinite, corners))
        and w > 0
        and h > 0
        and min(x, y) >= -_TOLERANCE
        and max(x + w, y + h) <= FRAME + _TOLERANCE
    )
    if not inside:
        raise DataError(
            "A box lies outside its image.",
            where=where,
            found=f"x={x:g}, y={y:g}, width={w:g}, height={h:g}",
            allowed=f"a box of positive size inside {FRAME} x {FRAME} pixels",
            remedy="boxes are in pixels of the 1024-pixel frame, whatever the size of the stored image",
        )
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, FRAME), min(y + h, FRAME)
    return Box(finding, left / FRAME, top / FRAME, (right - left) / FRAME, (bottom - top) / FRAME)


def parse_box_string(text: str, finding: str, where: str) -> list[Box]:
    """Boxes of the released test lists, ``x;y;w;h|x;y;w;h`` in the 1024 frame; an empty text has none.

    Raises:
        DataError: a box has not four numbers or lies outside the frame.
    """
    boxes = []
    for part in filter(None, (part.strip() for part in text.split("|"))):
        try:
            x, y, w, h = (float(value) for value in part.split(";"))
        except ValueError as error:
            raise DataError(
                "A box string cannot be read.", where=where, found=repr(part), allowed="x;y;w;h|x;y;w;h|..."
            ) from error
        boxes.append(box_in_frame(finding, (x, y, w, h), where))
    return boxes


def boxes_to_json(boxes: Iterable[Box]) -> str:
    """The manifest's form: a JSON list of ``[finding, x, y, w, h]``."""
    return json.dumps([[box.finding, *(round(value, 9) for value in box[1:])] for box in boxes])


def boxes_from_json(text: str, where: str = "boxes") -> list[Box]:
    """The boxes of a manifest row.

    Raises:
        DataError: not of the manifest's form, or outside 0..1.
    """
    try:
        boxes = [Box(str(finding), *map(float, values)) for finding, *values in json.loads(text)]
    except (TypeError, ValueError) as error:
        raise DataError(
            "Boxes cannot be read.", where=where, found=text, allowed="[[finding, x, y, w, h], ...]"
        ) from error
    for box in boxes:
        slack = 1e-6
        if min(box[1:]) < 0 or box.x + box.w > 1 + slack or box.y + box.h > 1 + slack:
            raise DataError(
                "A box lies outside its image.", where=where, found=box, allowed="fractions in 0..1"
            )
    return boxes


def union_mask(boxes: Iterable[Box], size: int) -> NDArray[np.uint8]:
    """1 where a pixel's centre lies in any of the boxes, else 0: ``[size, size]``."""
    mask = np.zeros((size, size), np.uint8)
    for box in boxes:
        left, right = round(box.x * size), round((box.x + box.w) * size)
        top, bottom = round(box.y * size), round((box.y + box.h) * size)
        mask[top:bottom, left:right] = 1
    return mask
