"""Small stand-ins for a method and for prepared data, for tests of what lies above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from replication.config import RunConfig
from replication.data.batches import PreparedData
from replication.data.boxes import Box, boxes_to_json
from replication.method import Batch, Finding, Ingredients, Losses, Method, Settings
from replication.network_config import TextConfig, TrunkConfig
from replication.networks.image_trunk import ResNetTrunk
from replication.protocol_config import Protocol
from replication.training_config import OptimiserConfig, TrainingConfig

SIDE = 32
SQUARE = 12


class TinySettings(Settings):
    dropout: float = 0.2
    explode_at: int = -1


class TinyMethod(Method):
    """Learns the labels through a trunk, dropout and a noisy target: it uses every source of randomness."""

    name = "tiny"
    supervision = "labels"
    heatmap_kind = "native"
    settings_class = TinySettings

    def __init__(self, settings: TinySettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.trunk = ingredients.trunk
        self.head = nn.Linear(self.trunk.channels, len(ingredients.label_names))
        self.tied = self.head  # weights under two names, as the shared norm of the released model
        self.dropout = nn.Dropout(settings.dropout)
        self.settings = settings
        self.label_names = ingredients.label_names
        self.calls = 0

    @classmethod
    def build(cls, settings: Settings, ingredients: Ingredients) -> TinyMethod:
        assert isinstance(settings, TinySettings)
        return cls(settings, ingredients)

    def loss(self, batch: Batch) -> Losses:
        if self.calls == self.settings.explode_at:
            raise RuntimeError("power cut")
        self.calls += 1
        pooled = self.dropout(self.trunk(batch.images).mean((2, 3)))
        noise = 0.1 * (batch.draws().uniform(1).to(pooled.device) - 0.5)
        error = nn.functional.binary_cross_entropy_with_logits(
            self.head(pooled) + noise, batch.labels.clamp_min(0).float()
        )
        penalty = pooled.square().mean()
        return Losses(error + 0.1 * penalty, {"labels": error, "size": penalty})

    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        return self.heatmap(images, findings).mean((2, 3))

    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        cells = self.trunk(images)
        weight = torch.stack([self.head.weight[self.label_names.index(f.name)] for f in findings])
        return torch.einsum("bchw,fc->bfhw", cells, weight)


LABELS = ("spot", "noise")


def prepared(
    patients: int = 24,
    seed: int = 0,
    *,
    dataset: str = "nih-cxr14",
    triplets: np.ndarray | None = None,
    splits: tuple[str, ...] = ("train", "val", "test", "test"),
    masks: bool = False,
) -> PreparedData:
    """Two noisy images per patient, with a bright square (and its box or mask) where ``spot`` is present."""
    rng = np.random.default_rng(seed)
    count = 2 * patients
    patient = np.repeat(np.arange(patients), 2)
    labels = rng.integers(0, 2, size=(count, 2)).astype(np.int8)
    images = rng.integers(0, 120, size=(count, SIDE, SIDE), dtype=np.uint8)
    corners = rng.integers(0, SIDE // 2, size=(count, 2))
    boxes = []
    for image, (x, y), (spot, _) in zip(images, corners.tolist(), labels.tolist(), strict=True):
        if spot:
            image[y : y + SQUARE, x : x + SQUARE] = 250
        box = Box("spot", x / SIDE, y / SIDE, SQUARE / SIDE, SQUARE / SIDE)
        boxes.append(boxes_to_json([box] if spot and not masks else []))
    manifest = pd.DataFrame(
        {
            "sample_id": [f"image{i:03d}" for i in range(count)],
            "patient_id": [f"patient{p:03d}" for p in patient],
            "study_id": [f"study{i:03d}" for i in range(count)],
            "split": np.array(splits)[patient % len(splits)],
            "file": [f"image{i:03d}.png" for i in range(count)],
            "sha256": [f"{seed}-{i}" for i in range(count)],
            "cache_row": np.arange(count),
            "mask_row": np.arange(count) if masks else -1,
            "triplet_row": -1 if triplets is None else np.arange(count),
            "boxes": boxes,
            **{f"label:{name}": labels[:, i] for i, name in enumerate(LABELS)},
        }
    )
    return PreparedData(
        folder=Path("prepared"),
        manifest=manifest,
        images=images,
        masks=(images == 250).astype(np.uint8) if masks else None,
        triplets=triplets,
        reports={},
        labels=labels,
        provenance={
            "dataset": dataset,
            "split": "official",
            "equalize": False,
            "fingerprint": "f" * 64,
            "credentialed": False,
        },
    )


def protocol(**changes: object) -> Protocol:
    """Of the data above."""
    findings = [{"name": name, "column": name, "text": name} for name in LABELS]
    tasks = ["zero_shot_classification", "zero_shot_grounding"]
    values = {
        "id": "nih-cxr14/double/v1",
        "dataset": "nih-cxr14",
        "split": "official",
        "description": "a double",
        "findings": findings,
        "tasks": tasks,
        "grounding": "boxes",
        **changes,
    }
    return Protocol.model_validate(values)


class FakeText(nn.Module):
    """A text encoder that only has a fingerprint."""

    fingerprint = "0" * 64


def run_config(**changes: object) -> RunConfig:
    training = {"epochs": 2, "batch_size": 4, "optimiser": OptimiserConfig(lr=1e-3, min_lr=1e-5)}
    model = {key: changes.pop(key) for key in ("dropout", "explode_at") if key in changes}
    training.update(changes)
    return RunConfig(
        method="harness_doubles:TinyMethod",
        recipe="matched",
        tier="smoke",
        seed=3,
        image_size=SIDE,
        model=model,
        trunk=TrunkConfig(architecture="resnet18", width=4, last_stage=3),
        text=TextConfig(kind="tiny-bert"),
        training=TrainingConfig.model_validate(training),
        data_fingerprint="f" * 64,
    )


def method(kind: type[TinyMethod] = TinyMethod, seed: int = 3) -> TinyMethod:
    """An untrained double."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = ResNetTrunk(run_config().trunk)
        return kind(TinySettings(), Ingredients(trunk, FakeText(), LABELS, ()))


def findings() -> list[Finding]:
    """Of the protocol above."""
    return [Finding(name, name) for name in LABELS]
