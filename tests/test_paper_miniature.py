"""The paper tier in small: real formats, published recipes and full-size networks, from raw files to tables.

ResNet-50 at 224 pixels starts from a file in torchvision's cache, a text encoder of BERT-base's size from a
folder; both have random weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from torchvision.models import ResNet50_Weights, resnet50

from replication.checkpoints import read_tensors
from replication.config_files import CONFIGS, read_yaml
from replication.knowledge.random_encoder import random_text_encoder

METHODS = {"medslip": 1024, "convirt": 2048}
"""Channels of the last feature map of each, as published."""

BATCH, STEPS = 16, 4
MOST_MIB = 5 * 1024
"""Of one job; two are run side by side."""

PATIENTS = {"mimic-cxr": 52, "nih-cxr14": 80, "rsna-pneumonia": 24, "siim-acr": 24, "covidx-cxr4": 24}
PROTOCOLS = [
    "nih-cxr14/phantom/v1",
    "rsna-pneumonia/patient-seeded/v1",
    "siim-acr/patient-seeded/v1",
    "covidx-cxr4/official/v1",
    "mimic-cxr/relations/v1",
]


def write_tier(folder: Path) -> Path:
    """The paper tier with generated data, two methods and few steps."""
    tier = read_yaml(CONFIGS / "tiers" / "paper.yaml") | {
        "name": "miniature",
        "description": "the paper tier in miniature",
        "phantom": {"seed": 20240315, "image_size": 224, "patients": PATIENTS},
        "text": {"kind": "pretrained", "name_or_path": str(folder / "bert")},
        "training": {"epochs": 1, "batch_size": BATCH},
        "seeds": [0],
        "methods": list(METHODS),
        "protocols": PROTOCOLS,
        "transfer": {"tasks": ["linear_probe"], "fractions": [1.0]},
        "threads": 1,
        "evaluation_batch_size": 16,
        "bootstrap": 50,
        "notebooks": ["zero_shot_classification", "transfer"],
    }
    path = folder / "miniature.yaml"
    path.write_text(yaml.safe_dump(tier))
    return path


def write_weights(folder: Path) -> None:
    """The text encoders and the weights of the image trunk where the suite looks for them."""
    encoder = random_text_encoder()
    encoder.save(folder / "bert")
    cache = folder / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    name = ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(resnet50().state_dict(), cache / name)


@pytest.mark.slow
def test_published_recipes_run_from_raw_files_to_tables(tmp_path: Path) -> None:
    write_weights(tmp_path)
    tier = write_tier(tmp_path)
    environment = os.environ | {"TORCH_HOME": str(tmp_path / "torch"), "HF_HUB_OFFLINE": "1"}

    def replicate(*arguments: str) -> None:
        command = [sys.executable, "-m", "replication.cli", *arguments, "--tier", str(tier)]
        done = subprocess.run(
            [*command, "--work", "work", "--results", "results"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    replicate("doctor")
    replicate("run", "--cores", "2")
    work, results = tmp_path / "work" / "miniature", tmp_path / "results" / "miniature"
    for method, channels in METHODS.items():
        run = work / "runs" / f"{method}.published.seed0"
        assert json.loads((run / "done.json").read_text())["steps"] == STEPS
        weights = read_tensors(run / "weights.safetensors")
        last = max(key for key in weights if key.startswith("trunk.layer") and key.endswith(".bn3.weight"))
        assert weights[last].shape == (channels,)
    stages = pd.read_csv(results / "stages.csv")
    assert stages["peak_mib"].max() < MOST_MIB
    rows = pd.read_parquet(results / "rows.parquet")
    for task in ("zero_shot_classification", "zero_shot_grounding", "linear_probe"):
        measured = rows[(rows["task"] == task) & rows["value"].notna()]
        assert set(measured["method"]) == set(METHODS)
    for table in ("zero_shot_classification", "linear_probe"):
        cells = (results / "tables" / f"{table}.csv").read_text()
        assert all(method in cells for method in METHODS)
    assert (results / "site" / "index.html").is_file()
