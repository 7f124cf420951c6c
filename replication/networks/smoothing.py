"""Gaussian smoothing of heat maps, on the device they are on."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """``[..., h, w]`` under a Gaussian, cut at four deviations, the map being mirrored at its borders."""
    if sigma == 0:
        return maps
    height, width = (_smoothing_matrix(size, sigma).to(maps) for size in maps.shape[-2:])
    return height @ maps @ width.T


def _smoothing_matrix(size: int, sigma: float) -> Tensor:
    """``[size, size]``; row i holds the weights of the cells that cell i becomes the mean of."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    places = (torch.arange(size).unsqueeze(1) + offsets) % (2 * size)
    mirrored = torch.minimum(places, 2 * size - 1 - places)
    share = (weights / weights.sum()).expand_as(mirrored)
    return torch.zeros(size, size).scatter_add_(1, mirrored, share)
