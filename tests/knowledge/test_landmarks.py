from __future__ import annotations

import json
from pathlib import Path

import pytest

from replication.knowledge.landmarks import LANDMARKS, anatomy_class
from replication.knowledge.vocabulary import ANATOMIES


def test_table_lists_the_first_49_anatomies_in_order() -> None:
    assert tuple(landmark.name for landmark in LANDMARKS) == ANATOMIES[:49]


def test_every_reference_string_gets_its_official_class(reference: Path) -> None:
    official = json.loads((reference / "radgraph.json").read_text())["anatomy_map"]
    assert len(official) == 2244
    assert {text: anatomy_class(text) for text in official} == official


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lobe|left|lower", "lower_left_lobe"),
        ("lobe|lower|left", "lower_left_lobe"),
        ("lingula", "upper_left_lobe"),
        ("pleural|left|right", "pleural_unspec"),
        ("pleural|right|left|apical", "other"),
        ("hilar|right|left", "other"),
        ("lung|left|bases", "left_lower_lung"),
        ("lung|bases|left", "other"),
        ("cavoatrial junction", "cavoatrial_junction"),
        ("unspecified", "unspecified"),
        ("esophagus", "other"),
        ("heart|borders", "heart_border"),
        ("lungs", "lung_volumes"),
    ],
)
def test_rules(text: str, expected: str) -> None:
    assert anatomy_class(text) == expected
