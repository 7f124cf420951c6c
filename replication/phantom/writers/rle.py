"""The run-length notation of the SIIM-ACR masks."""

from __future__ import annotations

import cv2
import numpy as np

from replication.phantom.writers.films import FRAME, Mask

EMPTY = " -1"
"""What the table says of an image without a mask."""


def encode(mask: Mask) -> str:
    """Relative run lengths of a mask [H, W].

    Pixels are counted down the columns, column by column. Each pair is the gap since the end of the last run
    (from pixel 0 for the first) and the length of the run: ``"4 2 3 1"`` sets pixels 4, 5 and 9.
    """
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    return " ".join(map(str, np.diff(edges, prepend=0)))


def encode_in_frame(mask: Mask) -> str:
    """Run lengths of a mask [size, size] enlarged to the 1024-pixel frame of the published annotation."""
    large = cv2.resize(mask.astype(np.uint8), (FRAME, FRAME), interpolation=cv2.INTER_NEAREST)
    return encode(large.astype(bool))
