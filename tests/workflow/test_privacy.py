"""From credentialed raw files to notebooks and site: nothing of them but numbers is among the results."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from canaries import contents, picture, pictures, shows
from commands import replicate
from matplotlib.figure import Figure
from PIL import Image

from replication.data.batches import PreparedData
from replication.phantom.writers import write_phantom

CANARY = "zebrafinch"
NOTEBOOKS = ("zero_shot_classification", "grounding", "disentanglement", "training_curves")
TIER = f"""
name: credentialed
description: a data set that only its users may see
image_size: 48
trunk: {{architecture: resnet18, width: 4, last_stage: 3, weights: random}}
text: {{kind: tiny-bert, hidden: 16, layers: 1, heads: 2, vocabulary_size: 500, epochs: 1}}
scale: {{d_model: 16, decoder_layers: 1, heads: 2, feedforward: 16, projection_dim: 16}}
recipe: matched
training: {{epochs: 1, batch_size: 8, augmentation: {{kind: batched, hflip: "off"}}}}
seeds: [0]
methods: [medslip, convirt]
protocols: [mimic-cxr/phantom-labels/v1, mimic-cxr/relations/v1, mimic-cxr/streams/v1, mimic-cxr/retrieval/v1]
threads: 1
bootstrap: 20
notebooks: [{", ".join(NOTEBOOKS)}]
"""


def write_credentialed(source: Path) -> None:
    """MIMIC-CXR's format without a phantom's mark; a canary in every report, another as every image."""
    write_phantom("mimic-cxr", source, n_patients=60, size=48, seed=3, workers=1, progress=False)
    for name in ("phantom.json", "truth.parquet"):
        (source / name).unlink()
    for report in source.rglob("s5*.txt"):
        report.write_text(report.read_text() + f"\n There is a {CANARY} in the left lung.\n")
    for k, image in enumerate(sorted(source.rglob("*.jpg"))):
        Image.fromarray(picture(48, k)).save(image, quality=100)


def test_the_search_would_find_the_picture(tmp_path: Path) -> None:
    figure = Figure(figsize=(7, 4))
    for number, axes in enumerate(figure.subplots(2, 4).ravel()):
        axes.plot(np.arange(10), np.arange(10) % (number + 1))
    figure.savefig(tmp_path / "without.png", dpi=200)
    axes = figure.axes[5]
    axes.clear()
    axes.imshow(picture(48, 3), cmap="gray")
    axes.imshow(np.random.default_rng(0).random((6, 6)), cmap="inferno", alpha=0.3, extent=(0, 47, 47, 0))
    figure.savefig(tmp_path / "within.png", dpi=200)
    np.savez(tmp_path / "arrays.npz", heat=np.stack([np.eye(48), picture(48, 5) / 255.0]))
    found = {Path(name).name: False for name, _ in pictures(tmp_path)}
    for name, image in pictures(tmp_path):
        found[Path(name).name] |= shows(image)
    assert found == {"without.png": False, "within.png": True, "heat": True}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="runs commands in a fork server")
def test_nothing_of_credentialed_data_gets_out(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(TIER)
    write_credentialed(tmp_path / "work/credentialed/raw/mimic-cxr")
    for command in (
        ("data", "prepare", "mimic-cxr", "--workers", "1"),
        ("text-encoder",),
        ("pretrain", "medslip"),
        ("pretrain", "convirt"),
        ("evaluate", "medslip"),
        ("evaluate", "convirt"),
        ("rows",),
        ("report",),
    ):
        status, said = replicate(tmp_path, *command, "--tier", "own.yaml")
        assert status == 0, said
    data = PreparedData.open(tmp_path / "work/credentialed/prepared/mimic-cxr")
    assert all(CANARY in report for report in data.reports.values())
    assert shows(np.asarray(data.images[0]))
    results = tmp_path / "results/credentialed"
    assert len(pd.read_parquet(results / "rows.parquet")) > 50
    assert {path.stem for path in (results / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)
    columns = ("sample_id", "patient_id", "study_id", "sha256")
    secrets = {CANARY, *(str(value) for column in columns for value in data.manifest[column])}
    secrets |= set(data.provenance["digests"].values())
    encoded = [secret.encode() for secret in sorted(secrets)] + [image.tobytes() for image in data.images]
    for name, content in contents(results):
        for secret in encoded:
            assert secret not in content, (name, secret[:80])
            assert secret not in name.encode()
    for name, image in pictures(results):
        assert not shows(image), name
