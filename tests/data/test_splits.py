from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.data.splits import patient_fraction, seeded_splits

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def test_the_hash_is_the_same_for_ever() -> None:
    assert patient_fraction("10000032", 1) == pytest.approx(0.6796024475865201, abs=1e-12)


def test_shares_are_met() -> None:
    splits = seeded_splits(map(str, range(20_000)), SHARES)
    for name, share in SHARES.items():
        assert splits.count(name) / 20_000 == pytest.approx(share, abs=0.01)


@given(st.lists(st.text(max_size=5), min_size=1))
def test_a_patient_has_one_split_whoever_else_is_there(patients: list[str]) -> None:
    together = seeded_splits(patients, SHARES)
    assert together == [seeded_splits([patient], SHARES)[0] for patient in patients]


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        seeded_splits(["a"], {"train": 0.5})
