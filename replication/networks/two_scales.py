"""Two feature maps of a trunk: a finer one whose cells meet words, and the last one for the whole image."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from replication.method import ImageTrunk

_FOUR_STAGES = 32
"""Stride of a trunk with four stages; the third one's map is then the finer map."""


class TwoScales(NamedTuple):
    """``cells`` ``[B, C, h, w]`` of the finer map, ``whole`` ``[B, C']``, the mean over the last map."""

    cells: Tensor
    whole: Tensor


def two_scales(trunk: ImageTrunk, images: Tensor, side: int | None = None) -> TwoScales:
    """Cells of stage 3 and the mean over stage 4; of a trunk that ends with stage 3, both are of its map.

    Args:
        side: images are first resized to this many pixels, corners aligned (GLoRIA and MGCA: 299).
    """
    if side is not None and images.shape[-2:] != (side, side):
        images = functional.interpolate(images, (side, side), mode="bilinear", align_corners=True)
    maps = trunk.stages(images)
    cells = maps[-2] if _has_finer(trunk) else maps[-1]
    return TwoScales(cells, maps[-1].mean(dim=(2, 3)))


def flat(maps: Tensor) -> Tensor:
    """Cells row by row: ``[B, C, h, w]`` -> ``[B, h * w, C]``."""
    return maps.flatten(2).transpose(1, 2)


def cell_channels(trunk: ImageTrunk) -> int:
    """Channels of the finer map of ``two_scales``."""
    return trunk.stage_channels[-2] if _has_finer(trunk) else trunk.channels


def _has_finer(trunk: ImageTrunk) -> bool:
    """Whether there is a finer map; a vision transformer has one map whatever its stride."""
    return trunk.stride == _FOUR_STAGES and len(trunk.stage_channels) > 1
