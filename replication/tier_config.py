"""Tiers: where and how large a replication runs; one YAML file each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from replication.config_files import CONFIGS, Strict, parse, read_yaml
from replication.network_config import TextConfig, TrunkConfig
from replication.transfer_config import TransferConfig


class PhantomSize(Strict):
    """How many phantom patients each data set gets."""

    seed: int = 20240315
    image_size: int = 128
    patients: dict[str, int]


class SearchConfig(Strict):
    """The trials that every method gets before a tier compares methods.

    Attributes:
        learning_rates: tried one by one, the same for all methods.
        epochs: length of a trial. seed: of all trials; none of the tier's own seeds.
        protocol: trials are judged by the mean zero-shot AUC on its validation images.
    """

    learning_rates: tuple[float, ...]
    epochs: int
    seed: int
    protocol: str


class TierConfig(Strict):
    """Where and how large a replication runs.

    Attributes:
        phantom: sizes of the generated data; ``null`` where real data are expected.
        image_size: side in pixels of the cache and the network's input.
        scale: model settings that the tier fixes for every method that has a setting of that name.
        training: training settings that the tier fixes for every method (merged over the recipe's).
        search: the trials that ``tuned`` is chosen by.
        tuned: training settings of single methods, chosen for this tier on validation data.
        variant_training: training settings of variants that have weights of their own, e.g. fewer epochs;
            they are then compared with ``reference``, the method itself under the same settings.
        variants_in_full: variants that are trained and evaluated as methods are all the same, and compared
            with the method; transfer is not asked of them.
        seeds, methods, recipe, variants: the grid of runs; a variant is written ``medslip/no-protocl``.
        pretrain: data set of pre-training. protocols: ids of what is evaluated.
        variant_protocols: those that variants are evaluated under; empty takes all.
        transfer: the tasks that learn from labels; ``null`` where the tier has none.
        threads: torch threads per job.
        notebooks: which notebooks are executed.
    """

    name: str
    description: str
    image_size: int
    pretrain: str = "mimic-cxr"
    phantom: PhantomSize | None = None
    trunk: TrunkConfig | None = None
    text: TextConfig = TextConfig()
    scale: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    search: SearchConfig | None = None
    tuned: dict[str, dict[str, Any]] = Field(default_factory=dict)
    variant_training: dict[str, Any] = Field(default_factory=dict)
    recipe: str = "published"
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...]
    variants: tuple[str, ...] = ()
    variants_in_full: tuple[str, ...] = ()
    protocols: tuple[str, ...]
    variant_protocols: tuple[str, ...] = ()
    transfer: TransferConfig | None = None
    threads: int = 1
    evaluation_batch_size: int = 128
    bootstrap: int = 1000
    notebooks: tuple[str, ...]

    @field_validator("variants_in_full")
    @classmethod
    def _are_variants(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for label in labels:
            if label not in info.data.get("variants", ()):
                raise ValueError(f"{label!r} is not among the tier's variants")
        return labels

    def trains_shorter(self, label: str) -> bool:
        """Whether a variant with weights of its own is trained by ``variant_training``."""
        return bool(self.variant_training) and label not in self.variants_in_full


def load_tier(name_or_path: str) -> TierConfig:
    """A tier by name, or from a YAML file of the user's own."""
    path = (
        Path(name_or_path)
        if name_or_path.endswith((".yaml", ".yml"))
        else CONFIGS / "tiers" / f"{name_or_path}.yaml"
    )
    return parse(TierConfig, read_yaml(path), path)
