"""Two processes give the gradient of one process with the global batch, for whole methods."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from doubles import batch, ingredients
from torch import Tensor, distributed, multiprocessing

from replication.method import Batch, Method
from replication.registry import method_class

METHODS = {
    "baselines.carzero:CARZero": {
        "d_model": 16,
        "decoder_layers": 2,
        "heads": 2,
        "feedforward": 16,
        "dropout": 0.0,
    },
    "baselines.mflag:MFLAG": {"projection_dim": 16},
    "baselines.gloria:GLoRIA": {},
    "baselines.mgca:MGCA": {"projection_dim": 16, "prototypes": 20},
}
# One sentence each, so that nothing is drawn; of different lengths, and one image has no report.
REPORTS = (
    "No pneumothorax is seen.",
    "The heart is enlarged.",
    "",
    "There is a small left pleural effusion.",
    "The lungs are clear.",
    "Right lower lobe pneumonia.",
)


def build(target: str) -> Method:
    """In evaluation mode: statistics of a batch normalisation are each process's own in training."""
    torch.manual_seed(0)
    kind = method_class(target)
    return kind.build(kind.settings_class.model_validate(METHODS[target]), ingredients()).eval()


def part(rows: slice) -> Batch:
    whole = batch(len(REPORTS), side=32)
    return Batch(whole.images[rows], REPORTS[rows], whole.triplets[rows], whole.labels[rows])


def gradient(model: Method, data: Batch) -> tuple[Tensor, Tensor]:
    """Loss, and the gradient as data-parallel training averages it."""
    total = model.loss(data).total
    total.backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    if distributed.is_initialized():
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
    return total.detach(), flat


def _process(rank: int, port: int, folder: str, target: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(gradient(build(target), part(slice(3 * rank, 3 * rank + 3))), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("target", METHODS)
def test_two_processes_give_the_gradient_of_one(target: str, tmp_path: Path) -> None:
    port = 31500 + os.getpid() % 2000
    multiprocessing.spawn(_process, args=(port, str(tmp_path), target), nprocs=2)
    loss, expected = gradient(build(target), part(slice(None)))
    assert expected.abs().max() > 0
    losses = []
    for rank in range(2):
        value, ours = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)
        losses.append(value)
    torch.testing.assert_close(torch.stack(losses).mean(), loss, rtol=1e-4, atol=1e-5)
