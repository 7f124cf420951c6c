"""How fast a method trains on this machine, found with a few steps on random images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from replication.checkpoints import build_method
from replication.config import RunConfig
from replication.data.batches import PreparedData
from replication.data.manifest import LABEL
from replication.errors import UserError
from replication.knowledge.descriptions import load_descriptions
from replication.knowledge.random_encoder import random_text_encoder
from replication.knowledge.text_encoder import TextEncoder
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES
from replication.method import Batch
from replication.network_config import TextConfig
from replication.registry import method_class
from replication.training import Objective, device_name, make_optimiser
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
    file has to be there. Augmentation counts, reading from disk does not.

    Raises:
        ConfigError, CheckpointError: the method needs a file that is not there.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = config.training
    size = training.batch_size // training.accumulation
    size = size if device.type == "cuda" else min(size, _CPU_BATCH)
    data = random_data(size, config.image_size, seed=config.seed)
    trunk = config.trunk.model_copy(update={"weights": "random"})
    config = config.model_copy(update={"trunk": trunk})
    method = build_method(config, _text_encoder(config.text), data.label_names).to(device)
    groups = [group for group in method.parameter_groups(training.optimiser.weight_decay) if group["params"]]
    objective = Objective(method, training.precision).train()
    optimiser = make_optimiser(groups, training.optimiser)
    began = 0.0
    for step in range(steps + 1):
        batch = data.batch(np.arange(size), augmentation=training.augmentation, seed=step)
        total, _ = objective(_moved(batch, device))
        total.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step == 0:
            began = time.monotonic()
    rate = round(steps * size / (time.monotonic() - began), 3)
    source = f"probe of {steps} steps of {size} images"
    return Speed(config.label, config.recipe, rate, device_name(device), threads, source)


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
        triplets=rng.integers(-1, 2, (images, len(ANATOMIES), len(PATHOLOGIES))).astype(np.int8),
        reports={name: " ".join(rng.choice(sentences, _SENTENCES)) for name in names},
        labels=labels,
        provenance={},
    )


def _moved(batch: Batch, device: torch.device) -> Batch:
    return replace(
        batch,
        images=batch.images.to(device),
        triplets=batch.triplets.to(device),
        labels=batch.labels.to(device),
    )


def _text_encoder(text: TextConfig) -> TextEncoder:
    if text.kind == "tiny-bert":
        return random_text_encoder(hidden=text.hidden, layers=text.layers, heads=text.heads)
    return random_text_encoder()
