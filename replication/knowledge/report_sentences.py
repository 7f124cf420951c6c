"""Reports cut into sentences, as alignment methods read them."""

from __future__ import annotations

import re

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|\n\s*\n")
_SHORTEST = 3


def sentences_of(report: str) -> list[str]:
    """Sentences of a report of three words or more; all of them where none is as long."""
    every = [part for part in (part.strip() for part in _SENTENCE_END.split(report)) if part]
    return [part for part in every if part.count(" ") >= _SHORTEST - 1] or every


def sample_sentence(report: str, draw: float) -> str:
    """The sentence that a draw in [0, 1) falls on, each being equally likely."""
    sentences = sentences_of(report)
    return sentences[int(draw * len(sentences))] if sentences else ""
