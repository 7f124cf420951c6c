"""Errors that tell a user what to mend. The command line prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """Something the user gave us is wrong: where, what was found, what is allowed, and the remedy.

    Args:
        problem: one sentence, what is wrong.
        where: the file (with row or key, e.g. ``"labels.csv, row 12"``) or the setting.
        found: the offending value.
        allowed: what would have been right.
        remedy: what to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | Path | None = None,
        found: object = None,
        allowed: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = None if where is None else str(where)
        self.found = found
        self.allowed = allowed
        self.remedy = remedy
        lines = [problem]
        for label, value in (
            ("where", self.where),
            ("found", found),
            ("allowed", allowed),
            ("remedy", remedy),
        ):
            if value is not None:
                lines.append(f"  {label}: {value}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the message when the error crosses a process boundary."""
        return _rebuild, (type(self), self.problem, self.where, self.found, self.allowed, self.remedy)


def _rebuild(
    kind: type[UserError],
    problem: str,
    where: str | None,
    found: object,
    allowed: object,
    remedy: str | None,
) -> UserError:
    return kind(problem, where=where, found=found, allowed=allowed, remedy=remedy)


class ConfigError(UserError):
    """A configuration key or value is unknown or out of range."""


class DataError(UserError):
    """A file of a data set is missing, damaged, or contradicts another."""


class CheckpointError(UserError):
    """A checkpoint does not fit the model it is loaded into."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy naming the closest known name, e.g. ``did you mean 'medslip'?``"""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    listing = f"known: {', '.join(known)}"
    return f"did you mean {close[0]!r}? ({listing})" if close else listing
