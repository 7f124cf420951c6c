from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from replication.data.mimic_cxr import MimicCxr
from replication.data.released_triplets import LISTS, MATRIX, STUDIES, read_released_triplets
from replication.errors import DataError

from . import raw

SHAPE = (6, 51, 75)


def released(folder: Path, *, lists: bool) -> np.ndarray:
    """Six rows as the released code saves them; row 5 is in no list."""
    matrix = np.random.default_rng(0).integers(-1, 2, SHAPE).astype(np.float64)
    np.save(folder / MATRIX, matrix)
    if lists:
        items = {
            f"/elsewhere/small/p10/p1000000{k}/s5000000{k}/image{view}.jpg": {"labels_id": 4 - k}
            for k in range(5)
            for view in range(2)
        }
        for number, name in enumerate(LISTS):
            part = dict(list(items.items())[number * 4 : number * 4 + 4])
            (folder / name).write_text(json.dumps(part))
    else:
        np.save(folder / STUDIES, np.array([f"s5000000{k}" for k in range(6)]))
    return matrix


def test_rows_are_named_by_the_studies_beside_them(tmp_path: Path) -> None:
    matrix = released(tmp_path, lists=False)
    studies, read = read_released_triplets(tmp_path)
    assert studies == tuple(f"5000000{k}" for k in range(6))
    assert read.dtype == np.int8
    assert np.array_equal(read, matrix)


def test_rows_are_named_by_the_released_lists(tmp_path: Path) -> None:
    matrix = released(tmp_path, lists=True)
    studies, read = read_released_triplets(tmp_path)
    assert studies == tuple(f"5000000{4 - k}" for k in range(5))
    assert np.array_equal(read, matrix[:5])


def test_the_reader_takes_the_released_matrix(tmp_path: Path) -> None:
    source = raw.write_mimic(tmp_path / "mimic")
    (source / "MIMIC-CXR_graphs.json").unlink()
    with pytest.raises(DataError, match="released label tensor is missing"):
        MimicCxr.check_source(source)
    matrix = released(source, lists=False)
    assert MimicCxr.check_source(source) == "official"
    assert np.array_equal(MimicCxr.triplets(source)[1], matrix)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: np.save(folder / MATRIX, np.zeros((6, 75, 51))), "another shape"),
        (lambda folder: np.save(folder / MATRIX, np.full(SHAPE, 0.5)), "another value"),
        (lambda folder: np.save(folder / STUDIES, np.array(["1"])), "not those of"),
        (lambda folder: np.save(folder / STUDIES, np.array([object()] * 6)), "cannot be read"),
        (lambda folder: (folder / MATRIX).write_bytes((folder / MATRIX).read_bytes()[:-1]), "cannot be read"),
        (lambda folder: (folder / STUDIES).unlink(), "Nothing names the rows"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, damage: object, message: str) -> None:
    released(tmp_path, lists=False)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        read_released_triplets(tmp_path)
