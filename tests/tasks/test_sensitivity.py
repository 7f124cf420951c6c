"""A method that sees the truth is at the top of every task, one that sees or is taught nothing at chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import harness_doubles as doubles
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.checkpoints import save_run
from replication.data.batches import PreparedData, normalise
from replication.method import Finding, ImageTrunk
from replication.records import read_rows
from replication.tasks.evaluate import evaluate
from replication.tasks.results import Folders
from replication.tasks.transfer import transfer
from replication.transfer_config import TransferConfig

SPOT = [{"name": "spot", "column": "spot", "text": "spot"}]
TASKS = ("linear_probe", "finetune_classification", "finetune_segmentation")
PROTOCOL = doubles.protocol(
    findings=SPOT, tasks=["zero_shot_classification", "zero_shot_grounding", *TASKS], threshold_source="val"
)
TUNING = {"epochs": 0, "min_steps": 40, "checks": 1, "batch_size": 16, "head_lr": 0.05}
SETTINGS = TransferConfig.model_validate(
    {"fractions": (1.0,), "classification": TUNING, "segmentation": {**TUNING, "decoder_channels": (8, 8)}}
)
BRIGHT = float(normalise(np.full((1, 1, 1), 230, np.uint8))[0, 0, 0, 0])
"""Nothing but the planted square is as bright."""


class SeeingTrunk(ImageTrunk):
    """Maps of where the square is."""

    channels, stride, stage_channels = 4, 4, (4, 4)

    def __init__(self, blind: bool) -> None:
        super().__init__()
        self.blind = blind
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(images)[-1]

    def stages(self, images: Tensor) -> list[Tensor]:
        seen = (images[:, :1] > BRIGHT).float() * (0.0 if self.blind else self.scale)
        maps = torch.cat([seen, 1 - seen, seen, 1 - seen], dim=1)
        return [functional.avg_pool2d(maps, size) for size in (2, 4)]


class Seeing(doubles.TinyMethod):
    """Scores what its trunk sees."""

    blind = False

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.trunk = SeeingTrunk(self.blind)

    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        return self.trunk(images)[:, :1].expand(-1, len(findings), -1, -1)


class Blind(Seeing):
    """Sees nothing, so that what it is taught cannot matter."""

    blind = True


def shuffled(data: PreparedData) -> PreparedData:
    """Labels and boxes of the training and validation images dealt to others of their split."""
    manifest, labels = data.manifest.copy(), data.labels.copy()
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = data.rows(split)
        dealt = rng.permutation(rows)
        labels[rows] = data.labels[dealt]
        for column in ("boxes", *(f"label:{name}" for name in doubles.LABELS)):
            manifest.loc[rows, column] = data.manifest[column].to_numpy()[dealt]
    return dataclasses.replace(data, manifest=manifest, labels=labels)


def measured(method: doubles.TinyMethod, data: PreparedData, root: Path) -> pd.Series:
    """Every metric of every task, by (task, metric)."""
    config, folders = doubles.run_config(), Folders(root / "predictions", root / "rows")
    save_run(root / "run", method, config, doubles.FakeText(), doubles.LABELS, {"wall_seconds": 0.0})
    evaluate(
        root / "run",
        method,
        config,
        PROTOCOL,
        data,
        predictions_folder=folders.predictions,
        rows_folder=folders.rows,
        bootstrap=50,
        progress=False,
    )
    for task in TASKS:
        transfer(
            root / "run",
            method,
            config,
            task,
            PROTOCOL,
            data,
            SETTINGS,
            folders=folders,
            orders=root / "orders",
            bootstrap=50,
            progress=False,
        )
    rows = pd.concat([read_rows(path) for path in folders.rows.rglob("*.parquet")])
    return rows.set_index(["task", "metric"])["value"]


def best_constant_dice(data: PreparedData) -> float:
    """The highest mean Dice on the test images of one and the same mask for all."""
    rows = [row for row in data.rows("test") if data.boxes(int(row))]
    masks = np.stack([data.images[row] == 250 for row in rows]).astype(float)
    often = masks.mean(axis=0)
    guesses = [often >= level for level in np.unique(often)]
    return max(
        float((2 * (m * g).sum((1, 2)) / (m.sum((1, 2)) + g.sum())).mean()) for m in [masks] for g in guesses
    )


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return doubles.prepared(60)


def test_a_method_that_sees_the_truth_is_at_the_top(data: PreparedData, tmp_path: Path) -> None:
    found = measured(Seeing(), data, tmp_path)
    for task in ("zero_shot_classification", "linear_probe", "finetune_classification"):
        for metric in ("auc", "ap", "f1", "accuracy"):
            assert found[task, metric] == 1.0, (task, metric)
    assert found["zero_shot_grounding", "pointing_game"] == 1.0
    assert found["zero_shot_grounding", "pixel_auc"] > 0.97
    assert found["zero_shot_grounding", "dice"] > 0.85
    assert found["finetune_segmentation", "dice"] > 0.85


def test_a_method_that_sees_nothing_is_at_chance(data: PreparedData, tmp_path: Path) -> None:
    found = measured(Blind(), data, tmp_path)
    for task in ("zero_shot_classification", "linear_probe", "finetune_classification"):
        assert found[task, "auc"] == 0.5, task
    share = found["zero_shot_grounding", "box_share"]
    assert found["zero_shot_grounding", "pointing_game"] == pytest.approx(share, abs=0.02)
    assert found["zero_shot_grounding", "pixel_auc"] == 0.5
    assert found["finetune_segmentation", "dice"] <= best_constant_dice(data) + 1e-6


def test_shuffled_labels_teach_nothing(data: PreparedData, tmp_path: Path) -> None:
    """The trunk sees, but what it is taught is not true: whatever is fitted must not find the truth."""
    found = measured(Seeing(), shuffled(data), tmp_path)
    assert found["zero_shot_classification", "auc"] == 1.0, "nothing is fitted here"
    for task in ("linear_probe", "finetune_classification"):
        assert found[task, "accuracy"] < 0.75, task
    assert found["finetune_segmentation", "dice"] < 0.5
