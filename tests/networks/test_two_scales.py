"""The finer map is stage 3 of a trunk with four stages, and the only map of a trunk with three."""

from __future__ import annotations

import torch
from doubles import trunk

from replication.networks.two_scales import cell_channels, two_scales


def test_four_stages_give_two_maps() -> None:
    network, images = trunk(last_stage=4).eval(), torch.randn(2, 3, 64, 64)
    maps = network.stages(images)
    cells, whole = two_scales(network, images)
    assert torch.equal(cells, maps[-2])
    torch.testing.assert_close(whole, maps[-1].mean((2, 3)))
    assert cell_channels(network) == cells.shape[1] == 32


def test_three_stages_give_one() -> None:
    network, images = trunk(last_stage=3).eval(), torch.randn(2, 3, 64, 64)
    cells, whole = two_scales(network, images)
    assert torch.equal(cells, network(images))
    torch.testing.assert_close(whole, cells.mean((2, 3)))
    assert cell_channels(network) == cells.shape[1]


def test_one_map_of_any_stride_is_both() -> None:
    network, images = trunk(last_stage=3).eval(), torch.randn(2, 3, 64, 64)
    network.stride = 32
    network.stage_channels = (network.channels,)
    network.stages = lambda images: [network.__class__.stages(network, images)[-1]]  # type: ignore[method-assign]
    cells, whole = two_scales(network, images)
    torch.testing.assert_close(whole, cells.mean((2, 3)))
    assert cell_channels(network) == cells.shape[1]


def test_images_are_resized_first() -> None:
    network, images = trunk().eval(), torch.randn(1, 3, 64, 64)
    assert two_scales(network, images, side=96).cells.shape[-2:] == (6, 6)
    larger = torch.nn.functional.interpolate(images, (96, 96), mode="bilinear", align_corners=True)
    assert torch.equal(two_scales(network, images, side=96).whole, two_scales(network, larger).whole)
