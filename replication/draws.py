"""Random numbers of a training step that do not depend on how many processes share the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from replication.config_files import derived_seed


class Draws:
    """The draws of some images of a batch; equal arguments give equal numbers.

    Every process draws for the whole batch and takes the part of its own images, so that an image gets the
    numbers that it would get in one process.
    """

    def __init__(self, seed: int, count: int, start: int = 0, total: int | None = None) -> None:
        """
        Args:
            seed: of the step. count: own images.
            start: place of the first of them in the batch of ``total`` images that all processes share.
        """
        self.seed, self.count, self.start = seed, count, start
        self.total = count if total is None else total
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """``[count, *shape]`` in 0..1, on the CPU; the next ones with each call."""
        drawn = torch.rand((self.total, *shape), generator=self._generator)
        return drawn[self.start : self.start + self.count]

    def generators(self, purpose: str) -> list[torch.Generator]:
        """One generator for each image, where images need different numbers of draws."""
        places = range(self.start, self.start + self.count)
        return [torch.Generator().manual_seed(derived_seed(purpose, self.seed, place)) for place in places]
