"""Every method on a GPU: as on the CPU up to rounding, the same twice, and shared by two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_runs import TRAINED, difference, train_all, weights
from torch import nn

from replication.devices import compute_device

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_all(tmp_path_factory.mktemp("cpu"))


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_all(tmp_path_factory.mktemp("gpu"), device="cuda")


@pytest.fixture(scope="module")
def on_gpu_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_all(tmp_path_factory.mktemp("again"), device="cuda")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes of one GPU, which talk through gloo."""
    return train_all(tmp_path_factory.mktemp("two"), processes=2, device="cuda")


@pytest.mark.parametrize("method", TRAINED)
def test_a_gpu_trains_to_the_weights_of_the_cpu(method: str, on_cpu: Path, on_gpu: Path) -> None:
    of_weights, of_way = difference(method, weights(on_cpu, method), weights(on_gpu, method))
    assert of_weights <= 1e-5
    assert of_way <= 1e-2
    used = json.loads((on_gpu / method / "done.json").read_text())["device"]
    assert used == torch.cuda.get_device_name(0)


@pytest.mark.parametrize("method", TRAINED)
def test_twice_on_a_gpu_gives_the_same_weights(method: str, on_gpu: Path, on_gpu_again: Path) -> None:
    first, second = weights(on_gpu, method), weights(on_gpu_again, method)
    unlike = [name for name in first if not torch.equal(first[name], second[name])]
    assert not unlike, difference(method, first, second)


@pytest.mark.parametrize("method", TRAINED)
def test_two_processes_train_to_the_weights_of_one(method: str, on_gpu: Path, by_two: Path) -> None:
    of_weights, of_way = difference(method, weights(on_gpu, method), weights(by_two, method))
    assert of_weights <= 1e-5
    assert of_way <= 1e-2


def test_gradients_of_word_embeddings_are_the_same_twice() -> None:
    """With so many words, and so few different ones, that torch would add them up in any order by default."""
    embedding = nn.Embedding(2000, 128).to(compute_device())
    words = torch.randint(0, 20, (64, 100), device=embedding.weight.device)
    upstream = torch.randn(64, 100, 128, device=embedding.weight.device)
    first, *others = (torch.autograd.grad(embedding(words), embedding.weight, upstream)[0] for _ in range(10))
    assert all(torch.equal(first, other) for other in others)
