"""Reports as bare lower-case words by sentence, as the released code of GLoRIA and MGCA reads them."""

from __future__ import annotations

import re
from typing import Literal

from replication.knowledge.report_sentences import sentences_of

SentenceRule = Literal["suite", "words", "released"]
"""``suite`` cuts sentences as for all methods, ``words`` as the released code without its stop, ``released``
with it."""

_NUMBERING = re.compile(r"[0-9]+\.")
_WORD = re.compile(r"\w+")
_DAMAGED = "\ufffd\ufffd"
_RELEASED_STOP = 5


def word_sentences(text: str, *, stop_at: int | None = None) -> list[str]:
    """Sentences of two words or more, in lower case and without punctuation or anything that is not ASCII.

    Args:
        text: is cut at numbering ("2.") and at full stops.
        stop_at: sentences end once exactly so many words were kept. The released code compares its running
            count of words with 5, the number of captions it wants, for equality: a report that begins with
            sentences of five words in all is cut there, any other is kept whole.
    """
    kept: list[str] = []
    count = 0
    for part in _NUMBERING.split(text.replace("\n", " ")):
        for sentence in part.split("."):
            words = _WORD.findall(sentence.replace(_DAMAGED, " ").lower())
            if len(words) <= 1:
                continue
            plain = [word for word in (word.encode("ascii", "ignore").decode() for word in words) if word]
            if plain:
                kept.append(" ".join(plain))
            count += len(plain)
            if count == stop_at:
                return kept
    return kept


def sentences_by(rule: SentenceRule, report: str) -> list[str]:
    """Sentences of a report under a rule."""
    if rule == "suite":
        return sentences_of(report)
    return word_sentences(report, stop_at=_RELEASED_STOP if rule == "released" else None)


def text_by(rule: SentenceRule, text: str) -> str:
    """A whole text under a rule: as it is, or its words."""
    return text.strip() if rule == "suite" else " ".join(sentences_by(rule, text))


def prompt_by(rule: SentenceRule, text: str) -> str:
    """A prompt under a rule; only the released one leaves nothing of a single word."""
    cleaned = text_by(rule, text)
    return cleaned if cleaned or rule == "released" else text.strip().lower()
