"""What a tier will take: disk for caches, weights and predictions, and time for pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from replication.config import RunConfig
from replication.data.plan import cache_bytes
from replication.networks.image_trunk import build_trunk
from replication.registry import method_class
from replication.workflow.facts import GIGABYTE, extent, published
from replication.workflow.plan import Run, Workspace, datasets, run_config, trained_as
from replication.workflow.speed import Speed

_BERT_BASE = 110_000_000
_FLOAT = 4
_HEADS = 1.25
"""Decoders and projections, as a share of trunk and text encoder; chexzero, the largest, has none."""
_STATE = 4
"""A run under way holds its weights, two moments of Adam, and the best weights so far."""
_BYTES_PER_GENERATED_PIXEL = 2
_PREDICTIONS_PER_IMAGE = 1000
"""Bytes per evaluated image and run; zero-shot tasks took 260 on the phantom, transfer tasks add theirs."""


@dataclass(frozen=True)
class Disk:
    """Bytes.

    Attributes:
        raw: to download, for data sets of known size that are not there; ``generated`` are a phantom's.
        caches: by data set.
        unknown: data sets that are not there and whose size is not on record.
    """

    raw: Mapping[str, int]
    generated: int
    caches: Mapping[str, int]
    weights: int
    predictions: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """Of what is written here; downloaded data may lie elsewhere."""
        return self.generated + sum(self.caches.values()) + self.weights + self.predictions


def disk(workspace: Workspace, runs: Sequence[Run]) -> Disk:
    """What the work and results folders of a tier will hold at most."""
    tier = workspace.tier
    raw, caches, unknown, generated, evaluated = {}, {}, [], 0, 0
    for dataset in datasets(tier):
        size = extent(workspace, dataset)
        if size is None:
            unknown.append(dataset)
            continue
        caches[dataset] = cache_bytes(size.images, size.masks, size.studies, tier.image_size)
        evaluated += size.images if dataset != tier.pretrain else 0
        if tier.phantom is not None:
            generated += _BYTES_PER_GENERATED_PIXEL * size.images * tier.phantom.image_size**2
        elif not workspace.raw(dataset).exists():
            gigabytes = published()[dataset].gigabytes if dataset in published() else None
            if gigabytes is None:
                unknown.append(dataset)
            else:
                raw[dataset] = int(gigabytes * GIGABYTE)
    one = {run.label: weight_bytes(run_config(workspace, run)) for run in runs}
    weights = sum(one[run.label] for run in runs) + _STATE * max(one.values(), default=0)
    predictions = len(runs) * evaluated * _PREDICTIONS_PER_IMAGE
    return Disk(raw, generated, caches, weights, predictions, tuple(unknown))


def weight_bytes(config: RunConfig) -> int:
    """Of the weights of a run, at most: its trunk, a text encoder of its own, and heads."""
    with torch.device("meta"):
        trunk = build_trunk(config.trunk.model_copy(update={"weights": "random"}), config.image_size)
    text = config.text
    tiny = text.hidden * (text.vocabulary_size + 12 * text.layers * text.hidden)
    numbers = sum(p.numel() for p in trunk.parameters()) + (tiny if text.kind == "tiny-bert" else _BERT_BASE)
    return int(_HEADS * _FLOAT * numbers)


@dataclass(frozen=True)
class Cost:
    """Pre-training of a method, all seeds together.

    Attributes:
        images: seen in training, per run; ``None`` where the number of training images is not known.
        speed: ``None`` where none is known.
    """

    label: str
    runs: int
    images: int | None
    speed: Speed | None

    @property
    def hours(self) -> float | None:
        """Wall-clock hours on the device of the speed."""
        if self.images is None or self.speed is None:
            return None
        return self.runs * self.images / self.speed.images_per_second / 3600


def training_costs(
    workspace: Workspace, runs: Sequence[Run], speeds: Mapping[tuple[str, str], Speed]
) -> list[Cost]:
    """What pre-training takes, a line per method or variant that learns and is not done."""
    size = extent(workspace, workspace.tier.pretrain)
    train = None if size is None else size.train
    todo = [
        run
        for run in runs
        if trained_as(workspace, run) == run
        and method_class(run.label.partition("/")[0]).supervision != "none"
        and not (workspace.run(run) / "done.json").is_file()
    ]
    costs = []
    for label in dict.fromkeys(run.label for run in todo):
        same = [run for run in todo if run.label == label]
        training = run_config(workspace, same[0]).training
        images = None
        if train is not None:
            whole = min(training.batch_size, train)
            images = training.epochs * (train // whole) * whole if whole else 0
        costs.append(Cost(label, len(same), images, speeds.get((label, same[0].recipe))))
    return costs
