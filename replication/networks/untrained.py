"""References without language: a trunk that stays as it was initialised, read along random directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from replication.config_files import derived_seed
from replication.method import (
    Batch,
    Finding,
    HeatmapKind,
    Ingredients,
    Losses,
    Method,
    Settings,
    Supervision,
)


class UntrainedSettings(Settings):
    """There is nothing to set."""


class Untrained(Method):
    """A trunk without a trainable weight.

    Without language or labels nothing says which feature stands for a finding. Each finding, and each place
    it is asked for in, is therefore given a random direction of feature space, drawn once for the run. A
    direction is as likely as its opposite, so the expected AUC over draws is one half; single values scatter
    around it.
    """

    supervision: ClassVar[Supervision] = "none"
    heatmap_kind: ClassVar[HeatmapKind] = "post hoc"
    settings_class: ClassVar[type[Settings]] = UntrainedSettings

    direction_seed: Tensor

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__()
        self.trunk = ingredients.trunk.requires_grad_(False)
        # Saved with the weights, so that a run that is loaded again answers the same.
        self.register_buffer("direction_seed", torch.randint(2**31, ()))

    @classmethod
    def build(cls, settings: Settings, ingredients: Ingredients) -> Untrained:
        """Make the model; the seed of its directions is drawn from torch's generator."""
        return cls(ingredients)

    def loss(self, batch: Batch) -> Losses:
        """Zero: there is nothing to learn."""
        return Losses(batch.images.new_zeros(()))

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """The mean of the heat map, ``[B, F]``: the mean feature along the finding's direction."""
        return self.heatmap(images, findings).mean(dim=(2, 3))

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Each cell's feature along the finding's direction, ``[B, F, h, w]``."""
        directions = self.directions(findings).to(images.device)
        return torch.einsum("bchw,fc->bfhw", self.trunk(images).float(), directions)

    def directions(self, findings: Sequence[Finding]) -> Tensor:
        """``[F, C]`` unit vectors, on the CPU; a finding's own depends on its name and place alone."""
        seed = int(self.direction_seed)
        drawn = []
        for finding in findings:
            key = derived_seed("direction", seed, finding.name, finding.anatomy or "")
            drawn.append(torch.randn(self.trunk.channels, generator=torch.Generator().manual_seed(key)))
        return torch.nn.functional.normalize(torch.stack(drawn), dim=1)
