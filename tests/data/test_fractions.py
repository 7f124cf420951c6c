from __future__ import annotations

import math

import harness_doubles as doubles
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.data.batches import PreparedData
from replication.data.fractions import check_classes, label_order, labelled_rows, patients_of
from replication.errors import ConfigError, DataError

COLUMNS = doubles.LABELS


def with_shares(patients: int, shares: tuple[float, float], seed: int = 0) -> PreparedData:
    """All patients in the training split; each has a finding in both of its images or in none."""
    data = doubles.prepared(patients, splits=("train",))
    drawn = np.random.default_rng(seed).random((patients, 2)) < shares
    data.labels[:] = np.repeat(drawn, 2, axis=0)
    return data


@given(
    patients=st.integers(4, 60),
    data_seed=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
    fractions=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=4),
)
def test_fractions_are_nested_and_hold_whole_patients(
    patients: int, data_seed: int, seed: int, fractions: list[float]
) -> None:
    data = doubles.prepared(patients, data_seed)
    order = label_order(data, COLUMNS, seed)
    train = data.rows("train")
    patient = data.manifest["patient_id"].to_numpy()
    assert sorted(order) == sorted(set(patient[train]))
    smaller: set[int] = set()
    for fraction in sorted(fractions):
        rows = labelled_rows(data, order, fraction)
        chosen = set(patient[rows])
        assert len(chosen) == math.ceil(round(fraction * len(order), 6))
        assert set(rows) == {row for row in train if patient[row] in chosen}
        assert smaller <= set(rows)
        smaller = set(rows)
    assert set(labelled_rows(data, order, 1.0)) == set(train)


@pytest.mark.parametrize("seed", range(5))
def test_every_beginning_has_the_shares_of_the_whole(seed: int) -> None:
    data = with_shares(400, (0.5, 0.06), seed)
    order = label_order(data, COLUMNS, seed)
    whole = data.labels.mean(axis=0)
    for fraction in (0.05, 0.1, 0.3):
        rows = labelled_rows(data, order, fraction)
        patients = len(rows) / 2
        # Plain random draws miss by 1.5 to 5 patients here (one standard deviation).
        assert np.abs(data.labels[rows].mean(axis=0) - whole).max() * patients <= 1.5


def test_a_rare_finding_is_in_the_smallest_fraction_that_can_hold_it() -> None:
    for seed in range(20):
        data = with_shares(300, (0.4, 0.04), seed)
        rows = labelled_rows(data, label_order(data, COLUMNS, seed), 1 / data.labels[::2, 1].sum())
        assert (data.labels[rows] == 1).any(axis=0).all()


def test_the_order_follows_from_the_seed() -> None:
    data = doubles.prepared(60)
    orders = [label_order(data, COLUMNS, seed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_rounding_errors_add_no_patient() -> None:
    assert len(patients_of([str(i) for i in range(30)], 0.1)) == 3


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01])
def test_what_is_no_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="at most 1"):
        patients_of(["a"], fraction)


@pytest.mark.parametrize(("value", "state"), [(0, "present"), (1, "absent")])
def test_a_missing_class_is_named_with_its_counts(value: int, state: str) -> None:
    data = doubles.prepared(40)
    rows = labelled_rows(data, label_order(data, COLUMNS, 0), 0.2)
    data.labels[rows, 1] = value
    with pytest.raises(DataError) as error:
        check_classes(data, rows, COLUMNS, 0.2, "nih-cxr14/double/v1")
    said = str(error.value)
    assert f"no image has noise {state}" in said
    assert "0.2 of the labels" in said
    assert f"{len(rows)} images of 2 patients" in said
    assert "transfer.fractions" in said


def test_unknown_labels_are_no_class() -> None:
    data = doubles.prepared(40)
    rows = data.rows("train")
    data.labels[rows[data.labels[rows, 0] == 0], 0] = -1
    with pytest.raises(DataError, match="no image has spot absent"):
        check_classes(data, rows, COLUMNS, 1.0, "here")
