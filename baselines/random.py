"""Random: a trunk with its initial random weights. What it reaches, any method reaches without learning."""

from __future__ import annotations

from typing import ClassVar

from replication.errors import ConfigError
from replication.method import Ingredients, Settings
from replication.networks.untrained import Untrained


class Random(Untrained):
    """A trunk as its initialisation left it."""

    name: ClassVar[str] = "random"

    @classmethod
    def build(cls, settings: Settings, ingredients: Ingredients) -> Random:
        """Make the model; see ``Untrained.build``.

        Raises:
            ConfigError: the trunk was given weights.
        """
        if ingredients.trunk.weights != "random":
            raise ConfigError(
                "The random reference must start from random weights.",
                where="trunk.weights",
                found=ingredients.trunk.weights,
                allowed="random",
                remedy="leave the trunk to the recipe (tier: trunk: null), or use the method imagenet",
            )
        return cls(ingredients)
