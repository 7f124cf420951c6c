"""The decoder that the released fine-tuning code of MeDSLIP and MedKLIP puts on a ResNet for segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from replication.networks.dropout import Dropout

DROPOUT = 0.2


class ConvBlock(nn.Module):
    """3 x 3 convolution with bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` -> ``[B, outputs, h, w]``."""
        return torch.relu(self.bn(self.conv(x)))


class Bridge(nn.Module):
    """Two blocks on the coarsest map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bridge = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]``, shape kept."""
        return torch.as_tensor(self.bridge(x))


class UpBlock(nn.Module):
    """Transposed convolution to twice the side and half the channels, the finer map beside it, two blocks."""

    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__()
        outputs = inputs // 2
        self.upsample = nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
        self.conv_block_1 = ConvBlock(outputs + skip, outputs)
        self.conv_block_2 = ConvBlock(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` and ``[B, skip, 2h, 2w]`` -> ``[B, inputs / 2, 2h, 2w]``."""
        return torch.as_tensor(self.conv_block_2(self.conv_block_1(torch.cat([self.upsample(x), skip], 1))))


class ResUNetDecoder(nn.Module):
    """From the feature maps of a trunk to logits per pixel.

    The finest skip connection is the image itself. On a ResNet-50 cut after its third stage this is the
    released network: up blocks 1024 -> 512 -> 256 -> 128 -> 64.

    Args:
        stage_channels: of the trunk's maps from fine to coarse; each map has half the side of the one before,
            the first half that of the image.
    """

    def __init__(self, stage_channels: Sequence[int]) -> None:
        super().__init__()
        channels = stage_channels[-1]
        self.bridge = Bridge(channels)
        blocks = []
        for skip in (*stage_channels[-2::-1], 3):
            blocks.append(UpBlock(channels, skip))
            channels //= 2
        self.up_blocks = nn.ModuleList(blocks)
        self.dropout = Dropout(DROPOUT)
        self.seg_classifier = nn.Conv1d(channels, 1, kernel_size=1)

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """``[B, 3, H, W]`` and the trunk's maps -> logits ``[B, 1, H, W]``."""
        x = self.bridge(maps[-1])
        for block, skip in zip(self.up_blocks, (*maps[-2::-1], images), strict=True):
            x = block(x, skip)
        pixels = self.seg_classifier(self.dropout(x).flatten(2))
        return torch.as_tensor(pixels.unflatten(2, x.shape[2:]))
