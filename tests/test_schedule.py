from __future__ import annotations

import numpy as np
import pytest
import torch

from replication.schedule import learning_rate, plateau_reductions
from replication.training_config import OptimiserConfig

RELEASED = OptimiserConfig(
    lr=1e-4, min_lr=1e-5, warmup_lr=1e-5, warmup="iters_in_epoch0", warmup_epochs=5, schedule="cosine"
)


@pytest.mark.parametrize(
    ("epoch", "step", "expected"),
    [
        (0, 0, 1e-5),
        (0, 100, 1e-5),
        (0, 101, 2.8e-5),
        (0, 200, 2.8e-5),
        (0, 201, 4.6e-5),
        (0, 301, 6.4e-5),
        (0, 401, 8.2e-5),
        (0, 500, 8.2e-5),
        (0, 501, 1e-4),
        (0, 3000, 1e-4),
        (1, 0, 9.998e-5),
        (1, 3000, 9.998e-5),
        (2, 0, 9.991e-5),
        (50, 0, 5.5e-5),
        (99, 0, 1.0022e-5),
    ],
)
def test_released_schedule(epoch: int, step: int, expected: float) -> None:
    rate = learning_rate(RELEASED, epochs=100, steps_per_epoch=4000, epoch=epoch, step=step)
    assert rate == pytest.approx(expected, rel=1e-4)


def test_warm_up_by_epochs_rises_to_the_rate_and_falls_to_the_minimum() -> None:
    optimiser = OptimiserConfig(lr=1e-3, min_lr=1e-5, warmup_lr=1e-4, warmup_epochs=2)
    rates = [
        learning_rate(optimiser, epochs=10, steps_per_epoch=4, epoch=e, step=s)
        for e in range(10)
        for s in range(4)
    ]
    assert rates[0] == pytest.approx(1e-4)
    assert np.diff(rates[:9]) == pytest.approx((1e-3 - 1e-4) / 8)
    assert rates[8] == pytest.approx(1e-3)
    assert rates[24] == pytest.approx((1e-3 + 1e-5) / 2)
    assert all(np.diff(rates[8:]) < 0)
    assert rates[-1] == pytest.approx(1e-5, rel=0.5)


def test_plateau_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    history = (np.cumsum(rng.normal(-0.02, 0.1, size=200)) + 10).tolist()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=12, eps=0)
    ours = OptimiserConfig(lr=1.0, min_lr=0.0, schedule="plateau", warmup="none")
    for epoch, loss in enumerate(history):
        rate = learning_rate(
            ours, epochs=200, steps_per_epoch=1, epoch=epoch, step=0, validation=history[:epoch]
        )
        assert rate == optimiser.param_groups[0]["lr"]
        theirs.step(loss)
    assert plateau_reductions(history) >= 2
