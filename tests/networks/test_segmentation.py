from __future__ import annotations

import copy

import doubles
import pytest
import torch

from replication.network_config import TrunkConfig
from replication.networks.image_trunk import ResNetTrunk
from replication.networks.segmentation import SegmentationNetwork
from replication.transfer_config import SegmentationConfig

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(last_stage: int = 3, **settings: object) -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork(doubles.trunk(8, last_stage), SegmentationConfig.model_validate(settings))


@pytest.mark.parametrize("decoder", ["unet", "res_unet"])
@pytest.mark.parametrize("last_stage", [3, 4])
def test_every_pixel_gets_a_logit_and_every_weight_a_gradient(decoder: str, last_stage: int) -> None:
    model = network(last_stage, decoder=decoder)
    logits = model.train()(IMAGES)
    assert logits.shape == (2, 1, 64, 64)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_frozen_trunk_stays_as_it_is() -> None:
    model = network(encoder="frozen")
    before = copy.deepcopy(model.trunk.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model.train()(IMAGES).square().mean().backward()
        optimiser.step()
    after = model.trunk.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert any("running_mean" in key for key in before)
    assert not model.trunk.training and model.decoder.training


def test_an_updated_trunk_changes() -> None:
    model = network()
    before = copy.deepcopy(model.trunk.state_dict())
    model.train()(IMAGES)
    after = model.trunk.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before if "running_mean" in key)


def test_the_released_network_has_its_size() -> None:
    """39,507,329 parameters, counted in the released code for a ResNet-50 cut after its third stage."""
    with torch.device("meta"):
        trunk = ResNetTrunk(TrunkConfig(architecture="resnet50", width=64, last_stage=3))
        model = SegmentationNetwork(trunk, SegmentationConfig(decoder="res_unet"))
    assert sum(p.numel() for p in model.parameters()) == 39_507_329
    keys = model.decoder.state_dict()
    assert keys["bridge.bridge.1.conv.weight"].shape == (1024, 1024, 3, 3)
    assert keys["up_blocks.2.conv_block_1.conv.weight"].shape == (128, 192, 3, 3)
    assert keys["up_blocks.3.conv_block_1.conv.weight"].shape == (64, 67, 3, 3)


def test_a_decoder_may_end_at_a_coarser_size() -> None:
    model = network(decoder_channels=(16, 8)).eval()
    maps = model.trunk.stages(IMAGES)
    assert model.decoder.blocks([IMAGES, *maps]).shape == (2, 8, 16, 16)
    assert model(IMAGES).shape == (2, 1, 64, 64)
