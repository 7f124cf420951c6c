from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replication.errors import DataError
from replication.knowledge.radgraph import CORRECTED, FAITHFUL, RadGraphSettings, itemise, parse_tuples
from replication.knowledge.radgraph_documents import Document, iter_documents, parse_document

KEY = "p10/p10000009/s50000009.txt"


def document(text: str, *entities: tuple[str, str, *tuple[str, ...]]) -> Document:
    """A document from entities such as ``("lobe", "ANAT-DP")`` or ``("left", "ANAT-DP", "modify 1")``."""
    words, at, raw = text.split(), 0, {}
    for number, (token, label, *relations) in enumerate(entities, 1):
        at = words.index(token, at) if token in words[at:] else words.index(token)
        raw[str(number)] = {
            "tokens": token,
            "label": label,
            "start_ix": at,
            "end_ix": at,
            "relations": [relation.split() for relation in relations],
        }
    return parse_document(KEY, {"text": text, "entities": raw}, "test")


def said(doc: Document, settings: RadGraphSettings = FAITHFUL) -> set[tuple[str, str | None, str | None]]:
    return {(t.anatomy, t.observation, t.label) for t in parse_tuples(itemise(doc, settings), settings)}


@pytest.fixture
def official(reference: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((reference / "radgraph.json").read_text())
    return values


@pytest.fixture
def documents(official: dict[str, Any], tmp_path: Path) -> list[Document]:
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(official["graph"]))
    return list(iter_documents(path))


def test_itemised_rows_equal_the_reference(official: dict[str, Any], documents: list[Document]) -> None:
    def expected() -> Iterator[tuple[object, ...]]:
        for row in official["itemised"]:
            target = None if row["target"] is None else str(int(row["target"]))
            yield (
                str(row["source"]),
                row["token"],
                row["token_ix"],
                row["label"],
                row["relation"],
                target,
                row["sentence_ix"],
                row["sentence"],
                str(row["subject_id"]),
                str(row["study_id"]),
            )

    assert [tuple(row) for doc in documents for row in itemise(doc)] == list(expected())


def test_parsed_tuples_equal_the_reference(official: dict[str, Any], documents: list[Document]) -> None:
    ours = [item._asdict() for doc in documents for item in parse_tuples(itemise(doc))]
    for item in ours:
        item["sen_id"] = str(item["sen_id"])

    # The released code takes each head's tuples from a set, so their order means nothing.
    def key(item: dict[str, Any]) -> str:
        return json.dumps(item, sort_keys=True)

    assert sorted(ours, key=key) == sorted(official["parsed"], key=key)


def test_one_hop_loses_what_modifies_a_modifier() -> None:
    doc = document(
        "opacity in lower left lobe .",
        ("opacity", "OBS-DP", "located_at 4"),
        ("lower", "ANAT-DP", "modify 3"),
        ("left", "ANAT-DP", "modify 4"),
        ("lobe", "ANAT-DP"),
    )
    assert said(doc) == {("lobe|left", "opacity", "OBS-DP")}
    assert said(doc, RadGraphSettings(anatomy_hops="all")) == {("lobe|left|lower", "opacity", "OBS-DP")}


def test_modifiers_that_form_a_circle_end() -> None:
    doc = document(
        "lobe left lower opacity .",
        ("lobe", "ANAT-DP"),
        ("left", "ANAT-DP", "modify 1", "modify 3"),
        ("lower", "ANAT-DP", "modify 2"),
        ("opacity", "OBS-DP", "located_at 3"),
    )
    assert said(doc, RadGraphSettings(anatomy_hops="all")) == {("lobe|left|lower", "opacity", "OBS-DP")}


def test_observation_at_a_modifier_belongs_to_the_head() -> None:
    doc = document(
        "left pleural effusion .",
        ("left", "ANAT-DP", "modify 2"),
        ("pleural", "ANAT-DP"),
        ("effusion", "OBS-DA", "located_at 1"),
    )
    assert said(doc) == {("pleural|left", "effusion", "OBS-DA")}


def test_relation_into_another_sentence_is_lost_unless_asked_for() -> None:
    doc = document(
        "opacity is seen . it is in the lobe .",
        ("opacity", "OBS-DP", "located_at 2"),
        ("lobe", "ANAT-DP"),
    )
    assert said(doc) == {("unspecified", None, None), ("lobe", None, None)}
    assert ("lobe", "opacity", "OBS-DP") in said(doc, RadGraphSettings(relation_scope="document"))


def test_observation_that_only_suggests_is_dropped_unless_asked_for() -> None:
    doc = document(
        "opacity suggesting pneumonia .",
        ("opacity", "OBS-DP", "suggestive_of 2"),
        ("pneumonia", "OBS-U"),
    )
    assert said(doc) == {("unspecified", "pneumonia", "OBS-U")}
    kept = said(doc, RadGraphSettings(suggestive="unspecified"))
    assert kept == {("unspecified", "pneumonia", "OBS-U"), ("unspecified", "opacity", "OBS-DP")}


def test_observation_that_modifies_never_speaks_for_itself() -> None:
    doc = document("small effusion .", ("small", "OBS-DP", "modify 2"), ("effusion", "OBS-DP"))
    for settings in (FAITHFUL, CORRECTED):
        assert said(doc, settings) == {("unspecified", "effusion", "OBS-DP")}
    (item,) = parse_tuples(itemise(doc))
    assert item.obs_modify == "small"


def test_free_observations_repeat_for_every_head_of_the_sentence() -> None:
    doc = document(
        "lungs heart wires .",
        ("lungs", "ANAT-DP"),
        ("heart", "ANAT-DP"),
        ("wires", "OBS-DP"),
    )
    assert [t.anatomy for t in parse_tuples(itemise(doc))] == ["lungs", "unspecified", "heart", "unspecified"]


def test_nltk_alignment_moves_an_entity_whitespace_alignment_does_not() -> None:
    text = "cannot exclude effusion . lungs clear ."
    doc = document(text, ("lungs", "ANAT-DP"), ("clear", "OBS-DP", "located_at 1"))
    assert {row.sentence for row in itemise(doc)} == {"cannot exclude effusion .", "lungs clear ."}
    assert {row.sentence for row in itemise(doc, CORRECTED)} == {"lungs clear ."}
    assert said(doc, CORRECTED) == {("lungs", "clear", "OBS-DP")}


def test_entity_behind_the_text_is_an_error_with_its_place() -> None:
    raw = {"1": {"tokens": "clear", "label": "OBS-DP", "start_ix": 9, "end_ix": 9, "relations": []}}
    doc = parse_document(KEY, {"text": "lungs clear .", "entities": raw}, "test")
    with pytest.raises(DataError, match=r"s50000009.*entity 1") as error:
        itemise(doc)
    assert error.value.remedy is not None
    assert "whitespace" in error.value.remedy


def test_document_without_entities_says_nothing() -> None:
    doc = parse_document(KEY, {"text": "lungs clear .", "entities": {}}, "test")
    assert itemise(doc) == []
    assert parse_tuples([]) == []
