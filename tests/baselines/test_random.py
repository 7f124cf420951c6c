"""The random reference: nothing but its initial weights."""

from __future__ import annotations

import pytest
import torch
from doubles import batch, ingredients

from baselines.random import Random
from replication.config import resolve
from replication.errors import ConfigError
from replication.method import Finding
from replication.networks.untrained import UntrainedSettings
from replication.tier_config import load_tier

FINDINGS = [Finding("effusion", "pleural effusion", "effusion"), Finding("covid", "covid")]


def make(seed: int = 0) -> Random:
    torch.manual_seed(seed)
    return Random.build(UntrainedSettings(), ingredients()).eval()


def test_a_seed_is_another_trunk_and_other_directions() -> None:
    images = batch(3).images
    assert torch.equal(make().score(images, FINDINGS), make().score(images, FINDINGS))
    assert not torch.allclose(make().score(images, FINDINGS), make(1).score(images, FINDINGS))


def test_a_pretrained_trunk_is_refused() -> None:
    parts = ingredients()
    parts.trunk.weights = "IMAGENET1K_V1"
    with pytest.raises(ConfigError, match=r"(?s)must start from random.*IMAGENET1K_V1.*method imagenet"):
        Random.build(UntrainedSettings(), parts)


@pytest.mark.parametrize("tier", ["smoke", "phantom", "paper"])
def test_every_tier_gives_it_random_weights(tier: str) -> None:
    config = resolve(load_tier(tier), "random", 0, settings_class=UntrainedSettings)
    assert config.trunk.weights == "random"
    assert config.model == {}
