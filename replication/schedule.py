"""Learning rates as pure functions of the position in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from replication.training_config import OptimiserConfig

RELEASED_INTERVAL = 100
"""Iterations between two steps of the released warm-up."""

PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 12
"""Of the ConVIRT port that comes with LoVT; counted in validations, one per epoch."""

_PLATEAU_THRESHOLD = 1e-4


def learning_rate(
    optimiser: OptimiserConfig,
    *,
    epochs: int,
    steps_per_epoch: int,
    epoch: int,
    step: int,
    validation: Sequence[float] = (),
) -> float:
    """Learning rate of one optimiser step.

    Args:
        epoch, step: counted from 0; ``step`` within the epoch.
        validation: validation losses of the epochs before this one (for ``plateau``).
    """
    if optimiser.warmup == "iters_in_epoch0":
        return _released(optimiser, epochs, epoch, step)
    position = epoch + step / steps_per_epoch
    warm = optimiser.warmup_epochs if optimiser.warmup == "epochs" else 0.0
    if position < warm:
        return optimiser.warmup_lr + (optimiser.lr - optimiser.warmup_lr) * position / warm
    if optimiser.schedule == "cosine":
        return _cosine(optimiser, position - warm, epochs - warm)
    if optimiser.schedule == "plateau":
        return max(optimiser.min_lr, optimiser.lr * PLATEAU_FACTOR ** plateau_reductions(validation))
    return optimiser.lr


def _cosine(optimiser: OptimiserConfig, position: float, length: float) -> float:
    if position >= length:
        return optimiser.min_lr
    fall = 0.5 * (1 + math.cos(math.pi * position / length))
    return optimiser.min_lr + (optimiser.lr - optimiser.min_lr) * fall


def _released(optimiser: OptimiserConfig, epochs: int, epoch: int, step: int) -> float:
    """The schedule that the released code runs (audit P10, released code ``train_MeDSLIP.py:88``).

    The warm-up counter moves on after every 100th iteration of the first epoch, so W "epochs" of warm-up last
    100 W iterations; each later epoch has one rate, from a cosine over all epochs. A first epoch that is
    shorter than the warm-up cuts it off.
    """
    if epoch > 0:
        return _cosine(optimiser, epoch, epochs)
    counter = min((step - 1) // RELEASED_INTERVAL if step else 0, math.ceil(optimiser.warmup_epochs))
    if counter < optimiser.warmup_epochs:
        rise = (optimiser.lr - optimiser.warmup_lr) * counter / optimiser.warmup_epochs
        return optimiser.warmup_lr + rise
    return _cosine(optimiser, 0, epochs)


def plateau_reductions(validation: Sequence[float], patience: int = PLATEAU_PATIENCE) -> int:
    """How often the rate was reduced: each time ``patience`` validations in a row bring no improvement.

    An improvement is a loss below the best by more than 0.01 %, as in torch's ``ReduceLROnPlateau``.
    """
    best, waited, reductions = math.inf, 0, 0
    for loss in validation:
        if loss < best * (1 - _PLATEAU_THRESHOLD):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > patience:
            reductions, waited = reductions + 1, 0
    return reductions
