from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from replication.errors import UserError
from replication.tasks.adaptation import fine_tune, step_rows
from replication.transfer_config import FineTuneConfig

ROWS = np.arange(8)
SETTINGS = FineTuneConfig(
    epochs=0, min_steps=12, checks=4, batch_size=4, trunk_lr=0.1, head_lr=0.1, weight_decay=0.0
)


class Model(nn.Module):
    """Two numbers, one of them new."""

    def __init__(self) -> None:
        super().__init__()
        self.old, self.new = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.old.weight)
        nn.init.zeros_(self.new.weight)

    def loss(self, rows: np.ndarray, seed: int) -> torch.Tensor:
        return (self.old.weight - 1).square().sum() + (self.new.weight - 1).square().sum()


def train(model: Model, judgements: list[float], **changes: object) -> tuple[float, list[float]]:
    seen: list[float] = []

    def judge() -> float:
        assert not model.training and not torch.is_grad_enabled()
        seen.append(model.new.weight.item())
        return judgements[len(seen) - 1]

    settings = SETTINGS.model_copy(update=changes)
    return fine_tune(model, model.new, model.loss, judge, ROWS, settings, 0, title="test"), seen


@given(
    count=st.integers(1, 20), batch_size=st.integers(1, 25), epochs=st.integers(1, 4), seed=st.integers(0, 99)
)
def test_every_image_comes_once_before_any_comes_again(
    count: int, batch_size: int, epochs: int, seed: int
) -> None:
    rows = np.arange(100, 100 + count)
    size = min(batch_size, count)
    batches = list(step_rows(rows, batch_size, epochs * count, seed))
    assert {len(batch) for batch in batches} == {size}
    seen = np.bincount(np.concatenate(batches) - 100, minlength=count)
    assert seen.min() == seen.max() == epochs * size


def test_the_weights_of_the_best_check_are_kept_and_the_first_of_equals() -> None:
    model = Model()
    best, seen = train(model, [0.1, 0.7, 0.7, 0.3])
    assert best == 0.7
    assert len(seen) == 4
    assert model.new.weight.item() == seen[1] != seen[2]


def test_the_rates_of_trunk_and_head_are_their_own() -> None:
    model = Model()
    train(model, [1, 2, 3, 4], trunk_lr=1e-6)
    assert model.new.weight.item() > 0.3
    assert abs(model.old.weight.item()) < 1e-4


def test_what_is_frozen_stays() -> None:
    model = Model()
    model.old.requires_grad_(False)
    train(model, [1, 2, 3, 4])
    assert model.old.weight.item() == 0


def test_the_generator_of_torch_is_left_alone() -> None:
    model = Model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(model, [1, 2, 3, 4])
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    model = Model()
    nn.init.constant_(model.old.weight, float("nan"))
    with pytest.raises(UserError, match=r"no longer finite[^!]*head_lr"):
        train(model, [1, 2, 3, 4])


def test_small_fractions_get_the_least_number_of_steps() -> None:
    settings = FineTuneConfig(epochs=2, min_steps=50, batch_size=32)
    assert [settings.steps(images) for images in (20, 800, 801)] == [50, 50, 51]
