"""Losses that several alignment methods share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from replication.networks.distributed import gather


def info_nce(
    images: Tensor,
    texts: Tensor,
    *,
    temperature: float | Tensor,
    image_weight: float = 0.5,
    keep: Tensor | None = None,
    same: Tensor | None = None,
    normalise: bool = True,
) -> Tensor:
    """Symmetric contrastive loss of B image-text pairs on cosine similarity, over all processes.

    Args:
        images, texts: ``[B, D]``; normalised here.
        temperature: similarities are divided by it.
        image_weight: weight of image-to-text; text-to-image has the rest.
        keep: ``[B]`` bool, which pairs count; the others are neither anchors nor negatives.
        same: ``[B]`` integers; pairs of one number are not each other's negatives.
        normalise: false compares by plain dot products.

    Returns:
        Scalar: the weighted mean cross-entropies; 0 where no pair counts.
    """
    with torch.autocast(images.device.type, enabled=False):
        v, u = gather(images.float()), gather(texts.float())
        if normalise:
            v, u = functional.normalize(v, dim=-1), functional.normalize(u, dim=-1)
        logits = v @ u.T / temperature
        matched = logits.diagonal()
        blocked = torch.zeros_like(logits, dtype=torch.bool)
        if keep is not None:
            keep = gather(keep)
            blocked |= ~keep
        if same is not None:
            same = gather(same)
            blocked |= same.unsqueeze(0) == same.unsqueeze(1)
        blocked.fill_diagonal_(False)
        to_text = logits.masked_fill(blocked, float("-inf")).logsumexp(dim=1) - matched
        to_image = logits.T.masked_fill(blocked, float("-inf")).logsumexp(dim=1) - matched
        losses = image_weight * to_text + (1 - image_weight) * to_image
        if keep is None:
            return losses.mean()
        return torch.where(keep, losses, 0.0).sum() / keep.sum().clamp_min(1)
