from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from replication.errors import ConfigError, DataError
from replication.knowledge import descriptions as d
from replication.knowledge.vocabulary import PATHOLOGIES


def test_own_descriptions_cover_the_vocabulary_and_differ() -> None:
    texts = d.load_descriptions()
    assert tuple(d.DESCRIPTIONS) == PATHOLOGIES
    assert len(set(texts)) == 75
    for text in (*texts, *d.EXTRA_DESCRIPTIONS.values()):
        assert text[0].isupper()
        assert text.endswith(".")
        assert 30 < len(text) < 300
        assert "\n" not in text


def test_no_own_description_is_a_released_one() -> None:
    released = {digest for _, digest in d._OFFICIAL.values()}
    assert len(released) == 75
    assert not {hashlib.sha1(text.encode()).hexdigest()[:10] for text in d.load_descriptions()} & released


def test_anatomy_prompts() -> None:
    assert d.anatomy_prompt("left_pleural") == "It is located at left_pleural. "
    assert d.anatomy_prompt("left_pleural", "medklip") == "It is located at left_pleural"
    with pytest.raises(ConfigError, match="left_pleural"):
        d.anatomy_prompt("left_pleura")


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A stand-in for the released file: other texts, known by length and hash as the real ones are."""
    texts = {name: f"“text” of {name} – one" for name in PATHOLOGIES}
    known = {name: (len(text), hashlib.sha1(text.encode()).hexdigest()[:10]) for name, text in texts.items()}
    monkeypatch.setattr(d, "_OFFICIAL", known)
    return {("eumonia" if name == "pneumonia" else name): text for name, text in texts.items()}


def write(tmp_path: Path, values: object) -> Path:
    path = tmp_path / "observation explanation.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def bare(text: str) -> str:
    return "".join(mark for mark in text if mark not in "“”–")


def test_released_file_is_read_in_order_whatever_its_keys(tmp_path: Path, released: dict[str, str]) -> None:
    path = write(tmp_path, released)
    assert d.read_official_descriptions(path) == (tuple(released.values()), "pre-training")
    assert d.load_descriptions(path) == tuple(released.values())


def test_downstream_copy_is_known(tmp_path: Path, released: dict[str, str]) -> None:
    for name in d.DOWNSTREAM_VARIANTS:
        released[name] = bare(released[name])
    assert d.read_official_descriptions(write(tmp_path, released)).copy == "down-stream"
    released["chf"] += " and more"
    with pytest.raises(DataError, match="'chf'"):
        d.read_official_descriptions(write(tmp_path, released))


def test_mixed_copies_are_refused(tmp_path: Path, released: dict[str, str]) -> None:
    released["lesion"] = bare(released["lesion"])
    with pytest.raises(DataError, match="mixes"):
        d.read_official_descriptions(write(tmp_path, released))


def test_changed_text_is_named_with_key_and_hash(tmp_path: Path, released: dict[str, str]) -> None:
    expected = d._OFFICIAL["pneumonia"][1]
    released["eumonia"] += "!"
    with pytest.raises(DataError, match=rf"(?s)'pneumonia'.*key 'eumonia'.*SHA-1 {expected}"):
        d.read_official_descriptions(write(tmp_path, released))


def test_changed_order_is_recognised(tmp_path: Path, released: dict[str, str]) -> None:
    first, *rest = released.items()
    with pytest.raises(DataError, match="order was changed"):
        d.read_official_descriptions(write(tmp_path, dict([*rest, first])))


@pytest.mark.parametrize("values", [[], {"normal": "one"}, "text"])
def test_other_files_are_refused(tmp_path: Path, values: object) -> None:
    with pytest.raises(DataError, match="one text per pathology"):
        d.read_official_descriptions(write(tmp_path, values))


def test_unreadable_files_are_refused(tmp_path: Path, released: dict[str, str]) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        d.load_descriptions(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text('{"normal": ')
    with pytest.raises(DataError, match="cannot be read"):
        d.load_descriptions(str(tmp_path / "broken.json"))
    with pytest.raises(DataError, match="no text"):
        d.read_official_descriptions(write(tmp_path, {**released, "normal": 3}))
