"""ImageNet: a trunk with torchvision's weights from photographs, never shown a radiograph."""

from __future__ import annotations

from typing import ClassVar

from replication.errors import ConfigError
from replication.method import Ingredients, Settings
from replication.networks.untrained import Untrained

NOT_IMAGENET = ("random", "OPENAI")
"""Names of weights that do not stem from ImageNet; a local file is taken at its owner's word."""


class ImageNet(Untrained):
    """A trunk as ImageNet left it."""

    name: ClassVar[str] = "imagenet"

    @classmethod
    def build(cls, settings: Settings, ingredients: Ingredients) -> ImageNet:
        """Make the model; see ``Untrained.build``.

        Raises:
            ConfigError: the trunk has no weights from ImageNet.
        """
        if ingredients.trunk.weights in NOT_IMAGENET:
            raise ConfigError(
                "The ImageNet reference cannot be run: its trunk has no weights from ImageNet.",
                where="trunk.weights",
                found=ingredients.trunk.weights,
                allowed="IMAGENET1K_V1, IMAGENET1K_V2, or a local file with torchvision's keys",
                remedy=(
                    "leave imagenet out of a tier that fixes its trunk to random weights (a thin trunk has "
                    "no others), or let the tier leave the trunk to the recipe (trunk: null)"
                ),
            )
        return cls(ingredients)
