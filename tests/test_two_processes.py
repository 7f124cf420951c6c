"""Two processes train to the weights of one process with the same global batch, through the real loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import STEPS, TRAINED, difference, train, train_all, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="where there is a GPU, tests/test_gpu.py does it there"
    ),
]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all methods in two processes, which are started once."""
    return train_all(tmp_path_factory.mktemp("two"), processes=2)


@pytest.mark.parametrize("method", TRAINED)
def test_two_processes_train_to_the_weights_of_one(method: str, by_two: Path, tmp_path: Path) -> None:
    train(method, tmp_path / method)
    of_weights, of_way = difference(method, weights(tmp_path, method), weights(by_two, method))
    assert of_weights <= 1e-5
    assert of_way <= 1e-2
    done = [json.loads((folder / method / "done.json").read_text()) for folder in (tmp_path, by_two)]
    assert [entry["processes"] for entry in done] == [1, 2]
    assert [entry["steps"] for entry in done] == [STEPS, STEPS]
    assert done[1]["validation_loss"] == pytest.approx(done[0]["validation_loss"], rel=1e-4)
    assert np.isfinite(done[0]["validation_loss"])
