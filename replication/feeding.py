"""Which images a step of a run sees: a function of (seed, epoch, step) and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from replication.config import RunConfig
from replication.config_files import derived_seed
from replication.data.augmentation import Share
from replication.errors import ConfigError, DataError
from replication.method import Batch
from replication.training_config import TrainingConfig

if TYPE_CHECKING:
    from replication.data.batches import PreparedData

MicroBatches = list[Batch]


class EpochBatches(Dataset[MicroBatches]):
    """The micro-batches of each step of an epoch, for one of several processes.

    Every process draws the same order and gets its share of a step's images, so the images of a step and
    their augmentation do not depend on how many there are. The rest that fills no batch is left out.
    """

    def __init__(
        self, data: PreparedData, config: RunConfig, epoch: int, rank: int = 0, processes: int = 1
    ) -> None:
        self.data, self.config, self.epoch = data, config, epoch
        self.rank, self.processes = rank, processes
        generator = np.random.default_rng(derived_seed("order", config.seed, epoch))
        self.order: NDArray[np.int64] = generator.permutation(np.asarray(data.rows("train"), dtype=np.int64))

    def __getitem__(self, step: int) -> MicroBatches:
        """Micro-batches of a step of this epoch."""
        training, config = self.config.training, self.config
        size = min(training.batch_size, len(self.order))
        rows = self.order[step * size : (step + 1) * size]
        wholes = np.sort(rows.reshape(training.accumulation, -1), axis=1)
        own = wholes.shape[1] // self.processes
        share = Share(self.rank * own, wholes.shape[1])
        return [
            self.data.batch(
                share.of(whole, own),
                augmentation=training.augmentation,
                seed=derived_seed("batch", config.seed, self.epoch, step, micro, 0),
                share=share,
            )
            for micro, whole in enumerate(wholes)
        ]

    def loader(self, first: int, end: int, workers: int = 0) -> DataLoader[MicroBatches]:
        """Steps from ``first`` to before ``end``, prepared ahead by ``workers`` processes (0: here)."""
        return DataLoader(
            self,
            batch_size=None,
            sampler=range(first, end),
            num_workers=workers,
            collate_fn=_as_is,
            # The loader draws a seed for its workers, which do not use it; not from the global generator.
            generator=torch.Generator(),
        )


def _as_is(item: MicroBatches) -> MicroBatches:
    return item


def validation_batches(
    data: PreparedData, config: RunConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """The validation batches of one process; the same in every epoch unless ``as_training``.

    The images are cut into batches of nearly equal size, because a contrastive loss depends on it. With P
    processes, up to P - 1 images are left out of each batch, so that all get equally many.
    """
    training = config.training
    rows = np.asarray(data.rows("val"), dtype=np.int64)
    if not len(rows):
        return
    size = max(1, training.batch_size // training.accumulation)
    augmentation, draw = None, 0
    if training.validation == "as_training":
        augmentation, draw = training.augmentation, epoch
        rows = np.random.default_rng(derived_seed("validation order", config.seed, epoch)).permutation(rows)
        rows = rows[: len(rows) // size * size or None]
    for index, whole in enumerate(np.array_split(rows, math.ceil(len(rows) / size))):
        own = len(whole) // processes
        share = Share(rank * own, own * processes)
        seed = derived_seed("validation", config.seed, draw, index)
        yield data.batch(share.of(whole, own), augmentation=augmentation, seed=seed, share=share)


def steps_per_epoch(data: PreparedData, training: TrainingConfig) -> int:
    """Optimiser steps of an epoch; one step over everything where there are fewer images than a batch."""
    return max(1, len(data.rows("train")) // training.batch_size)


def check_sizes(data: PreparedData, training: TrainingConfig, processes: int = 1) -> None:
    """Refuse, before any compute, what could not be trained.

    Raises:
        ConfigError: a batch does not divide into micro-batches, or there is no epoch.
        DataError: no images, or none to validate on where the configuration needs validation.
    """
    images, parts = len(data.rows("train")), training.accumulation * processes
    if not images:
        raise DataError("The training split is empty.", allowed="at least one image in the split 'train'")
    for size, where in (
        (training.batch_size, "training.batch_size"),
        (min(images, training.batch_size), "images of the split 'train'"),
    ):
        if size < 1 or size % parts:
            raise ConfigError(
                "A batch does not divide into micro-batches.",
                where=where,
                found=size,
                allowed=f"a multiple of {training.accumulation} accumulation steps x {processes} processes",
            )
    if training.epochs < 1:
        raise ConfigError("Nothing to train.", where="training.epochs", found=training.epochs, allowed=">= 1")
    needs_validation = training.select == "best_val" or training.optimiser.schedule == "plateau"
    if needs_validation and not len(data.rows("val")):
        raise DataError(
            "The validation split is empty, but the configuration chooses by validation loss.",
            allowed="at least one image in the split 'val'",
            remedy="prepare the data with a validation split, or set training.select to last",
        )
