"""What the losses over the (image, anatomy, pathology) matrix share: labels, negatives, cross-entropies.

A triplet matrix has cells -1 not mentioned, 0 absent, 1 present. Here its last two axes are always
(query, candidate): ``[B, 75, 51]`` for pathology queries, ``[B, 51, 75]`` for anatomy queries.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from replication.draws import Draws
from replication.networks.distributed import mean_where

NegativeRule = Literal["not_one", "absent_only_then_unmentioned"]


def existence_labels(cells: Tensor) -> Tensor:
    """``[B, Q, K]`` -> ``[B, Q]``: 1 if any cell is present, else 0 if any is absent, else -1."""
    return cells.amax(dim=-1)


def existence_loss(logits: Tensor, labels: Tensor, *, empty: float = 0.0) -> Tensor:
    """Mean two-class cross-entropy of ``logits`` ``[B, Q, 2]`` over queries labelled 0 or 1 (``[B, Q]``)."""
    margin = logits[..., 1].float() - logits[..., 0].float()
    losses = functional.binary_cross_entropy_with_logits(margin, labels.eq(1).float(), reduction="none")
    return mean_where(losses, labels >= 0, empty=empty)


def sample_negatives(cells: Tensor, count: int, rule: NegativeRule, draws: Draws) -> tuple[Tensor, Tensor]:
    """Draw negatives for every query, uniformly and without replacement, by the largest of random keys.

    Args:
        cells: ``[B, Q, K]`` triplet cells.
        count: negatives per query; 7 in the released code.
        rule: ``not_one`` draws from all cells that are not present, mentioned or not (released code,
            ``dataset.py``, audit P6); ``absent_only_then_unmentioned`` draws from the absent cells, and from
            the unmentioned ones only where these are too few.

    Returns:
        Indices ``[B, Q, count]`` on the candidate axis, and a mask that is false where a query has fewer
        than ``count`` candidates left.
    """
    keys = draws.uniform(*cells.shape[1:]).to(cells.device, non_blocking=True)
    if rule == "absent_only_then_unmentioned":
        keys = keys + cells.eq(0)
    drawn = keys.masked_fill_(cells.eq(1), -1.0).topk(min(count, cells.shape[-1]), dim=-1, sorted=False)
    return drawn.indices, drawn.values >= 0


def prototype_similarity(similarities: Tensor, cells: Tensor) -> Tensor:
    """Similarity ``[B, Q]`` of each query with the mean of its present candidates.

    A dot product with a mean is the mean of dot products, so no prototype is ever formed.

    Args:
        similarities: ``[B, Q, K]`` dot products with every candidate. cells: ``[B, Q, K]``.
    """
    present = cells.eq(1).to(similarities.dtype)
    return (similarities * present).sum(dim=-1) / present.sum(dim=-1).clamp_min(1)


def sample_positive(cells: Tensor, draws: Draws) -> Tensor:
    """``[B, Q]``: one present candidate of each query, drawn uniformly; any index where none is present."""
    keys = draws.uniform(*cells.shape[1:]).to(cells.device, non_blocking=True)
    return keys.masked_fill_(cells.ne(1), -1.0).argmax(dim=-1)


def candidate_loss(
    target: Tensor, negatives: Tensor, valid: Tensor, chosen: Tensor, *, empty: float = 0.0
) -> Tensor:
    """Mean cross-entropy of one target logit against negatives.

    Args:
        target: ``[B, Q]`` logit of the right candidate.
        negatives: ``[B, Q, N]`` logits of the others; ``valid``, of the same shape, says which count.
        chosen: ``[B, Q]`` bool, the queries that have a right candidate; the mean is over these.
    """
    others = negatives.masked_fill(~valid, torch.finfo(negatives.dtype).min)
    everything = torch.cat([target.unsqueeze(-1), others], dim=-1)
    return mean_where(everything.logsumexp(dim=-1) - target, chosen, empty=empty)


def position_loss(
    similarities: Tensor,
    cells: Tensor,
    positive: Tensor | None,
    negatives: Tensor,
    valid: Tensor,
    *,
    empty: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of a present finding's anatomy against sampled others, by plain dot products.

    Args:
        similarities: ``[B, Q, 51]``, projected query features times the anatomy book.
        cells: ``[B, Q, 51]`` triplet cells; the mean is over queries with a present one.
        positive: ``[B, Q]`` index of a present anatomy; ``None`` takes the mean of all present ones.
        negatives: ``[B, Q, N]`` indices; ``valid``, of the same shape, says which count.
    """
    if positive is None:
        target = prototype_similarity(similarities, cells)
    else:
        target = similarities.gather(-1, positive.unsqueeze(-1)).squeeze(-1)
    others = similarities.gather(-1, negatives)
    return candidate_loss(target, others, valid, existence_labels(cells).eq(1), empty=empty)
