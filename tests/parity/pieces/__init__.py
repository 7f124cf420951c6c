"""Our answers to each piece of the numerical reference of the alignment methods, a file per method.

A piece is a function of one entry of the reference that yields ``Check``s: what is compared, ours, theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

TOLERANCE = 2e-5
"""Largest difference allowed, as a share of the reference's largest magnitude."""


class Check(NamedTuple):
    """One compared tensor."""

    what: str
    ours: Tensor
    theirs: Tensor
    tolerance: float = TOLERANCE


Piece = Callable[[dict[str, Any]], Iterator[Check]]
PIECES: dict[str, Piece] = {}


def piece(name: str) -> Callable[[Piece], Piece]:
    """Register the function that answers the entry ``name`` of the reference."""

    def register(function: Piece) -> Piece:
        assert name not in PIECES, name
        PIECES[name] = function
        return function

    return register
