"""Short runs of every method that learns, in one or several processes, on the CPU or on a GPU."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import doubles
import harness_doubles
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed, multiprocessing

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
"""Dropout is the one draw that belongs to a process and to a device."""

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
    """One run in this process, on the device that ``pretrain`` takes."""
    torch.set_num_threads(1)
    pretrain(configuration(method), data(), doubles.text_encoder(), out, progress=False)


def train_all(folder: Path, *, processes: int = 1, device: str = "cpu") -> Path:
    """A run of each method in ``TRAINED``, by new processes that share them; several share one GPU.

    Returns:
        The folder, with a run's folder for each method.
    """
    port = 31500 + os.getpid() % 2000
    multiprocessing.spawn(_process, args=(processes, port, str(folder), device), nprocs=processes)
    return folder


def _process(rank: int, processes: int, port: int, folder: str, device: str) -> None:
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.backends.cudnn.allow_tf32 = False
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ["LOCAL_RANK"] = str(rank) if device == "cpu" else "0"
        # Here, because NCCL, which a GPU would get otherwise, refuses two processes of one GPU.
        distributed.init_process_group("gloo")
    for method in TRAINED:
        train(method, Path(folder) / method)
    if processes > 1:
        distributed.destroy_process_group()


def weights(folder: Path, method: str) -> dict[str, Tensor]:
    """What a run of ``train_all`` ended with."""
    return load_file(folder / method / "weights.safetensors")


def difference(method: str, first: dict[str, Tensor], second: dict[str, Tensor]) -> tuple[float, float]:
    """Norm of the difference of two runs' weights, as a share of their norm and of the way they went."""
    start = build_method(configuration(method), doubles.text_encoder(), data().label_names).state_dict()
    floating = [name for name, value in first.items() if value.is_floating_point()]
    one, two, before = (
        torch.cat([state[name].flatten().double() for name in floating]) for state in (first, second, start)
    )
    apart = float((one - two).norm())
    return apart / float(one.norm()), apart / float((one - before).norm())
