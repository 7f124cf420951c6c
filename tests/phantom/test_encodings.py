"""Run-length masks, DICOM files and the sides of a mask, each against an independent reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from replication.phantom.writers.dicom import uid, write_dicom
from replication.phantom.writers.films import split_sides
from replication.phantom.writers.rle import encode, encode_in_frame


def decode_relative(text: str, height: int, width: int) -> np.ndarray:
    """An independent reading of the published notation: walk along, skip, set."""
    columns = [[0] * height for _ in range(width)]
    numbers = [int(number) for number in text.split()]
    position = 0
    for skip, run in zip(numbers[::2], numbers[1::2], strict=True):
        position += skip
        for step in range(position, position + run):
            columns[step // height][step % height] = 1
        position += run
    return np.array(columns, bool).T


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_run_lengths_round_trip(mask: np.ndarray) -> None:
    assert np.array_equal(decode_relative(encode(mask), *mask.shape), mask)


def test_run_lengths_are_relative_and_by_column() -> None:
    mask = np.zeros((4, 3), bool)
    mask[1:3, 0] = True
    mask[3, 1] = True
    assert encode(mask) == "1 2 4 1"
    large = np.zeros((512, 512), bool)
    large[0, 1] = True
    assert encode_in_frame(large) == "2048 2 1022 2"


def test_negatives_are_displayed_alike(tmp_path: Path) -> None:
    image = np.arange(35, dtype=np.uint8).reshape(5, 7)
    ids = {f"{kind}_uid": uid(kind, 1) for kind in ("study", "series", "sop")}
    for inverted in (False, True):
        path = tmp_path / f"{inverted}.dcm"
        write_dicom(path, image, patient_id="a", view="PA", age=7, sex="F", inverted=inverted, **ids)
        data = pydicom.dcmread(path)
        assert data.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert data.SOPInstanceUID.is_valid
        assert data.PhotometricInterpretation == ("MONOCHROME1" if inverted else "MONOCHROME2")
        assert np.array_equal(data.pixel_array, 255 - image if inverted else image)


def test_sides_of_a_mask() -> None:
    mask = np.zeros((50, 50), bool)
    mask[10:20, 5:22] = mask[10:20, 30:45] = True
    right, left = split_sides(mask)
    assert right.nonzero()[1].max() == 21
    assert left.nonzero()[1].min() == 30
    mask[0:3, 3:47] = True
    right, left = split_sides(mask)
    assert right.nonzero()[1].max() == 24
    assert np.array_equal(right | left, mask)
