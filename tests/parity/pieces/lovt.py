"""LoVT: its global and local losses, cross-attention and attention pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from baselines.lovt import CrossAttention, local_losses, near_cells
from pieces import Check, piece
from replication.networks.attention_pool import MeanQueryPool
from replication.networks.losses import info_nce


@piece("lovt_global")
def _global(stored: dict[str, Any]) -> Iterator[Check]:
    a, b = stored["a"].clone().requires_grad_(), stored["b"].clone().requires_grad_()
    for weight, theirs in zip((1.0, 0.0), stored["cross_modal[a2b,b2a]"], strict=True):
        ours = info_nce(a, b, temperature=stored["tau"], image_weight=weight)
        yield Check(f"image weight {weight}", ours, theirs)
    total = info_nce(a, b, temperature=stored["tau"], image_weight=0.75)
    gradients = torch.autograd.grad(total, [a, b])
    for number, (ours, theirs) in enumerate(zip(gradients, stored["grads_of_.75a2b+.25b2a"], strict=True)):
        yield Check(f"gradient {number}", ours, theirs)


@piece("lovt_local")
def _local(stored: dict[str, Any]) -> Iterator[Check]:
    scan, report = stored["scan"], stored["report"]
    positives = near_cells(*scan["grid"], scan["thr"], scan["lam"])
    yield Check("positives", positives, scan["pos_weights"])
    for part, own in ((scan, positives), (report, torch.eye(report["a"].shape[1]))):
        a, b = part["a"].clone().requires_grad_(), part["b"].clone().requires_grad_()
        mask = part.get("mask", torch.ones_like(part["weights"], dtype=torch.bool))
        both = local_losses(a, b, own, part["weights"], mask, temperature=part["tau"])
        for name, values, theirs in zip(("a to b", "b to a"), both, part["loss_ab_ba"], strict=True):
            yield Check(name, values.mean(), theirs)
        if "grads" in part:
            gradients = torch.autograd.grad((both[0] + both[1]).mean(), [a, b])
            for ours, theirs in zip(gradients, part["grads"], strict=True):
                yield Check("gradient", ours, theirs)


@piece("lovt_cross_attention")
def _cross_attention(stored: dict[str, Any]) -> Iterator[Check]:
    attention = CrossAttention(stored["a"].shape[-1])
    after = stored["sd"]
    attention.load_state_dict(after)
    # The stored statistics are those after the step; before it they were those of a fresh layer.
    attention.norm.running_mean.zero_()
    attention.norm.running_var.fill_(1)
    attention.norm.num_batches_tracked.zero_()
    attention.train()
    b2a, a2b, (probs_b2a, probs_a2b) = attention(stored["a"], stored["b"], stored["mask_b"], padded=True)
    for name, ours in (("b2a", b2a), ("a2b", a2b), ("probs_b2a", probs_b2a), ("probs_a2b", probs_a2b)):
        yield Check(name, ours, stored[name])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        yield Check(name, attention.state_dict()[f"norm.{name}"], after[f"norm.{name}"])


@piece("lovt_avg_attention_pool")
def _pool(stored: dict[str, Any]) -> Iterator[Check]:
    pool = MeanQueryPool(stored["x"].shape[-1], stored["heads"])
    pool.load_state_dict(stored["sd"])
    mask = stored["mask"]
    pooled, weights = pool(stored["x"] * mask.unsqueeze(-1), mask, padded=True)
    yield Check("pooled", pooled, stored["out"])
    yield Check("weights", weights, stored["weights"])
