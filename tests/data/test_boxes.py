from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.data.boxes import (
    Box,
    box_in_frame,
    boxes_from_json,
    boxes_to_json,
    parse_box_string,
    union_mask,
)
from replication.errors import DataError

corner = st.floats(0, 900)
extent = st.floats(0.5, 120)
pixels = st.tuples(corner, corner, extent, extent)


@given(st.lists(pixels, max_size=5))
def test_a_box_string_gives_its_boxes_in_fractions(corners: list[tuple[float, ...]]) -> None:
    text = "|".join(";".join(map(repr, four)) for four in corners)
    boxes = parse_box_string(text, "pneumonia", "here")
    assert [box.finding for box in boxes] == ["pneumonia"] * len(corners)
    found = np.array([box[1:] for box in boxes]).reshape(-1, 4)
    assert np.allclose(found * 1024, np.array(corners).reshape(-1, 4), atol=1e-9)
    assert np.allclose([b[1:] for b in boxes_from_json(boxes_to_json(boxes))], [b[1:] for b in boxes])


@given(st.text(alphabet="0123456789;|.-ex ", max_size=40))
def test_any_other_text_is_read_or_refused(text: str) -> None:
    try:
        boxes = parse_box_string(text, "pneumonia", "test.csv, row 3")
    except DataError as refusal:
        boxes, where = [], refusal.where
    else:
        where = "test.csv, row 3"
    assert where == "test.csv, row 3"
    assert all(box.x >= 0 and box.x + box.w <= 1 + 1e-9 and box.w > 0 for box in boxes)


@pytest.mark.parametrize(
    "corners",
    [(900, 0, 200, 10), (0, 1000, 10, 30), (-5, 0, 10, 10), (0, 0, 0, 10), (0, 0, float("nan"), 1)],
)
def test_a_box_outside_its_image_is_refused(corners: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="outside its image") as error:
        box_in_frame("mass", corners, "BBox_List_2017.csv, row 9")
    message = str(error.value)
    assert "BBox_List_2017.csv, row 9" in message
    assert f"width={corners[2]:g}" in message


def test_rounding_beyond_the_edge_is_cut_off() -> None:
    box = box_in_frame("mass", (1000, -0.4, 24.6, 10), "here")
    assert box.x + box.w == 1
    assert box.y == 0


@pytest.mark.parametrize("text", ["{}", "[[1]]", "[]]", '[["mass", 0.5, 0.5, 0.6, 0.1]]', "nonsense"])
def test_a_manifest_with_other_boxes_is_refused(text: str) -> None:
    if text == "{}":
        assert boxes_from_json(text) == []
        return
    with pytest.raises(DataError):
        boxes_from_json(text, "manifest.parquet, row 4")


def test_the_union_counts_overlaps_once() -> None:
    mask = union_mask([Box("a", 0, 0, 0.5, 0.5), Box("a", 0.25, 0.25, 0.5, 0.5)], 8)
    assert mask.sum() == 16 + 16 - 4
    assert mask[5, 5] == 1
    assert mask[7, 7] == 0


def test_the_manifest_form_is_plain_json() -> None:
    assert json.loads(boxes_to_json([Box("mass", 0.25, 0.5, 0.125, 0.0625)])) == [
        ["mass", 0.25, 0.5, 0.125, 0.0625]
    ]
