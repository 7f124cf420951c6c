from __future__ import annotations

import dataclasses

import harness_doubles as doubles
import pytest
import torch

from replication.errors import ConfigError, DataError
from replication.feeding import EpochBatches, check_sizes, steps_per_epoch, validation_batches
from replication.training_config import AugmentationConfig

DATA = doubles.prepared()
# Every report is the name of its image.
DATA = dataclasses.replace(DATA, reports={name: name for name in DATA.manifest["study_id"]})


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


@pytest.mark.parametrize("kind", ["batched", "released"])
def test_processes_share_the_images_and_the_draws_of_a_step(kind: str) -> None:
    config = doubles.run_config(augmentation=AugmentationConfig(kind=kind, hflip="swap_labels"))
    (whole,) = EpochBatches(DATA, config, 0)[1]
    parts = [EpochBatches(DATA, config, 0, rank, 2)[1][0] for rank in (0, 1)]
    assert [report for part in parts for report in part.reports] == whole.reports
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    drawn = torch.cat([part.draws().uniform(3) for part in parts])
    assert torch.equal(drawn, whole.draws().uniform(3))
    numbers = [each.initial_seed() for part in parts for each in part.draws().generators("words")]
    assert numbers == [each.initial_seed() for each in whole.draws().generators("words")]
    assert len(set(numbers)) == len(whole)


@pytest.mark.parametrize("processes", [1, 2])
def test_validation_batches_cover_the_split_evenly(processes: int) -> None:
    config = doubles.run_config(batch_size=5)
    parts = [list(validation_batches(DATA, config, 0, rank, processes)) for rank in range(processes)]
    sizes = [[len(batch) for batch in part] for part in parts]
    assert all(size == sizes[0] for size in sizes)
    assert max(sizes[0]) - min(sizes[0]) <= 1
    seen = [name for part in parts for batch in part for name in batch.reports]
    known = DATA.manifest["study_id"].iloc[DATA.rows("val")]
    assert len(set(seen)) == len(seen) > len(known) - processes * len(sizes[0])
    assert set(seen) == set(known) if processes == 1 else set(seen) <= set(known)


def test_validation_as_in_training_changes_with_the_epoch_and_drops_the_rest() -> None:
    def names(validation: str, epoch: int) -> list[list[str]]:
        config = doubles.run_config(batch_size=5)
        training = config.training.model_copy(update={"validation": validation})
        config = config.model_copy(update={"training": training})
        return [list(batch.reports) for batch in validation_batches(DATA, config, epoch)]

    images = len(DATA.rows("val"))
    assert images % 5, "the test needs an incomplete batch"
    assert names("fixed", 0) == names("fixed", 1)
    assert names("as_training", 0) != names("as_training", 1)
    assert [len(part) for part in names("as_training", 0)] == [5] * (images // 5)


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
