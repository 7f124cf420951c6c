"""Findings and impression of reports: with headings, without, and with something else behind them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replication.knowledge.report_sections import sections_of
from replication.phantom.reports import write_report
from replication.phantom.scene import FindingInstance

REPORT = """ EXAMINATION: CHEST (PA AND LAT)

 FINDINGS:
 The heart is large.
  No effusion: none.

 IMPRESSION:
 Cardiomegaly.

 RECOMMENDATION(S):  Follow-up.
"""


def test_sections_by_headings() -> None:
    assert sections_of(REPORT) == ("The heart is large. No effusion: none.", "Cardiomegaly.", True)
    joined = " ".join(REPORT.split())
    assert sections_of("FINDINGS: Clear. IMPRESSION: Normal. NOTIFICATION: by phone.")[:2] == (
        "Clear.",
        "Normal.",
    )
    assert sections_of(joined).findings == "The heart is large. No effusion: none."


def test_the_last_impression_counts_and_all_findings() -> None:
    report = "FINDINGS: a.\nIMPRESSION: b.\nFINDINGS: c.\nIMPRESSION:\n d.\nNOTIFICATIONS: e."
    assert sections_of(report) == ("a. c.", "d.", True)
    assert sections_of("FINDINGS AND IMPRESSION: both.") == ("both.", "", True)
    assert sections_of("FINDINGS: a.\nCOMPARISON: none.") == ("a.", "", True)


def test_without_headings() -> None:
    assert sections_of("Heart is large.\n No effusion.\n\nCardiomegaly.") == (
        "Heart is large. No effusion.",
        "Cardiomegaly.",
        False,
    )
    assert sections_of("Lungs are clear. Normal heart.") == ("", "", False)
    assert sections_of(" \n") == ("", "", False)


def test_reports_of_the_phantom_have_both_sections() -> None:
    instance = FindingInstance("effusion", "left", "lower", 0.5, "present")
    report = write_report([instance], [], np.random.default_rng(0))
    found = sections_of(report.text)
    assert found.headed
    assert "left" in found.findings
    assert found.impression
    assert f"{found.findings} {found.impression}".count(" ") > 10


@given(st.text(alphabet="aB .:\n", max_size=60))
def test_sections_are_parts_of_the_report(report: str) -> None:
    joined = " ".join(report.split())
    found = sections_of(report)
    assert found.findings in joined
    assert found.impression in joined
