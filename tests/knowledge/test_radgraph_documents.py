from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replication.errors import DataError
from replication.knowledge import radgraph_documents
from replication.knowledge.radgraph_documents import iter_documents

KEY = "p10/p10000001/s50000001.txt"
GOOD: dict[str, Any] = {
    KEY: {
        "text": "left pleural effusion .",
        "entities": {
            "1": {"tokens": "pleural", "label": "ANAT-DP", "start_ix": 1, "end_ix": 1, "relations": []},
            "2": {
                "tokens": "effusion",
                "label": "OBS-DP",
                "start_ix": 2,
                "end_ix": 2,
                "relations": [["located_at", "1"]],
            },
        },
        "data_split": "inference",
    },
    "p11/p11000002/s50000002.txt": {"text": 'a "quoted" } , text', "entities": {}},
}


def write(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "graphs.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def damaged(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    graph = copy.deepcopy(GOOD)
    at = graph
    for key in place[:-1]:
        at = at[key]
    if value is None:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return graph


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_streaming_gives_the_same_documents_for_any_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(radgraph_documents, "_CHUNK", chunk)
    found = list(iter_documents(write(tmp_path, json.dumps(GOOD, indent=indent))))
    assert [document.key for document in found] == list(GOOD)
    assert [document.study_id for document in found] == ["50000001", "50000002"]
    assert found[0].subject_id == "10000001"
    assert found[0].entities[1].relations == (("located_at", "1"),)
    assert found[1].text == GOOD[found[1].key]["text"]


def test_empty_object_has_no_documents(tmp_path: Path) -> None:
    assert list(iter_documents(write(tmp_path, " {} "))) == []


ENTITY = (KEY, "entities", "2")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((*ENTITY, "relations"), [["located_at", "9"]], "entity 2"),
        ((*ENTITY, "relations"), [["near", "1"]], "unknown type"),
        ((*ENTITY, "relations"), ["located_at"], "no pair"),
        ((*ENTITY, "relations"), [["located_at", 1]], "no pair"),
        ((*ENTITY, "relations"), None, "'relations' is missing"),
        ((*ENTITY, "label"), "OBS-XX", "unknown label"),
        ((*ENTITY, "label"), None, "'label' is missing"),
        ((*ENTITY, "tokens"), None, "'tokens' is missing"),
        ((*ENTITY, "start_ix"), None, "'start_ix' is missing"),
        ((*ENTITY, "start_ix"), "2", "wrong type"),
        ((*ENTITY, "start_ix"), True, "wrong type"),
        ((*ENTITY, "start_ix"), -1, "before the text"),
        (ENTITY, [], "no JSON object"),
        ((KEY, "text"), None, "'text' is missing"),
        ((KEY, "entities"), None, "'entities' is missing"),
        ((KEY, "entities"), [], "wrong type"),
        ((KEY,), "text", "no JSON object"),
        (("p1/x/y",), {"text": "", "entities": {}}, "no report path"),
        (("p10/p10000007/s50000001.txt",), {"text": "", "entities": {}}, "same study"),
    ],
)
def test_damage_is_named_with_its_document(
    tmp_path: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    path = write(tmp_path, damaged(place, value))
    with pytest.raises(DataError, match=message) as error:
        list(iter_documents(path))
    assert place[0] in str(error.value)
    assert str(path) in str(error.value)
    assert error.value.remedy


def test_dangling_relation_names_entity_and_target(tmp_path: Path) -> None:
    path = write(tmp_path, damaged((*ENTITY, "relations"), [["located_at", "77"]]))
    with pytest.raises(DataError, match=r"entity 2\n.*located_at -> 77"):
        list(iter_documents(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no complete JSON object"),
        ("", "end of file"),
        (json.dumps(GOOD)[:-5], "no complete JSON object"),
        (json.dumps(GOOD) + "{}", "something follows"),
        ('{"p1/p1/s1.txt": {"text": ""} "b": 2}', "'entities' is missing"),
        ('{"p1/p1/s1.txt": {"text": "", "text": "", "entities": {}}}', "twice"),
        (
            '{"p1/p1/s1.txt": {"text": "", "entities": {}}, "p1/p1/s1.txt": {"text": "", "entities": {}}}',
            "a document occurs twice",
        ),
        ("{1: 2}", "a key is no string"),
        ("{x: 2}", "no complete JSON object"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(iter_documents(write(tmp_path, text)))


def test_missing_file_and_binary_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        list(iter_documents(tmp_path / "absent.json"))
    path = tmp_path / "binary.json"
    path.write_bytes(b'{"\xff\xfe')
    with pytest.raises(DataError, match="no UTF-8"):
        list(iter_documents(path))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), junk=st.text(alphabet='{}[]",: a1\\', max_size=4), skip=st.integers(0, 8))
def test_any_damage_gives_documents_or_a_data_error(tmp_path: Path, cut: int, junk: str, skip: int) -> None:
    text = json.dumps(GOOD)
    path = write(tmp_path, text[:cut] + junk + text[cut + skip :])
    found = []
    with suppress(DataError):
        found = list(iter_documents(path))
    assert len(found) <= len(GOOD)


def test_documents_before_the_damage_are_streamed(tmp_path: Path) -> None:
    stream = iter_documents(write(tmp_path, json.dumps(GOOD)[:-5]))
    assert next(stream).key == KEY
