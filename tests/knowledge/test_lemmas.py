from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from replication.errors import ConfigError
from replication.knowledge.lemmas import CORRECTIONS, lemmatiser, pathology_class
from replication.knowledge.vocabulary import EXCLUDED_LEMMAS, PATHOLOGIES


def classify(observation: str, accidents: bool = False) -> str:
    return pathology_class(lemmatiser("simplemma", accidents=accidents)(observation))


def test_corrections_can_be_looked_up_in_any_order() -> None:
    assert not set(CORRECTIONS) & set(CORRECTIONS.values())


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        ("effusions", "effusion"),
        ("effusion ;", "effusion"),
        ("opacification", "opacity"),
        ("opacities", "opacity"),
        ("enlarged", "enlarge"),
        ("increased", "enlarge"),
        ("pneumothoraces", "pneumothorax"),
        ("hydropneumothorax", "pneumothorax"),
        ("masses", "mass"),
        ("thickening", "thicken"),
        ("thickened", "thicken"),
        ("elevated", "elevation"),
        ("blunting", "blunt"),
        ("hyperinflated", "hyperinflate"),
        ("atelectases", "atelectasis"),
        ("infectious process", "pneumonia"),
        ("markings", "marking"),
        ("finding", "finding"),
        ("findings", "finding"),
        ("fibrosis", "tail_abnorm_obs"),
        ("fibrotic", "tail_abnorm_obs"),
        ("lower", "tail_abnorm_obs"),
        ("not well seen", "tail_abnorm_obs"),
        ("worse", "excluded_obs"),
        ("larger", "excluded_obs"),
        ("improvement", "excluded_obs"),
        ("unchanged", "excluded_obs"),
        ("clear", "clear"),
        ("sharply", "sharply"),
    ],
)
def test_observations_reach_their_class(observation: str, expected: str) -> None:
    assert classify(observation) == expected


@pytest.mark.parametrize("name", [*PATHOLOGIES[:73]])
def test_every_class_name_is_its_own_class(name: str) -> None:
    assert pathology_class(name) == name


@pytest.mark.parametrize("lemma", sorted(EXCLUDED_LEMMAS))
def test_excluded_lemmas(lemma: str) -> None:
    assert pathology_class(lemma) == "excluded_obs"


def test_wires_are_an_accident_of_the_released_code() -> None:
    assert classify("wires", accidents=True) == "tail_abnorm_obs"
    assert classify("wires", accidents=False) == "wire"


def test_unknown_lemmatiser() -> None:
    with pytest.raises(ConfigError, match="unknown lemmatiser"):
        lemmatiser("porter", accidents=True)


def test_spacy_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_spacy(
        name: str,
        globals_: Mapping[str, object] | None = None,
        locals_: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if name == "spacy":
            raise ImportError(name)
        return real(name, globals_, locals_, fromlist or (), level)

    monkeypatch.setattr(builtins, "__import__", without_spacy)
    with pytest.raises(ConfigError, match="spaCy, which is not installed"):
        lemmatiser("spacy:en_core_web_sm_absent", accidents=True)


def test_spacy_model_is_used_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """With spaCy its lemmas are taken unchanged; no exception list is laid over them."""
    import sys
    import types

    asked: list[tuple[str, list[str]]] = []

    class Token:
        def __init__(self, text: str) -> None:
            self.lemma_ = text.upper()

    def load(model: str, disable: list[str]) -> Any:
        asked.append((model, disable))
        return lambda text: [Token(word) for word in text.split()]

    fake = types.ModuleType("spacy")
    fake.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spacy", fake)
    assert lemmatiser("spacy:some_model", accidents=True)("lower masses") == "LOWER MASSES"
    assert asked == [("some_model", ["parser", "ner"])]
