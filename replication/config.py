"""Recipes and variants of methods, and the resolved configuration that names a run.

A recipe says how a method is trained, a tier says where and how large. ``resolve`` merges the two into
one ``RunConfig``; the hash of its canonical JSON is the run's id, so equal configurations share a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from replication.config_files import CONFIGS, Strict, digest, merge, parse, read_yaml
from replication.errors import ConfigError, nearest
from replication.network_config import TextConfig, TrunkConfig
from replication.tier_config import TierConfig
from replication.training_config import TrainingConfig


class RunConfig(Strict):
    """Everything that decides the numbers of one pre-training run. Its hash is the run's id.

    Attributes:
        weights: the variant of the method whose weights it has: its own, or those of another one, from which
            it then differs in evaluation alone and is not trained.
    """

    method: str
    variant: str = "default"
    weights: str = "own"
    recipe: str
    tier: str
    seed: int
    dataset: str = "mimic-cxr"
    image_size: int = 224
    model: dict[str, Any] = Field(default_factory=dict)
    trunk: TrunkConfig = TrunkConfig()
    text: TextConfig = TextConfig()
    training: TrainingConfig = TrainingConfig()
    data_fingerprint: str = ""

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        return digest(self)[:12]

    @property
    def label(self) -> str:
        """``medslip`` or ``medslip/no-protocl``."""
        return self.method if self.variant == "default" else f"{self.method}/{self.variant}"

    @property
    def trained_as(self) -> str:
        """Label of the run that its weights are trained in."""
        if self.weights == "own":
            return self.label
        return self.method if self.weights == "default" else f"{self.method}/{self.weights}"


class Recipe(Strict):
    """How one method is trained; one file per method holds ``published`` and ``matched`` and its variants.

    Attributes:
        text: the text encoder of the publication; ``None`` is the tier's. A tier that trains its own text
            encoder gives it to every method.
    """

    source: str
    model: dict[str, Any] = Field(default_factory=dict)
    trunk: TrunkConfig = TrunkConfig()
    text: TextConfig | None = None
    training: TrainingConfig = TrainingConfig()
    image_size: int = 224


class Variant(Strict):
    """What a variant of a method overrides in every recipe.

    Attributes:
        weights: ``own``, or the variant whose weights it is evaluated with (``default`` is the method
            itself); it then must not differ in anything that training depends on.
    """

    weights: str = "own"
    model: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)


class RecipeFile(Strict):
    """A method's YAML: its recipes and its variants."""

    method: str
    recipes: dict[str, Recipe]
    variants: dict[str, Variant] = Field(default_factory=dict)


def load_recipes(method: str, folder: Path = CONFIGS / "recipes") -> RecipeFile:
    """The recipe file of a method."""
    path = folder / f"{method}.yaml"
    return parse(RecipeFile, read_yaml(path), path)


def resolve(
    tier: TierConfig,
    label: str,
    seed: int,
    *,
    recipe: str | None = None,
    settings_class: type[BaseModel],
    data_fingerprint: str = "",
) -> RunConfig:
    """The full configuration of one run: recipe, over it what the tier fixes for all, over it the variant.

    Args:
        label: ``medslip`` or ``medslip/no-protocl``.
        settings_class: the method's own settings; the model part is validated and completed with it.

    Raises:
        ConfigError: unknown recipe, variant or key.
    """
    method, _, variant = label.partition("/")
    file = load_recipes(method)
    name = recipe or tier.recipe
    if name not in file.recipes:
        raise ConfigError(
            "Unknown recipe.", where=f"recipes/{method}.yaml", found=name, remedy=nearest(name, file.recipes)
        )
    base = file.recipes[name].model_dump()
    fixed = {key: value for key, value in tier.scale.items() if key in settings_class.model_fields}
    training = merge(tier.training, tier.tuned.get(method, {}))
    base = merge(base, {"model": fixed, "training": training})
    weights = "own"
    if variant:
        if variant not in file.variants:
            raise ConfigError(
                "Unknown variant.",
                where=f"recipes/{method}.yaml",
                found=variant,
                remedy=nearest(variant, file.variants),
            )
        overrides = file.variants[variant].model_dump()
        weights = overrides.pop("weights")
        if weights != "default" and tier.trains_shorter(label):
            base = merge(base, {"training": tier.variant_training})
        base = merge(base, overrides)
    model = parse(settings_class, base["model"], f"recipes/{method}.yaml: {label}, model")
    own_text = base["text"] if tier.text.kind == "pretrained" else None
    return parse(
        RunConfig,
        {
            "method": method,
            "variant": variant or "default",
            "weights": weights,
            "recipe": name,
            "tier": tier.name,
            "seed": seed,
            "dataset": tier.pretrain,
            "image_size": tier.image_size,
            "model": model.model_dump(mode="json"),
            "trunk": (tier.trunk or TrunkConfig.model_validate(base["trunk"])).model_dump(),
            "text": own_text or tier.text.model_dump(),
            "training": base["training"],
            "data_fingerprint": data_fingerprint,
        },
        f"recipes/{method}.yaml: {label}",
    )


REFERENCE = "reference"
"""The variant that changes nothing: the method itself, trained as a tier trains its variants."""


def reference_of(tier: TierConfig, label: str) -> str:
    """What a variant of a tier differs from in its one change: the method, or its ``reference``.

    Args:
        label: of a variant, e.g. ``medslip/no-protocl``.
    """
    method, _, variant = label.partition("/")
    shares_weights = load_recipes(method).variants[variant].weights == "default"
    return f"{method}/{REFERENCE}" if tier.trains_shorter(label) and not shares_weights else method
