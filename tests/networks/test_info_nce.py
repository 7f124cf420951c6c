"""The shared contrastive loss, against the stored reference, a slow twin, and two processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn import functional

from replication.networks.distributed import mean_where
from replication.networks.losses import info_nce


def literal(v: torch.Tensor, u: torch.Tensor, keep: list[bool], same: list[int]) -> torch.Tensor:
    v, u = functional.normalize(v, dim=-1), functional.normalize(u, dim=-1)
    losses = []
    for i in range(len(v)):
        if not keep[i]:
            continue
        others = [j for j in range(len(v)) if j == i or (keep[j] and same[j] != same[i])]
        to_text = torch.stack([v[i] @ u[j] / 0.1 for j in others]).logsumexp(0) - v[i] @ u[i] / 0.1
        to_image = torch.stack([v[j] @ u[i] / 0.1 for j in others]).logsumexp(0) - v[i] @ u[i] / 0.1
        losses.append(0.75 * to_text + 0.25 * to_image)
    return torch.stack(losses).mean()


def test_left_out_pairs_and_duplicates() -> None:
    torch.manual_seed(0)
    v, u = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8)
    keep, same = [True, True, False, True, True, True], [1, 2, 3, 1, 4, 5]
    ours = info_nce(
        v, u, temperature=0.1, image_weight=0.75, keep=torch.tensor(keep), same=torch.tensor(same)
    )
    expected = literal(v, u, keep, same)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    ours_grad, theirs_grad = (torch.autograd.grad(loss, v)[0] for loss in (ours, expected))
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-4, atol=1e-6)
    assert torch.equal(ours_grad[2], torch.zeros(8))


def test_plain_dot_products() -> None:
    torch.manual_seed(0)
    v, u = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8)
    logits, target = v @ u.T / 0.5, torch.arange(5)
    expected = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    ours = info_nce(v, u, temperature=0.5, normalise=False)
    torch.testing.assert_close(ours, expected)
    ours_grad, theirs_grad = (torch.autograd.grad(loss, v)[0] for loss in (ours, expected))
    torch.testing.assert_close(ours_grad, theirs_grad)


def test_no_pair_at_all_gives_zero() -> None:
    v = torch.randn(3, 4, requires_grad=True)
    loss = info_nce(v, torch.randn(3, 4), temperature=0.1, keep=torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert v.grad is not None
    assert torch.isfinite(v.grad).all()


def _global_gradients(features: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Gradient of both losses with respect to a shared weight, as data-parallel training averages it."""
    weight = weights.clone().requires_grad_()
    projected = features @ weight
    loss = info_nce(projected, features, temperature=0.5) + mean_where(projected.square().sum(-1), mask)
    (gradient,) = torch.autograd.grad(loss, weight)
    if distributed.is_initialized():
        distributed.all_reduce(gradient)
        gradient /= distributed.get_world_size()
    return gradient


def _process(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    data = torch.load(f"{folder}/data.pt", weights_only=True)
    half = slice(4 * rank, 4 * rank + 4)
    gradient = _global_gradients(data["features"][half], data["weights"], data["mask"][half])
    torch.save(gradient, f"{folder}/gradient{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mask = torch.tensor([True, False, True, True, False, False, False, True])
    data = {"features": torch.randn(8, 5), "weights": torch.randn(5, 5), "mask": mask}
    torch.save(data, tmp_path / "data.pt")
    port = 29500 + os.getpid() % 2000
    multiprocessing.spawn(_process, args=(port, str(tmp_path)), nprocs=2)
    expected = _global_gradients(data["features"], data["weights"], data["mask"])
    for rank in range(2):
        ours = torch.load(tmp_path / f"gradient{rank}.pt", weights_only=True)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
