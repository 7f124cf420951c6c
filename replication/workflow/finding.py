"""What ``replicate doctor`` says of one thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing: ``missing`` has to be brought, ``wrong`` to be changed, and ``remedy`` says how."""

    what: str
    state: str
    status: Status
    remedy: str = ""


def judged(what: str, state: str, fine: bool, remedy: str, otherwise: Status = "wrong") -> Finding:
    """A finding that is ``ok``, or else has a remedy."""
    return Finding(what, state, "ok") if fine else Finding(what, state, otherwise, remedy)
