from __future__ import annotations

import json
from pathlib import Path

import pytest

from replication.errors import DataError
from replication.knowledge.aspects import ASPECTS, ASPECTS_VERSION, load_aspects
from replication.knowledge.descriptions import EXTRA_DESCRIPTIONS
from replication.knowledge.vocabulary import PATHOLOGIES


def test_own_texts_cover_the_vocabulary_and_tell_classes_apart() -> None:
    own = load_aspects()
    assert ASPECTS_VERSION >= 1
    assert len(own.pathologies) == len(PATHOLOGIES)
    assert set(own.findings) == set(EXTRA_DESCRIPTIONS)
    everything = [*own.pathologies, *own.findings.values()]
    for position, aspect in enumerate(ASPECTS):
        texts = [entry[position] for entry in everything]
        assert len(set(texts)) == len(texts), aspect
        for text in texts:
            assert text.startswith(f"{aspect}: ")
            assert 5 < len(text) < 80
            assert not text.endswith(".")


def test_texts_of_findings_without_a_class() -> None:
    own = load_aspects()
    assert own.of("fibrosis", "fibrosis") == own.findings["fibrosis"]
    assert own.of("odd_shadow", "odd shadow")[6] == "shape: odd shadow"
    assert len(own.of("odd_shadow", "odd shadow")) == 8


@pytest.fixture
def released() -> dict[str, list[str]]:
    """A stand-in for the released file."""
    return {name: [f"{aspect}: {name} text" for aspect in ASPECTS] for name in (*PATHOLOGIES, "covid19")}


def write(tmp_path: Path, values: object) -> Path:
    path = tmp_path / "gpt4_mimic.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_released_file(tmp_path: Path, released: dict[str, list[str]]) -> None:
    released["mass"][4] = "others: something"
    read = load_aspects(write(tmp_path, released))
    assert read.pathologies[8] == tuple(released["effusion"])
    assert read.pathologies[54][4] == "others: something"
    assert read.findings["covid"] == tuple(released["covid19"])
    assert read.findings["fibrosis"] == load_aspects().findings["fibrosis"]


def test_other_files_are_refused(tmp_path: Path, released: dict[str, list[str]]) -> None:
    """V24: 608 texts are used by position, so a lost or displaced one must not pass."""
    swapped = {**released, "mass": released["mass"][::-1]}
    with pytest.raises(DataError, match=r"(?s)one text for each aspect.*key 'mass'.*texture, shape"):
        load_aspects(write(tmp_path, swapped))
    short = {**released, "mass": released["mass"][:7]}
    with pytest.raises(DataError, match="one text for each aspect"):
        load_aspects(write(tmp_path, short))
    renamed = {("oedema" if name == "edema" else name): texts for name, texts in released.items()}
    with pytest.raises(DataError, match=r"(?s)in this order.*'oedema' for 'edema'"):
        load_aspects(write(tmp_path, renamed))
    without = {name: texts for name, texts in released.items() if name != "covid19"}
    with pytest.raises(DataError, match="75 entries"):
        load_aspects(write(tmp_path, without))
    with pytest.raises(DataError, match="no list of texts"):
        load_aspects(write(tmp_path, {**released, "edema": "a text"}))
    with pytest.raises(DataError, match="cannot be read"):
        load_aspects(tmp_path / "absent.json")
