"""The losses of MeDSLIP as pure functions (specification of the released code, ``model_MeDSLIP.py``).

All are means over the cells they apply to, take triplet cells -1 not mentioned, 0 absent, 1 present, and
are free of loops and of device synchronisation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from replication.networks.distributed import mean_where
from replication.networks.triplet_losses import candidate_loss, existence_labels, prototype_similarity


def protocl(
    similarities: Tensor, cells: Tensor, negatives: Tensor, valid: Tensor, *, empty: float = 0.0
) -> Tensor:
    """Prototypical contrastive loss of one stream.

    For a query with at least one present cell, the target is the prototype: the mean of the other stream's
    book rows over the present cells. The logits are plain dot products, without norm or temperature.

    Args:
        similarities: ``[B, Q, K]``, projected query features times all K rows of the other stream's book.
        cells: ``[B, Q, K]`` triplet cells.
        negatives: ``[B, Q, N]`` indices on the last axis; ``valid``, of the same shape, says which count.
        empty: the loss of a batch without any present cell.
    """
    target = prototype_similarity(similarities, cells)
    others = similarities.gather(-1, negatives)
    return candidate_loss(target, others, valid, existence_labels(cells).eq(1), empty=empty)


def icl_logits(anatomy: Tensor, pathology: Tensor, scale: float) -> Tensor:
    """Intra-image logits ``[B, 51, 75]``: dot products of both streams' features, times ``scale``."""
    with torch.autocast(anatomy.device.type, enabled=False):
        return anatomy.float() @ (scale * pathology.float()).transpose(1, 2)


def icl(logits: Tensor, cells: Tensor, *, empty: float = 0.0) -> Tensor:
    """Intra-image contrastive loss: mean binary cross-entropy of ``[B, 51, 75]`` over mentioned cells."""
    losses = functional.binary_cross_entropy_with_logits(
        logits, cells.eq(1).to(logits.dtype), reduction="none"
    )
    return mean_where(losses, cells >= 0, empty=empty)
