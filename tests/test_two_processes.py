"""Two processes train to the weights of one process with the same global batch, through the real loop."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import doubles
import harness_doubles
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing

from replication.checkpoints import build_method
from replication.config import RunConfig, resolve
from replication.data.batches import PreparedData
from replication.registry import METHODS, method_class, names
from replication.tier_config import load_tier
from replication.training import pretrain
from replication.training_config import OptimiserConfig, TrainingConfig

UNTRAINED = ("random", "imagenet")
TRAINED = [name for name in names(METHODS) if name not in UNTRAINED]
STEPS, BATCH = 10, 8
SMALL = {"projection_dim": 16, "prototypes": 20, "d_model": 16, "heads": 2, "feedforward": 16}
"""Settings of methods that have them."""
WITHOUT_DROPOUT = {"dropout": 0.0, "image_dropout": 0.0}
"""Dropout is the one draw that belongs to a process."""

REPORTS = (
    *doubles.REPORTS,
    "No pneumothorax is seen.",
    "",
    "FINDINGS: A small effusion. Clear lungs.\n\nIMPRESSION: No pneumonia. The heart is enlarged.",
)


def data() -> PreparedData:
    """Images with triplets, validation images, a report in most studies; the same in every process."""
    patients = STEPS * BATCH // 2 + 8
    splits = ("train",) * (STEPS * BATCH // 2) + ("val",) * 8
    cells = doubles.triplets(2 * patients).numpy()
    made = harness_doubles.prepared(patients, splits=splits, triplets=cells)
    reports = {str(study): REPORTS[k % len(REPORTS)] for k, study in enumerate(made.manifest["study_id"])}
    return dataclasses.replace(made, reports=reports)


def configuration(method: str) -> RunConfig:
    """The smoke tier's run of a method, with thinner layers and with no rounding to bf16."""
    tier = load_tier("smoke")
    settings = method_class(method).settings_class
    config = resolve(tier, method, 0, settings_class=settings)
    small = {
        name: value for name, value in (SMALL | WITHOUT_DROPOUT).items() if name in settings.model_fields
    }
    # Not Adam, which makes a whole step of a gradient that is nothing but rounding, as that of keys' biases.
    optimiser = OptimiserConfig(name="sgd", lr=1e-4, min_lr=1e-5, weight_decay=0.0)
    training = TrainingConfig(epochs=1, batch_size=BATCH, precision="fp32", optimiser=optimiser)
    return config.model_copy(
        update={
            "image_size": harness_doubles.SIDE,
            "trunk": harness_doubles.run_config().trunk,
            "model": config.model | small,
            "training": training,
        }
    )


def train(method: str, out: Path) -> None:
    torch.set_num_threads(1)
    pretrain(configuration(method), data(), doubles.text_encoder(), out, progress=False)


def _process(rank: int, port: int, folder: str, methods: list[str]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    for method in methods:
        train(method, Path(folder) / method)
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all methods in two processes, which are started once."""
    folder = tmp_path_factory.mktemp("two")
    port = 31500 + os.getpid() % 2000
    multiprocessing.spawn(_process, args=(port, str(folder), TRAINED), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_two_processes_train_to_the_weights_of_one(method: str, by_two: Path, tmp_path: Path) -> None:
    train(method, tmp_path / method)
    one, two = (load_file(folder / method / "weights.safetensors") for folder in (tmp_path, by_two))
    start = build_method(configuration(method), doubles.text_encoder(), data().label_names).state_dict()
    floating = [name for name, value in one.items() if value.is_floating_point()]
    first, second, before = (
        torch.cat([weights[name].flatten().double() for name in floating]) for weights in (one, two, start)
    )
    difference = float((first - second).norm())
    assert difference <= 1e-5 * float(first.norm())
    assert difference <= 1e-2 * float((first - before).norm())
    done = [json.loads((folder / method / "done.json").read_text()) for folder in (tmp_path, by_two)]
    assert [entry["processes"] for entry in done] == [1, 2]
    assert [entry["steps"] for entry in done] == [STEPS, STEPS]
    assert done[1]["validation_loss"] == pytest.approx(done[0]["validation_loss"], rel=1e-4)
    assert np.isfinite(done[0]["validation_loss"])
