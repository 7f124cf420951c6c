from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.data.reports import report_text, swap_sides

from .raw import REPORT


def test_findings_and_impression_are_kept_and_nothing_else() -> None:
    assert report_text(REPORT) == (
        "There is a small left pleural effusion. No pneumothorax.\n\nSmall left effusion ."
    )


def test_a_joint_heading_and_a_missing_section() -> None:
    assert report_text("FINDINGS AND IMPRESSION: Clear lungs.\nNOTIFICATION: by phone.") == "Clear lungs."
    assert report_text("INDICATION: cough.\n IMPRESSION: Normal.") == "Normal."


def test_a_report_without_headings_gives_its_last_paragraph() -> None:
    assert report_text("PORTABLE FILM\n\nThe heart is\nlarge.\n") == "The heart is large."
    assert report_text("  \n") == ""


def test_sides_are_swapped_and_their_case_kept() -> None:
    text = "Left-sided effusion; RIGHT base clear. Leftward shift, upright, right."
    assert swap_sides(text) == "Right-sided effusion; LEFT base clear. Rightward shift, upright, left."


@given(st.lists(st.sampled_from(["left", "Right", "LEFT", "bright", "cleft", "leftmost", "lung", "."])))
def test_swapping_twice_changes_nothing(words: list[str]) -> None:
    text = " ".join(words)
    assert swap_sides(swap_sides(text)) == text
    assert swap_sides(text).count("bright") == text.count("bright")
