"""Findings and impression of a report, for methods that learn from one of the two."""

from __future__ import annotations

import re
from typing import NamedTuple

_HEADING = re.compile(
    r"^[ \t]*([A-Z][A-Z /()&,'-]*[A-Z)]):|\b(FINDINGS|IMPRESSION|RECOMMENDATIONS?|NOTIFICATIONS?):",
    re.MULTILINE,
)
_EMPTY_LINE = re.compile(r"\n\s*\n")


class Sections(NamedTuple):
    """``findings`` and ``impression``, white space joined, empty where there is none.

    ``headed`` says whether the report names its sections; if not, a missing section may only be unmarked.
    """

    findings: str
    impression: str
    headed: bool


def sections_of(report: str) -> Sections:
    """The two sections of a report.

    By upper-case headings: all findings, and the last impression (CheXzero's rule); any other heading, such
    as RECOMMENDATION, ends a section. A text without headings but with an empty line is read as findings
    followed by the impression; one without either has no sections.
    """
    headings = list(_HEADING.finditer(report))
    if not headings:
        first, *rest = (_joined(part) for part in _EMPTY_LINE.split(report.strip()))
        return Sections(" ".join([first, *rest[:-1]]), rest[-1], False) if rest else Sections("", "", False)
    ends = [heading.start() for heading in headings[1:]] + [len(report)]
    texts = [
        (heading.group(1) or heading.group(2), _joined(report[heading.end() : end]))
        for heading, end in zip(headings, ends, strict=True)
    ]
    findings = [text for name, text in texts if "FINDINGS" in name]
    impressions = [text for name, text in texts if "IMPRESSION" in name and "FINDINGS" not in name]
    return Sections(_joined(" ".join(findings)), impressions[-1] if impressions else "", True)


def _joined(text: str) -> str:
    return " ".join(text.split())
