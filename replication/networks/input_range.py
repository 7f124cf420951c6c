"""Images as a released network expects them, from images as the suite normalises them."""

from __future__ import annotations

import torch
from torch import Tensor

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def renormalise(images: Tensor, mean: float, std: float) -> Tensor:
    """``[B, 3, H, W]`` with the ImageNet mean and deviation -> ``(x - mean) / std`` of values x in 0..1."""
    shape = (1, 3, 1, 1)
    scale = torch.tensor(_STD, device=images.device).view(shape) / std
    shift = (torch.tensor(_MEAN, device=images.device).view(shape) - mean) / std
    return images * scale + shift


def grey_to_rgb(weight: Tensor, mean: float, std: float) -> Tensor:
    """A convolution of one grey channel ``[O, 1, k, k]`` -> the same of three as the suite normalises them.

    Grey was ``(x - mean) / std``. The channels are weighed so that their sum is that for every grey value x;
    zero padding stays zero padding. More than one input channel gives more than three.
    """
    means, stds = torch.tensor(_MEAN, dtype=torch.float64), torch.tensor(_STD, dtype=torch.float64)
    wanted = torch.tensor([1.0, mean], dtype=torch.float64) / std
    shares = torch.linalg.pinv(torch.stack([1 / stds, means / stds])) @ wanted
    return torch.einsum("oihw,c->oichw", weight, shares.to(weight)).flatten(1, 2)
