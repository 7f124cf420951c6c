"""Ratios measured side by side in one run: `.venv/bin/python -m pytest tests/benchmarks --benchmark-enable`.

Nothing here asserts seconds; pytest-benchmark prints the groups with their ratios.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medslip import losses
from replication.draws import Draws
from replication.networks.triplet_losses import sample_negatives

BATCH = 16


def example(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [B, 75, 64], an anatomy book [51, 64] in their space, and cells [B, 75, 51]."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(batch, 75, 51, generator=generator)
    cells = torch.full((batch, 75, 51), -1, dtype=torch.int8)
    cells[draws < 0.01], cells[draws > 0.97] = 1, 0
    features = torch.randn(batch, 75, 64, generator=generator, requires_grad=True)
    return features, torch.randn(51, 64, generator=generator), cells


@pytest.mark.benchmark(group="ProtoCL forward and backward")
def test_protocl_closed_form(benchmark: Any) -> None:
    features, book, cells = example(BATCH)
    negatives, valid = sample_negatives(cells, 7, "not_one", Draws(1, len(cells)))

    def step() -> float:
        loss = losses.protocl(features @ book.T, cells, negatives, valid)
        (gradient,) = torch.autograd.grad(loss, features)
        return float(gradient.abs().sum())

    assert benchmark(step) > 0


@pytest.mark.benchmark(group="ProtoCL forward and backward")
def test_protocl_one_positive_at_a_time(benchmark: Any) -> None:
    features, book, cells = example(BATCH)
    negatives, _ = sample_negatives(cells, 7, "not_one", Draws(1, len(cells)))

    def step() -> float:
        values = []
        for b, q in (cells == 1).any(-1).nonzero().tolist():
            prototype = book[cells[b, q] == 1].mean(0, keepdim=True)
            candidates = torch.cat([prototype, book[negatives[b, q]]])
            logits = (candidates @ features[b, q])[None]
            values.append(torch.nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.long)))
        (gradient,) = torch.autograd.grad(torch.stack(values).mean(), features)
        return float(gradient.abs().sum())

    assert benchmark(step) > 0
