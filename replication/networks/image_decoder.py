"""From a feature map back to an image: doubling steps of two convolutions each."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.errors import ConfigError


class ImageDecoder(nn.Module):
    """``[B, C, h, w]`` -> ``[B, colours, H, W]``, channels halving from step to step.

    Each step repeats every cell twice in both directions and applies two 3x3 convolutions with batch
    normalisation and ReLU; a last convolution makes the colours (PRIOR, whose parameter names these are).

    Args:
        channels: C. stride: pixels of the image per cell of the map. output_stride: per cell of the answer.

    Raises:
        ConfigError: no number of doublings leads from one stride to the other.
    """

    def __init__(self, channels: int, stride: int, output_stride: int = 1, colours: int = 1) -> None:
        super().__init__()
        allowed = [2**power for power in range(stride.bit_length()) if stride % 2**power == 0]
        if output_stride not in allowed:
            raise ConfigError(
                "The image cannot be rebuilt at this stride.", found=output_stride, allowed=allowed
            )
        steps = (stride // output_stride).bit_length() - 1
        widths = [max(channels >> step, 1) for step in range(steps + 1)]
        self.blocks = nn.ModuleList(_Step(*pair) for pair in pairwise(widths))
        self.output_head = nn.Sequential(nn.Conv2d(widths[-1], colours, kernel_size=3, padding=1))

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, C, h, w]``."""
        maps = maps.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            maps = block(maps)
        image: Tensor = self.output_head(maps)
        return image


class _Step(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _convolution(inputs, outputs), _convolution(outputs, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.conv1[0].get_parameter("weight")
        doubled = functional.conv_transpose2d(maps, _of_doubled(weight), stride=2, padding=1)
        answer: Tensor = self.conv2(self.conv1[1:](doubled))
        return answer


def _of_doubled(weight: Tensor) -> Tensor:
    """``[O, I, 3, 3]`` -> ``[I, O, 4, 4]``: cells doubled, then convolved, as one transposed convolution.

    It is the same function at less than half of the products: those that meet the same cell are added first.
    """
    wide = functional.pad(weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
    rows = wide[:, :, 1:] + wide[:, :, :-1]
    return rows[..., 1:] + rows[..., :-1]


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
