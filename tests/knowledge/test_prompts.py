from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import ConfigError
from replication.knowledge.prompts import _DATA, PROMPTS_VERSION, Polarity, Style, prompts
from replication.knowledge.vocabulary import ANATOMIES, anatomy_index, mirrored
from replication.method import Finding

NIH = [
    *(
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
    ),
    *("consolidation", "edema", "emphysema", "fibrosis", "pleural_thickening", "hernia"),
]


def finding(name: str, anatomy: str | None = None) -> Finding:
    return Finding(name, name.replace("_", " "), None, anatomy)


names = st.sampled_from([*NIH, "covid", "opacity", "fracture", "odd_shadow"])
polarities: st.SearchStrategy[Polarity] = st.sampled_from(["present", "absent"])


@given(names, st.none() | st.sampled_from(ANATOMIES), polarities)
def test_prompts_are_different_sentences_without_gaps(
    name: str, anatomy: str | None, polarity: Polarity
) -> None:
    found = prompts(finding(name, anatomy), polarity)
    assert len(found) == len(set(found)) >= 2
    for sentence in found:
        assert re.fullmatch(r"[A-Z][A-Za-z0-9 ,\-]*\.", sentence)
        assert "  " not in sentence
        assert " a o" not in sentence


@given(names, st.none() | st.sampled_from(ANATOMIES))
def test_presence_and_absence_share_no_prompt(name: str, anatomy: str | None) -> None:
    asked = finding(name, anatomy)
    assert not set(prompts(asked, "present")) & set(prompts(asked, "absent"))
    assert prompts(asked, "present", "short") != prompts(asked, "absent", "short")


@given(names, st.sampled_from([a for a in ANATOMIES if mirrored(a) not in (a, None)]), polarities)
def test_mirrored_anatomies_give_mirrored_prompts(name: str, anatomy: str, polarity: Polarity) -> None:
    other = mirrored(anatomy)
    swap = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    styles: tuple[Style, ...] = ("report", "short")
    for style in styles:
        ours = prompts(finding(name, anatomy), polarity, style)
        theirs = prompts(finding(name, other), polarity, style)
        assert tuple(re.sub(r"\w+", lambda m: swap.get(m[0], m[0]), text) for text in ours) == theirs
        assert all(re.search(r"\b(left|right)\b", text, re.IGNORECASE) for text in ours)


@pytest.mark.parametrize("name", [*NIH, "covid"])
def test_findings_of_the_protocols_have_wording_of_their_own(name: str) -> None:
    generic = len(prompts(finding("odd_shadow"), "present"))
    assert len(prompts(finding(name), "present")) > generic
    assert len(prompts(finding(name), "absent")) > len(prompts(finding("odd_shadow"), "absent"))


def test_wording() -> None:
    left = finding("effusion", "left_pleural")
    assert prompts(left, "present")[0] == "There is a left pleural effusion."
    assert prompts(left, "absent")[0] == "There is no left pleural effusion."
    assert "There is an opacity at the lung bases." in prompts(finding("opacity", "lung_bases"), "present")
    assert "There is no cardiomegaly." in prompts(finding("cardiomegaly", "heart_size"), "absent")
    assert prompts(finding("effusion"), "present", "short") == ("effusion",)
    assert prompts(left, "absent", "short") == ("no left effusion",)
    assert prompts(finding("odd_shadow", "svc"), "present", "short") == (
        "odd shadow in the superior vena cava",
    )


def test_every_anatomy_in_the_data_exists() -> None:
    homes = [anatomy for own in _DATA["findings"].values() for anatomy in own.get("home", ())]
    for anatomy in [*_DATA["qualifiers"], *_DATA["at"], *homes]:
        anatomy_index(anatomy)
    assert PROMPTS_VERSION >= 1


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown kind"):
        prompts(finding("mass"), "maybe")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown anatomy"):
        prompts(finding("mass", "left_foot"), "present", "short")
