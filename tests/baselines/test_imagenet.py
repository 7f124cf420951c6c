"""The ImageNet reference: weights from photographs, or a clear refusal."""

from __future__ import annotations

import dataclasses
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from doubles import batch, ingredients, text_encoder

from baselines.imagenet import ImageNet
from replication.checkpoints import build_method
from replication.config import RunConfig, resolve
from replication.errors import CheckpointError, ConfigError
from replication.method import Finding
from replication.network_config import TrunkConfig
from replication.networks.image_trunk import ResNetTrunk
from replication.networks.untrained import UntrainedSettings
from replication.tier_config import load_tier

EFFUSION = Finding("effusion", "pleural effusion", "effusion")


def config(tier: str, recipe: str | None = None) -> RunConfig:
    found = resolve(load_tier(tier), "imagenet", 0, recipe=recipe, settings_class=UntrainedSettings)
    # By its place, so that the test does not depend on what is installed.
    return found.model_copy(update={"method": "baselines.imagenet:ImageNet"})


@pytest.mark.parametrize("tier", ["smoke", "phantom"])
def test_a_tier_that_fixes_a_thin_random_trunk_cannot_run_it(tier: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no weights from ImageNet.*found: random.*trunk: null"):
        build_method(config(tier), text_encoder(), ())


def test_weights_of_clip_are_not_imagenet() -> None:
    parts = ingredients()
    parts.trunk.weights = "OPENAI"
    with pytest.raises(ConfigError, match="OPENAI"):
        ImageNet.build(UntrainedSettings(), parts)


@pytest.mark.parametrize("recipe", ["published", "matched"])
def test_without_a_network_the_remedy_is_named(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    assert config("paper", recipe).trunk.weights == "IMAGENET1K_V1"
    with pytest.raises(CheckpointError, match=r"(?s)cannot be downloaded.*give its path as trunk\.weights"):
        build_method(config("paper", recipe), text_encoder(), ())


def test_a_file_is_taken_at_its_owners_word(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.manual_seed(3)
    source = ResNetTrunk(TrunkConfig(architecture="resnet18", width=8)).eval()
    torch.save({**source.state_dict(), "fc.weight": torch.ones(2, 2)}, path)
    trunk = ResNetTrunk(TrunkConfig(architecture="resnet18", width=8, weights=str(path)))
    assert trunk.weights == str(path)
    model = ImageNet.build(UntrainedSettings(), dataclasses.replace(ingredients(), trunk=trunk)).eval()
    images = batch(2).images
    expected = source(images).mean((2, 3)) @ model.directions([EFFUSION]).T
    torch.testing.assert_close(model.score(images, [EFFUSION]), expected, rtol=1e-4, atol=1e-5)
