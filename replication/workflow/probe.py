"""How fast a method trains on this machine, found with a few steps on random images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from replication.checkpoints import build_method
from replication.config import RunConfig
from replication.data.batches import PreparedData
from replication.data.manifest import LABEL
from replication.devices import compute_device, device_name, preparing_processes
from replication.errors import UserError
from replication.knowledge.descriptions import load_descriptions
from replication.knowledge.random_encoder import random_text_encoder
from replication.knowledge.text_encoder import TextEncoder
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES
from replication.method import Batch
from replication.network_config import TextConfig
from replication.registry import method_class
from replication.training import Objective, make_optimiser, too_large
from replication.workflow.plan import Run, Workspace, run_config, trained_as
from replication.workflow.speed import Speed

_STEPS = 3
_CPU_BATCH = 8
"""Images of a step on a CPU, where larger batches are not faster."""
_SENTENCES = 4
_LABELS = 14


def probe_all(workspace: Workspace, chosen: Sequence[Run]) -> Iterator[tuple[str, Speed | UserError]]:
    """Probe every method or variant that learns, once; the speed, or why there is none."""
    first = {run.label: run for run in reversed(chosen)}
    for label, run in reversed(first.items()):
        if method_class(label.partition("/")[0]).supervision == "none" or trained_as(workspace, run) != run:
            continue
        try:
            yield label, probe(run_config(workspace, run), threads=workspace.tier.threads)
        except UserError as error:
            yield label, error


def probe(config: RunConfig, *, threads: int, steps: int = _STEPS) -> Speed:
    """Time training steps of a configuration, behind a first one that warms up.

    Images, reports and triplets are random, and so are all weights: none of this changes the speed, and no
    file has to be there. Augmentation counts, reading from disk does not. Where processes prepare batches
    ahead, the slower of preparing and training is the speed. Images that do not fit into the memory of a GPU
    are halved until they do, as if several GPUs shared a step.

    Raises:
        ConfigError, CheckpointError: the method needs a file that is not there.
        UserError: not even one image fits into the memory of the GPU.
    """
    device = compute_device()
    training = config.training
    asked = training.batch_size // training.accumulation
    size = asked if device.type == "cuda" else min(asked, _CPU_BATCH)
    trunk = config.trunk.model_copy(update={"weights": "random"})
    config = config.model_copy(update={"trunk": trunk})
    note = ""
    while True:
        try:
            preparing, learning = _rates(config, size, steps, threads, device)
            break
        except torch.OutOfMemoryError:
            note = f"; {asked} do not fit into its memory"
        torch.cuda.empty_cache()
        if size == 1:
            raise too_large(config, device)
        size //= 2
    ahead = preparing_processes(threads)
    rate = min(ahead * preparing, learning) if ahead else 1 / (1 / preparing + 1 / learning)
    if ahead and rate < learning:
        note += f"; held up by {ahead} processes that augment, {learning:.0f} images/s without"
    source = f"probe of {steps} steps of {size} images{note}"
    return Speed(config.label, config.recipe, round(rate, 3), device_name(device), threads, source)


def _rates(
    config: RunConfig, size: int, steps: int, threads: int, device: torch.device
) -> tuple[float, float]:
    """Images per second of one process that prepares batches, and of training on what is prepared."""
    training = config.training
    data = random_data(size, config.image_size, seed=config.seed)
    torch.set_num_threads(1 if preparing_processes(threads) else threads)
    began = time.monotonic()
    batches = [
        data.batch(np.arange(size), augmentation=training.augmentation, seed=step) for step in range(steps)
    ]
    preparing = steps * size / (time.monotonic() - began)
    torch.set_num_threads(threads)
    method = build_method(config, _text_encoder(config.text), data.label_names)
    method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [group for group in method.parameter_groups(training.optimiser.weight_decay) if group["params"]]
    objective = Objective(method, training.precision).train()
    optimiser = make_optimiser(groups, training.optimiser)

    def step(batch: Batch) -> None:
        total, _ = objective(batch.to(device))
        total.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    step(batches[0])
    began = time.monotonic()
    for batch in batches:
        step(batch)
    return preparing, steps * size / (time.monotonic() - began)


def random_data(images: int, size: int, *, seed: int) -> PreparedData:
    """Prepared data of noise: ``size`` pixels a side, with a report and a triplet matrix each."""
    rng = np.random.default_rng(seed)
    rows = np.arange(images)
    names = [f"noise{row:04d}" for row in rows]
    labels = rng.integers(0, 2, (images, _LABELS)).astype(np.int8)
    sentences = load_descriptions("own")
    manifest = pd.DataFrame(
        {
            "sample_id": names,
            "patient_id": names,
            "study_id": names,
            "split": "train",
            "cache_row": rows,
            "mask_row": -1,
            "triplet_row": rows,
            "boxes": "[]",
            **{f"{LABEL}{number}": labels[:, number] for number in range(_LABELS)},
        }
    )
    return PreparedData(
        folder=Path("noise"),
        manifest=manifest,
        images=rng.integers(0, 256, (images, size, size), dtype=np.uint8),
        masks=None,
        triplets=_random_triplets(images, rng),
        reports={name: " ".join(rng.choice(sentences, _SENTENCES)) for name in names},
        labels=labels,
        provenance={},
    )


def _random_triplets(images: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """``[images, 51, 75]`` with about ten present and ten absent cells an image, as reports have."""
    shape = (images, len(ANATOMIES), len(PATHOLOGIES))
    share = 10 / (len(ANATOMIES) * len(PATHOLOGIES))
    return rng.choice(np.array([-1, 0, 1], dtype=np.int8), shape, p=[1 - 2 * share, share, share])


def _text_encoder(text: TextConfig) -> TextEncoder:
    if text.kind == "tiny-bert":
        return random_text_encoder(hidden=text.hidden, layers=text.layers, heads=text.heads)
    return random_text_encoder()
