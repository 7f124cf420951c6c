"""From the words of an anatomy, ``lobe|left|lower``, to one of the 51 anatomies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("landmarks.yaml")

_RULES: dict[str, tuple[bool | None, bool | None]] = {
    "m0": (None, None),
    "m1+": (True, None),
    "m1-": (False, None),
    "m1+m2+": (True, True),
    "m1+m2-": (True, False),
    "m1-m2+": (False, True),
}
"""What a rule asks of the two groups of modifiers: one must be there, none may be, or either."""


@dataclass(frozen=True)
class Landmark:
    """One row of the released table; see the head of ``landmarks.yaml``."""

    name: str
    rule: str
    base: frozenset[str]
    m1: frozenset[str] = frozenset()
    m2: frozenset[str] = frozenset()
    exact: frozenset[str] = frozenset()

    def matches(self, anatomy: str, tokens: frozenset[str]) -> bool:
        """Whether this landmark holds an anatomy string, given also as its set of tokens."""
        wanted1, wanted2 = _RULES[self.rule]
        by_rule = (
            not self.base.isdisjoint(tokens)
            and (wanted1 is None or self.m1.isdisjoint(tokens) != wanted1)
            and (wanted2 is None or self.m2.isdisjoint(tokens) != wanted2)
        )
        return by_rule or anatomy in self.exact


def _read(rows: list[dict[str, Any]]) -> tuple[Landmark, ...]:
    return tuple(
        Landmark(
            row["name"], row["rule"], *(frozenset(row.get(k, ())) for k in ("base", "m1", "m2", "exact"))
        )
        for row in rows
    )


LANDMARKS: tuple[Landmark, ...] = _read(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
"""The first 49 anatomies in table order; the order decides where several match."""


@lru_cache(maxsize=65536)
def anatomy_class(anatomy: str) -> str:
    """The anatomy an anatomy string belongs to (released code, adj_matrix.py).

    Args:
        anatomy: lower-case tokens joined by ``|``, head first, as ``parse_tuples`` gives them.

    Returns:
        The first landmark that matches; ``unspecified`` for exactly that string; else ``other``.
    """
    tokens = frozenset(anatomy.split("|"))
    for landmark in LANDMARKS:
        if landmark.matches(anatomy, tokens):
            return landmark.name
    return "unspecified" if anatomy == "unspecified" else "other"
