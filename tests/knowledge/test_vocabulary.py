from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import ConfigError
from replication.knowledge import vocabulary as v


def test_sizes_and_known_positions() -> None:
    assert len(v.ANATOMIES) == len(set(v.ANATOMIES)) == 51
    assert len(v.PATHOLOGIES) == len(set(v.PATHOLOGIES)) == 75
    known = {
        "effusion": 8,
        "pneumonia": 20,
        "thicken": 43,
        "hernia": 59,
        "aspiration": 72,
        "excluded_obs": 74,
    }
    assert {name: v.pathology_index(name) for name in known} == known
    known = {"trachea": 0, "right_lower_lung": 23, "lung_volumes": 48, "unspecified": 49, "other": 50}
    assert {name: v.anatomy_index(name) for name in known} == known


def test_normal_pathologies_come_first() -> None:
    assert v.PATHOLOGIES[:8] == v.NORMAL_PATHOLOGIES


def test_cxr14_classes_are_at_the_published_positions() -> None:
    names = (
        "atelectasis cardiomegaly effusion infiltrate mass nodule pneumonia pneumothorax consolidation edema "
        "emphysema tail_abnorm_obs thicken hernia"
    )
    indices = [v.pathology_index(name) for name in names.split()]
    assert indices == [12, 24, 8, 56, 54, 38, 20, 10, 14, 11, 52, 73, 43, 59]


def test_twenty_five_anatomies_are_lateral_and_three_have_no_partner() -> None:
    assert len(v.LATERAL_ANATOMIES) == 25
    alone = {name for name in v.ANATOMIES if v.mirrored(name) is None}
    assert alone == {"middle_right_lobe", "right_atrium", "right_ventricle"}
    assert v.mirrored("lower_left_lobe") == "lower_right_lobe"
    assert v.mirrored("spine") == "spine"


@given(st.sampled_from(v.ANATOMIES))
def test_mirroring_twice_gives_the_anatomy_back(name: str) -> None:
    partner = v.mirrored(name)
    if partner is not None:
        assert v.mirrored(partner) == name
        assert (partner == name) == (name not in v.LATERAL_ANATOMIES)


@given(st.sampled_from(v.LATERAL_ANATOMIES))
def test_phrase_of_a_lateral_anatomy_names_its_side_and_no_underscore(name: str) -> None:
    phrase = v.anatomy_phrase(name)
    assert ("left" in phrase.split()) == ("left" in name.split("_"))
    assert ("right" in phrase.split()) == ("right" in name.split("_"))
    assert "_" not in phrase


def test_every_anatomy_has_a_phrase() -> None:
    assert set(v.ANATOMY_PHRASES) == set(v.ANATOMIES)
    assert v.anatomy_phrase("left_pleural") == "left pleural space"


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'pneumonia'"):
        v.pathology_index("eumonia")
    with pytest.raises(ConfigError, match="did you mean 'left_pleural'"):
        v.anatomy_phrase("left_plural")
