"""Radiology reports: the sections that describe the image, and what a mirrored image does to their words."""

from __future__ import annotations

import re

SECTIONS = ("FINDINGS", "IMPRESSION")
"""What pre-training reads; the rest (indication, comparison, technique) speaks of other things."""

_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /()&,'-]*[A-Z)]):", re.MULTILINE)
_SIDE = re.compile(r"\b(left|right)(?=(?:wards?|most|sided)?\b)", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left"}


def report_text(raw: str) -> str:
    """Findings and impression of a MIMIC-CXR report: white space joined, an empty line between the two.

    A report without either section gives its last paragraph, which is where such reports put the reading.
    """
    headings = list(_HEADING.finditer(raw))
    starts = [heading.start() for heading in headings]
    sections: dict[str, list[str]] = {name: [] for name in SECTIONS}
    for heading, end in zip(headings, [*starts[1:], len(raw)], strict=False):
        for name in SECTIONS:
            if name in heading.group(1):
                sections[name].append(raw[heading.end() : end])
                break
    texts = [text for name in SECTIONS if (text := " ".join(" ".join(sections[name]).split()))]
    if texts:
        return "\n\n".join(texts)
    paragraphs = [part for part in re.split(r"\n\s*\n", raw) if part.strip()]
    last = _HEADING.sub("", paragraphs[-1], count=1) if paragraphs else ""
    return " ".join(last.split())


def swap_sides(text: str) -> str:
    """Left and right exchanged, upper and lower case kept: ``"Left-sided"`` -> ``"Right-sided"``."""
    return _SIDE.sub(_swapped, text)


def _swapped(match: re.Match[str]) -> str:
    word = match.group(1)
    other = _OTHER_SIDE[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
