"""ProtoCL and ICL against slow literal twins, gradients included."""

from __future__ import annotations

import pytest
import torch
from doubles import triplets
from torch import nn
from torch.nn import functional

from medslip import losses
from replication.draws import Draws
from replication.networks.triplet_losses import sample_negatives


def literal_protocl(
    features: torch.Tensor,
    projection: nn.Linear,
    book: torch.Tensor,
    cells: torch.Tensor,
    index: torch.Tensor,
) -> torch.Tensor:
    """One positive at a time, with an explicit prototype in the text space."""
    values = []
    projected = projection(features)
    for b in range(cells.shape[0]):
        for q in range(cells.shape[1]):
            present = [k for k in range(cells.shape[2]) if cells[b, q, k] == 1]
            if not present:
                continue
            prototype = torch.stack([book[k].double() for k in present]).mean(0).float()
            candidates = torch.stack([prototype, *(book[k] for k in index[b, q])])
            logits = candidates @ projected[b, q]
            values.append(functional.cross_entropy(logits, torch.tensor(0)))
    return torch.stack(values).mean()


@pytest.mark.parametrize("stream", ["pathology", "anatomy"])
def test_protocl_equals_its_twin(stream: str) -> None:
    torch.manual_seed(0)
    cells = triplets(2)
    cells = cells.transpose(1, 2) if stream == "pathology" else cells
    queries, rows = cells.shape[1:]
    features, book = torch.randn(2, queries, 8, requires_grad=True), 0.5 * torch.randn(rows, 24)
    projection = nn.Linear(8, 24)
    negatives, valid = sample_negatives(cells, 7, "not_one", Draws(1, len(cells)))
    expected = literal_protocl(features, projection, book, cells, negatives)
    similarities = features @ (book @ projection.weight).T + book @ projection.bias
    ours = losses.protocl(similarities, cells, negatives, valid)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    inputs = [features, projection.weight, projection.bias]
    theirs_grads = torch.autograd.grad(expected, inputs)
    for mine, theirs in zip(torch.autograd.grad(ours, inputs), theirs_grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_icl_equals_its_twin() -> None:
    torch.manual_seed(0)
    cells = triplets(2)
    anatomy = torch.randn(2, 51, 8, requires_grad=True)
    pathology = torch.randn(2, 75, 8, requires_grad=True)
    values = []
    for b, a, i in (cells >= 0).nonzero().tolist():
        logit = 0.3 * (anatomy[b, a] * pathology[b, i]).sum()
        values.append(functional.binary_cross_entropy_with_logits(logit, cells[b, a, i].float()))
    expected = torch.stack(values).mean()
    ours = losses.icl(losses.icl_logits(anatomy, pathology, 0.3), cells)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    theirs_grads = torch.autograd.grad(expected, [anatomy, pathology])
    for mine, theirs in zip(torch.autograd.grad(ours, [anatomy, pathology]), theirs_grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_batch_with_nothing_to_say() -> None:
    cells = torch.full((2, 51, 75), -1, dtype=torch.int8)
    logits = torch.randn(2, 51, 75, requires_grad=True)
    negatives, valid = sample_negatives(cells, 7, "not_one", Draws(1, len(cells)))
    total = losses.icl(logits, cells) + losses.protocl(logits, cells, negatives, valid)
    (gradient,) = torch.autograd.grad(total, logits)
    assert total.item() == 0
    assert torch.equal(gradient, torch.zeros_like(logits))
    assert losses.icl(logits, cells, empty=float("nan")).isnan()
    assert losses.protocl(logits, cells, negatives, valid, empty=float("nan")).isnan()


def test_no_tensor_of_all_pairs_and_text_features() -> None:
    """The largest tensor of a step is far below [B, 51, 75, D]."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for value in result if isinstance(result, list | tuple) else [result]:
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return result

    cells = triplets(4)
    features, book, projection = torch.randn(4, 51, 64), torch.randn(75, 768), nn.Linear(64, 768)
    with Watch():
        negatives, valid = sample_negatives(cells, 7, "not_one", Draws(1, len(cells)))
        similarities = features @ (book @ projection.weight).T + book @ projection.bias
        losses.protocl(similarities, cells, negatives, valid)
        losses.icl(losses.icl_logits(features, torch.randn(4, 75, 64), 1.0), cells)
    assert largest < 4 * 51 * 768
