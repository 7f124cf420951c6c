"""The independent check of tables notices a cell that its predictions do not give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

SCRIPT = Path(__file__).with_name("cells.py")
PROTOCOL = "nih-cxr14/phantom/v1"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One run, one table with a mean AUC over two findings."""
    rng = np.random.default_rng(0)
    parts, aucs = [], []
    for finding in ("mass", "nodule"):
        labels = rng.integers(0, 2, 60)
        scores = (rng.normal(size=60) + labels).astype(np.float32)
        split = np.where(np.arange(60) < 20, "val", "test")
        parts.append(pd.DataFrame({"finding": finding, "label": labels, "score": scores, "split": split}))
        aucs.append(roc_auc_score(labels[20:], scores[20:]))
    folder = tmp_path / "predictions" / "run0"
    folder.mkdir(parents=True)
    pd.concat(parts).to_parquet(folder / f"zero_shot_classification.{PROTOCOL.replace('/', '--')}.parquet")
    (tmp_path / "tables").mkdir()
    row = f"run0/zero_shot_classification.{PROTOCOL.replace('/', '--')}/mean/auc"
    table = pd.DataFrame({"value": [np.mean(aucs), None], "rows": [row, None]})
    table.to_csv(tmp_path / "tables" / "zero_shot_classification.csv", index=False)
    return tmp_path


def check(results: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, results], capture_output=True, text=True, check=False, timeout=120
    )


def test_a_cell_that_follows_from_its_predictions_passes(results: Path) -> None:
    done = check(results)
    assert done.returncode == 0, done.stderr
    assert "zero_shot_classification: 1 cells" in done.stdout


def test_a_folder_without_any_cell_to_compare_does_not_pass(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 1
    assert "nothing was compared" in done.stdout


def test_a_cell_that_was_changed_is_found(results: Path) -> None:
    path = results / "tables" / "zero_shot_classification.csv"
    table = pd.read_csv(path)
    table["value"] += 1e-6
    table.to_csv(path, index=False)
    done = check(results)
    assert done.returncode == 1
    assert "run0/zero_shot_classification" in done.stdout


def test_nothing_of_the_suite_is_imported() -> None:
    source = SCRIPT.read_text(encoding="utf-8")
    for package in ("replication", "medslip", "baselines"):
        assert f"import {package}" not in source
        assert f"from {package}" not in source
