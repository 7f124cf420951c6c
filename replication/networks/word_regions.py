"""Images and texts compared word by word with the regions that each word attends to (GLoRIA, BioViL-L)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from replication.networks.distributed import gather

Aggregation = Literal["sum", "mean", "max"]

_ATTENTION_CELLS = 2**26
"""Most attention weights (image x word x region) held at once; more are computed in turns."""


class Temperatures(NamedTuple):
    """GLoRIA's temp1 (attention over regions), temp2 (words) and temp3 (logits); all multiply."""

    region: float = 4.0
    word: float = 5.0
    pair: float = 10.0


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine over the last dimension, 0 where a vector is zero."""
    norms = torch.linalg.vector_norm(x, dim=-1) * torch.linalg.vector_norm(y, dim=-1)
    answer: Tensor = (x * y).sum(dim=-1) / norms.clamp_min(1e-8)
    return answer


def word_products(regions: Tensor, words: Tensor) -> Tensor:
    """Dot products of every word with every region: ``[B, R, D]``, ``[N, T, D]`` -> ``[B, N, T, R]``."""
    products = words.flatten(0, 1) @ regions.transpose(1, 2)
    return products.reshape(len(regions), *words.shape[:2], -1)


def region_attention(products: Tensor, used: Tensor, sharpness: float) -> Tensor:
    """Regions that each word attends to: ``[B, N, T, R]`` like the ``products``, of sum 1 over R.

    A softmax over the words of each region, then one over the regions of each word, on plain dot products.

    Args:
        used: ``[N, T]`` bool, words that compete for a region. sharpness: of the second softmax.
    """
    lowest = torch.finfo(products.dtype).min
    return (sharpness * products.masked_fill(~used.unsqueeze(-1), lowest).softmax(dim=2)).softmax(dim=3)


def local_similarity(
    regions: Tensor, words: Tensor, used: Tensor, temperatures: Temperatures, aggregation: Aggregation
) -> Tensor:
    """Similarity of B images ``[B, R, D]`` and N texts ``[N, T, D]`` by their words: ``[B, N]``, float32.

    Each word is compared by cosine with its context, the sum of regions weighed by its attention; over the
    ``used`` words ``[N, T]`` goes the logarithm of the sum or mean of the scaled exponentials, or their
    maximum. A context is never formed: with the attention a, its product with the word is a's sum over the
    word's products, its squared norm a G a' with the regions' Gram matrix G.
    """

    def similarity(regions: Tensor) -> Tensor:
        products = word_products(regions, words)
        attention = region_attention(products, used, temperatures.region)
        gram = regions @ regions.transpose(1, 2)
        weighed = (attention.flatten(1, 2) @ gram).view_as(attention)
        norms = (weighed * attention).sum(dim=3).clamp_min(1e-16).sqrt() * lengths
        cosines = (attention * products).sum(dim=3) / norms.clamp_min(1e-8)
        scaled = (temperatures.word * cosines).masked_fill(~used, float("-inf"))
        if aggregation == "max":
            highest: Tensor = scaled.amax(dim=2)
            return highest
        logarithm: Tensor = scaled.logsumexp(dim=2)
        return logarithm - used.sum(dim=1).log() if aggregation == "mean" else logarithm

    words = words.float()
    lengths = torch.linalg.vector_norm(words, dim=-1)
    return in_turns(similarity, regions.float(), words)


def local_losses(
    regions: Tensor,
    words: Tensor,
    used: Tensor,
    keep: Tensor,
    temperatures: Temperatures,
    aggregation: Aggregation,
) -> Tensor:
    """Cross-entropies by words of B pairs, over all processes: image to text and text to image, ``[2]``.

    Args:
        keep: ``[B]`` bool, which pairs count; the others are neither anchors nor negatives.
    """
    regions, words, used, keep = gather(regions.float()), gather(words.float()), gather(used), gather(keep)
    logits = temperatures.pair * local_similarity(regions, words, used, temperatures, aggregation)
    blocked = ~(keep | torch.eye(len(keep), dtype=torch.bool, device=keep.device))
    both = torch.stack([logits, logits.T])
    losses = both.masked_fill(blocked, float("-inf")).logsumexp(dim=2) - logits.diagonal()
    return torch.where(keep, losses, 0.0).sum(dim=1) / keep.sum().clamp_min(1)


def in_turns(answer: Callable[[Tensor], Tensor], regions: Tensor, words: Tensor) -> Tensor:
    """``answer`` to all images, or to as many at once as memory allows; then computed again for gradients."""
    step = max(1, _ATTENTION_CELLS // (words.shape[0] * words.shape[1] * regions.shape[1]))
    with torch.autocast(regions.device.type, enabled=False):
        if len(regions) <= step:
            return answer(regions)
        return torch.cat(
            [checkpoint(answer, part, use_reentrant=False) for part in torch.split(regions, step)]
        )
