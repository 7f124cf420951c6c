"""Feature maps decoded to images of the right size."""

from __future__ import annotations

import pytest
import torch

from replication.errors import ConfigError
from replication.networks.image_decoder import ImageDecoder


@pytest.mark.parametrize(
    ("stride", "output_stride", "side"), [(16, 1, 64), (16, 4, 16), (32, 1, 128), (16, 16, 4)]
)
def test_size_of_the_answer(stride: int, output_stride: int, side: int) -> None:
    decoder = ImageDecoder(32, stride, output_stride)
    assert decoder(torch.randn(2, 32, 4, 4)).shape == (2, 1, side, side)
    widths = [block.conv1[0].out_channels for block in decoder.blocks]
    assert widths == [32 >> (step + 1) for step in range(len(widths))]


def test_a_step_repeats_cells_and_convolves_twice() -> None:
    torch.manual_seed(0)
    decoder, maps = ImageDecoder(4, 2).eval(), torch.randn(1, 4, 3, 3)
    wide = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for convolution in (decoder.blocks[0].conv1, decoder.blocks[0].conv2):
        wide = (torch.nn.functional.conv2d(wide, convolution[0].weight, padding=1) / (1 + 1e-5) ** 0.5).relu()
    expected = decoder.output_head[0](wide)
    torch.testing.assert_close(decoder(maps), expected, rtol=1e-4, atol=1e-5)


def test_strides_that_no_doubling_joins() -> None:
    for output_stride in (3, 32, 0):
        with pytest.raises(ConfigError, match="stride"):
            ImageDecoder(8, 16, output_stride)
