from __future__ import annotations

import harness_doubles as doubles
import numpy as np
import pytest
import torch

from replication.errors import ConfigError, DataError
from replication.feeding import EpochBatches, check_sizes, steps_per_epoch, validation_rows

DATA = doubles.prepared()


def test_accumulation_sees_the_same_images() -> None:
    whole, halves = (
        EpochBatches(DATA, doubles.run_config(epochs=1, accumulation=k), epoch=0) for k in (1, 2)
    )
    for step in range(3):
        assert [len(micro) for micro in whole[step]] == [4]
        assert [len(micro) for micro in halves[step]] == [2, 2]
        seen = torch.cat([micro.labels for micro in halves[step]]).sort(0).values
        assert torch.equal(seen, whole[step][0].labels.sort(0).values)
    assert sorted(whole.order) == sorted(DATA.rows("train"))


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    config = doubles.run_config()
    orders = {
        (seed, epoch): EpochBatches(DATA, config.model_copy(update={"seed": seed}), epoch).order.tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    other = doubles.run_config(dropout=0.7, epochs=9).model_copy(update={"seed": 0})
    assert EpochBatches(DATA, other, 1).order.tolist() == orders[0, 1]


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    batches = EpochBatches(DATA, doubles.run_config(), epoch=1)
    (first,), _, (again,) = batches[2], batches[0], batches[2]
    assert torch.equal(first.images, again.images)
    assert first.seed == again.seed
    (elsewhere,) = EpochBatches(DATA, doubles.run_config(), epoch=2)[2]
    assert first.seed != elsewhere.seed


def test_processes_share_a_step_without_overlap() -> None:
    config = doubles.run_config()
    one = EpochBatches(DATA, config, 0)
    two = [EpochBatches(DATA, config, 0, rank, 2) for rank in (0, 1)]
    shared = torch.cat([part[1][0].labels for part in two]).sort(0).values
    assert torch.equal(shared, one[1][0].labels.sort(0).values)


@pytest.mark.parametrize("processes", [1, 2])
def test_validation_batches_cover_the_split_evenly(processes: int) -> None:
    config = doubles.run_config(batch_size=5)
    parts = [validation_rows(DATA, config, 0, rank, processes) for rank in range(processes)]
    sizes = [[len(rows) for rows in part] for part in parts]
    assert all(size == sizes[0] for size in sizes)
    assert max(sizes[0]) - min(sizes[0]) <= 1
    seen = np.sort(np.concatenate([rows for part in parts for rows in part]))
    if processes == 1:
        assert seen.tolist() == DATA.rows("val").tolist()
    assert len(set(seen.tolist())) == len(seen)


def test_validation_as_in_training_changes_with_the_epoch_and_drops_the_rest() -> None:
    def rows(validation: str, epoch: int) -> list[list[int]]:
        config = doubles.run_config(batch_size=5)
        training = config.training.model_copy(update={"validation": validation})
        config = config.model_copy(update={"training": training})
        return [part.tolist() for part in validation_rows(DATA, config, epoch)]

    images = len(DATA.rows("val"))
    assert images % 5, "the test needs an incomplete batch"
    assert rows("fixed", 0) == rows("fixed", 1)
    assert rows("as_training", 0) != rows("as_training", 1)
    assert [len(part) for part in rows("as_training", 0)] == [5] * (images // 5)


def test_fewer_images_than_a_batch_make_one_step() -> None:
    training = doubles.run_config(batch_size=64).training
    assert steps_per_epoch(DATA, training) == 1
    ((batch,),) = [EpochBatches(DATA, doubles.run_config(batch_size=64), 0)[0]]
    assert len(batch) == len(DATA.rows("train"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5, "accumulation": 2}, "a multiple of 2"),
        ({"batch_size": 64, "accumulation": 5}, "a multiple of 5"),
        ({"epochs": 0}, "Nothing to train"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sizes(DATA, doubles.run_config(**changes).training)


def test_an_empty_training_split_is_refused() -> None:
    with pytest.raises(DataError, match="training split is empty"):
        check_sizes(doubles.prepared(splits=("val", "test")), doubles.run_config().training)
