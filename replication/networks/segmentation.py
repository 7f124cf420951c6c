"""An image trunk with a decoder on its feature maps: logits for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.method import ImageTrunk
from replication.networks.res_unet import ResUNetDecoder
from replication.transfer_config import SegmentationConfig


class SegmentationNetwork(nn.Module):
    """A trunk and a decoder.

    Attributes:
        frozen: the trunk stays exactly as it is in training: no gradient, BatchNorm in evaluation mode.
    """

    def __init__(self, trunk: ImageTrunk, settings: SegmentationConfig) -> None:
        super().__init__()
        self.trunk = trunk
        self.frozen = settings.encoder == "frozen"
        self.decoder: nn.Module
        if settings.decoder == "res_unet":
            self.decoder = ResUNetDecoder(trunk.stage_channels)
        else:
            self.decoder = UNetDecoder(trunk.stage_channels, settings.decoder_channels)
        self.trunk.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> SegmentationNetwork:
        """A frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> logits ``[B, 1, H, W]``."""
        with torch.no_grad() if self.frozen else nullcontext():
            maps = self.trunk.stages(images)
        return torch.as_tensor(self.decoder(images, maps))


class UNetDecoder(nn.Module):
    """The U-Net decoder and head of segmentation-models-pytorch, with that library's initialisation.

    Args:
        stage_channels: of the trunk's maps from fine to coarse.
        decoder_channels: of the blocks from coarse to fine, each of which doubles the side; with as many
            blocks as maps the last one ends in the size of the image. Of too many channels the last ones are
            taken; with too few blocks the logits are enlarged bilinearly.
    """

    def __init__(self, stage_channels: Sequence[int], decoder_channels: Sequence[int]) -> None:
        # The library loads all its encoders when it is imported, which takes seconds.
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        super().__init__()
        channels = tuple(decoder_channels[-len(stage_channels) :])
        self.blocks = UnetDecoder((3, *stage_channels), channels, n_blocks=len(channels))
        self.head = SegmentationHead(channels[-1], 1, kernel_size=3)
        initialize_decoder(self.blocks)
        initialize_head(self.head)

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """``[B, 3, H, W]`` and the trunk's maps -> logits ``[B, 1, H, W]``."""
        logits = self.head(self.blocks([images, *maps]))
        if logits.shape[2:] == images.shape[2:]:
            return torch.as_tensor(logits)
        return functional.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
