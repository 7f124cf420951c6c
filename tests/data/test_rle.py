from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from replication.data.rle import decode, encode
from replication.errors import DataError


def literal(text: str, side: int) -> np.ndarray:
    """The decoding as the challenge's own description has it, pixel by pixel."""
    mask, position = np.zeros(side * side, np.uint8), 0
    values = [int(value) for value in text.split()]
    for offset, length in zip(values[::2], values[1::2], strict=True):
        position += offset
        for _ in range(length):
            mask[position] = 1
            position += 1
    return mask.reshape(side, side).T


@given(arrays(np.uint8, (9, 9), elements=st.integers(0, 1)))
def test_a_mask_survives_encoding(mask: np.ndarray) -> None:
    text = encode(mask)
    assert np.array_equal(decode(text, "here", side=9), mask)
    assert text == "-1" or np.array_equal(literal(text, 9), mask)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=8))
def test_decoding_is_the_literal_one(pairs: list[tuple[int, int]]) -> None:
    text = " ".join(f"{offset} {length}" for offset, length in pairs)
    if sum(map(sum, pairs)) > 144:
        with pytest.raises(DataError, match="leaves its image"):
            decode(text, "here", side=12)
    else:
        assert np.array_equal(decode(text, "here", side=12), literal(text, 12))


def test_offsets_are_relative_and_columns_come_first() -> None:
    mask = decode("2 3 1 1", "here", side=4)
    assert np.argwhere(mask).tolist() == [[0, 1], [2, 0], [2, 1], [3, 0]]


@pytest.mark.parametrize("text", ["-1", " -1", "-1 "])
def test_minus_one_is_an_empty_mask(text: str) -> None:
    assert not decode(text, "here").any()


@pytest.mark.parametrize("text", ["", "5", "1 2 3", "a b", "1 -2", "-3 4", "1 0", "1.5 2"])
def test_what_is_no_list_of_pairs_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="cannot be read") as error:
        decode(text, "train-rle.csv, row 7")
    assert "train-rle.csv, row 7" in str(error.value)


@pytest.mark.parametrize("text", ["0 1048577", "1048570 7", "9999999999999999999 1", f"{2**62} {2**62}"])
def test_a_run_beyond_the_image_names_the_row(text: str) -> None:
    with pytest.raises(DataError) as error:
        decode(text, "train-rle.csv, row 7")
    assert "train-rle.csv, row 7" in str(error.value)
