from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from replication.errors import ConfigError, DataError
from replication.knowledge.radgraph import FAITHFUL, ParsedTuple, RadGraphSettings
from replication.knowledge.radgraph_documents import Document, Entity, parse_document
from replication.knowledge.triplets import (
    anatomy_labels,
    pathology_labels,
    read_triplets,
    study_cells,
    triplet_matrix,
)
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_index, pathology_index

Matrix = NDArray[np.int8]


def cell(matrix: Matrix, anatomy: str, pathology: str) -> int:
    return int(matrix[anatomy_index(anatomy), pathology_index(pathology)])


def mention(anatomy: str, lemma: str, label: str | None) -> ParsedTuple:
    return ParsedTuple("1", 0, "", anatomy, lemma, label, "", "", lemma)


def test_every_reference_cell(reference: Path, tmp_path: Path) -> None:
    official = json.loads((reference / "radgraph.json").read_text())
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(official["graph"]))
    triplets = read_triplets(path)
    assert triplets.matrix.dtype == np.int8
    assert triplets.matrix.shape == (4, 51, 75)
    filled = [
        [triplets.study_ids[n], ANATOMIES[a], PATHOLOGIES[p], float(triplets.matrix[n, a, p])]
        for n, a, p in zip(*np.nonzero(triplets.matrix != -1), strict=True)
    ]
    assert sorted(filled) == sorted(official["cells"])


LABELS: list[str | None] = ["OBS-DP", "OBS-DA", "OBS-U", None]


@given(st.lists(st.sampled_from(LABELS)))
def test_present_wins_and_order_does_not_matter(labels: list[str | None]) -> None:
    def value(order: list[str | None], uncertain: Literal["ignore", "2"]) -> int | None:
        cells = study_cells(
            [mention("lungs", "opacity", label) for label in order], RadGraphSettings(uncertain=uncertain)
        )
        return cells.get((anatomy_index("lung_volumes"), pathology_index("opacity")))

    expected = 1 if "OBS-DP" in labels else 0 if "OBS-DA" in labels else None
    assert value(labels, "ignore") == expected == value(labels[::-1], "ignore")
    if expected != 1 and "OBS-U" in labels:
        expected = 2
    assert value(labels, "2") == expected == value(labels[::-1], "2")


def tiny(study: int, *entities: Entity) -> Document:
    return Document(f"p1/p{study}/s{study}.txt", str(study), str(study), "lungs clear .", entities)


def test_rows_follow_the_documents_and_empty_ones_have_none() -> None:
    lungs = Entity("1", "lungs", "ANAT-DP", 0, ())
    clear = Entity("2", "clear", "OBS-DP", 1, (("located_at", "1"),))
    done: list[int] = []
    stream = iter([tiny(7, lungs, clear), tiny(8), tiny(5, lungs)])
    triplets = triplet_matrix(stream, progress=done.append)
    assert triplets.study_ids == ("7", "5")
    assert cell(triplets.matrix[0], "lung_volumes", "clear") == 1
    assert (triplets.matrix == 1).sum() == 1
    assert (triplets.matrix[1] == -1).all()
    assert done == [3]


def test_no_documents_give_an_empty_matrix() -> None:
    assert triplet_matrix([]).matrix.shape == (0, 51, 75)


def test_damage_anywhere_leaves_nothing(reference: Path, tmp_path: Path) -> None:
    graph = json.loads((reference / "radgraph.json").read_text())["graph"]
    last = list(graph)[-1]
    graph[last]["entities"]["2"]["relations"] = [["modify", "99"]]
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(graph))
    with pytest.raises(DataError, match=r"s50000004.*entity 2"):
        read_triplets(path)
    assert list(tmp_path.iterdir()) == [path]


def naive_label(cells: Matrix) -> int:
    label = -1
    for value in cells.tolist():
        label = max(label, 0) if value == 0 else label
    return 1 if 1 in cells else label


matrices = arrays(np.int8, (2, 51, 75), elements=st.sampled_from([-1, -1, -1, 0, 1]), fill=st.just(-1))


@given(matrices)
def test_labels_equal_a_literal_loop(matrix: Matrix) -> None:
    pathology = [[naive_label(study[:, p]) for p in range(75)] for study in matrix]
    anatomy = [[naive_label(study[a]) for a in range(51)] for study in matrix]
    assert pathology_labels(matrix).tolist() == pathology
    assert anatomy_labels(matrix).tolist() == anatomy
    tensor = torch.from_numpy(matrix)
    for function in (pathology_labels, anatomy_labels):
        assert function(tensor).dtype == torch.int8
        assert function(matrix).dtype == np.int8
        assert function(tensor).tolist() == function(matrix).tolist()


def test_labels_rank_uncertain_between_absent_and_present() -> None:
    matrix = np.full((51, 75), -1, np.int8)
    matrix[0, :3] = [0, 2, 1]
    matrix[1, :3] = [2, 0, 2]
    assert pathology_labels(matrix)[:4].tolist() == [2, 2, 1, -1]
    assert anatomy_labels(matrix)[:3].tolist() == [1, 2, -1]


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_abnormal_only_reads_normal_as_absent(kind: str) -> None:
    matrix = np.full((51, 75), -1, np.int8)
    rows: list[dict[str, int]] = [
        {"clear": 1},
        {"clear": 1, "effusion": 1},
        {"excluded_obs": 1},
        {"effusion": 0},
        {"normal": 0},
        {"tail_abnorm_obs": 1},
        {},
    ]
    for index, row in enumerate(rows):
        for name, value in row.items():
            matrix[index, pathology_index(name)] = value
    before = matrix.copy()
    rows_in: Any = torch.from_numpy(matrix) if kind == "torch" else matrix
    labels = anatomy_labels(rows_in, "abnormal_only")
    assert labels[: len(rows)].tolist() == [0, 1, -1, 0, -1, 1, -1]
    assert anatomy_labels(matrix, "any")[: len(rows)].tolist() == [1, 1, 1, 0, 0, 1, -1]
    assert (matrix == before).all()


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="abnormal_only"):
        anatomy_labels(np.zeros((51, 75), np.int8), "all")  # type: ignore[arg-type]


def test_two_thousand_documents_take_seconds() -> None:
    """The promise is 10,000 documents of phantom size in 20 s; a fifth of both, with room to spare."""
    places = ["left", "right"]
    things = ["effusion", "opacities", "consolidation", "pneumothorax", "nodules", "thickening"]
    rng = np.random.default_rng(0)
    documents = []
    for study in range(2000):
        words: list[str] = []
        raw: dict[str, Any] = {}
        for _ in range(7):
            side, thing = rng.choice(places), rng.choice(things)
            start, first = len(words), len(raw) + 1
            words += ["there", "is", "a", side, "pleural", thing, "."]
            for offset, token, label, relations in (
                (3, side, "ANAT-DP", [["modify", str(first + 1)]]),
                (4, "pleural", "ANAT-DP", []),
                (5, thing, "OBS-DP", [["located_at", str(first + 1)]]),
            ):
                at = start + offset
                raw[str(len(raw) + 1)] = {
                    "tokens": token,
                    "label": label,
                    "start_ix": at,
                    "relations": relations,
                }
        documents.append(
            parse_document(f"p1/p{study}/s{study}.txt", {"text": " ".join(words), "entities": raw}, "t")
        )
    start_time = time.perf_counter()
    triplets = triplet_matrix(documents, FAITHFUL)
    assert time.perf_counter() - start_time < 10
    assert len(triplets.study_ids) == 2000
    assert (triplets.matrix == 1).any((1, 2)).all()
