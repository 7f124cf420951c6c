"""The commands as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from data import raw
from sklearn.metrics import roc_auc_score

from replication.config_files import CONFIGS, read_yaml
from replication.data.batches import PreparedData
from replication.data.prepare import prepare


def replicate(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "replication.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("what", ["methods", "datasets", "tasks", "protocols", "tables", "tiers"])
def test_list_prints_json(what: str) -> None:
    entries = json.loads(replicate("list", what, "--json").stdout)
    assert entries
    assert all(isinstance(entry, dict) and next(iter(entry.values())) for entry in entries)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--tier", "fantom"], "did you mean 'phantom'"),
        (["run", "--only", "medslp"], "did you mean 'medslip'"),
        (["pretrain", "medklipp"], "did you mean 'medklip'"),
        (["list", "metods"], "did you mean 'methods'"),
        (["run", "--profile", "laptpo"], "did you mean 'laptop'"),
        (["run", "--dry-run", "--images-per-second", "medslip=fast"], "images per second"),
        (["evaluate", "--run", "medslip-0"], "METHOD[~VARIANT].RECIPE.seedN"),
        (["transfer", "--run", "medslip.matched.seed0", "--task", "linear"], "linear_probe"),
        (["checkpoint", "inspect", "nowhere.pth"], "nowhere.pth"),
        (["data", "prepare", "nih-cxr14", "--source", "nowhere", "--out", "out"], "nowhere"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = replicate(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_evaluation_covers_the_tasks_that_learn_from_labels(tmp_path: Path) -> None:
    tier = read_yaml(CONFIGS / "tiers" / "smoke.yaml")
    tier["transfer"] = {"tasks": ["linear_probe", "finetune_segmentation"], "fractions": [0.5, 1.0]}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(tier))
    done = replicate("run", "--tier", own, "--dry-run", "--jobs", "--only", "medklip", cwd=tmp_path)
    assert done.returncode == 0
    assert "evaluate --run medklip.matched.seed0 --transfer" in done.stdout


def test_jobs_of_a_dry_run_are_listed_and_none_is_run(tmp_path: Path) -> None:
    done = replicate(
        "run",
        "--tier",
        "smoke",
        "--dry-run",
        "--jobs",
        "--profile",
        "laptop",
        "--only",
        "medklip",
        cwd=tmp_path,
    )
    assert done.returncode == 0
    for job in ("rule phantom", "rule prepare", "rule text_encoder", "rule pretrain", "rule notebook"):
        assert job in done.stdout
    assert "medklip.matched.seed0" in done.stdout
    assert "medslip.matched.seed0" not in done.stdout
    assert not (tmp_path / "results").exists()


def test_results_that_came_with_a_clone_are_made_anew(tmp_path: Path) -> None:
    rows = tmp_path / "results" / "smoke" / "rows.parquet"
    rows.parent.mkdir(parents=True)
    rows.touch()
    done = replicate(
        *("run", "--tier", "smoke", "--dry-run", "--jobs", "--only", "medklip"),
        *("--work", tmp_path / "work", "--results", tmp_path / "results"),
        cwd=tmp_path,
    )
    assert done.returncode == 0
    for job in ("rule pretrain", "rule evaluate", "rule rows"):
        assert job in done.stdout


def test_split_lists_are_named_and_given_by_hand(tmp_path: Path) -> None:
    listed = replicate("data", "splits", "list")
    assert listed.returncode == 0
    assert "rsna-pneumonia/lovt" in {line.split()[0] for line in listed.stdout.splitlines()}
    source, wrong = tmp_path / "raw", tmp_path / "mine.csv"
    source.mkdir()
    wrong.write_text("patient-1\n")
    for arguments, words in (
        (("rsna-pneumonia/lov",), "did you mean 'rsna-pneumonia/lovt'"),
        (("rsna-pneumonia/lovt", "--file", f"tset.csv={wrong}"), "did you mean 'test.csv'"),
        (("rsna-pneumonia/lovt", "--file", f"test.csv={wrong}"), str(wrong)),
        (("rsna-pneumonia/lovt", "--file", "test.csv=no-such.csv"), "no-such.csv"),
    ):
        done = replicate("data", "splits", "fetch", *arguments, "--source", source)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(source.iterdir())


def test_dry_run_prints_a_plan(tmp_path: Path) -> None:
    done = replicate(
        "run", "--tier", "paper", "--dry-run", "--only", "convirt", "--seed", "0",
        "--images-per-second", "convirt=1000", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 pretrain" in done.stdout
    assert "work/paper/raw/mimic-cxr" in done.stdout
    assert "CREDENTIALED" in done.stdout
    # 200 epochs of 238,075 images in whole batches of 32, at 1000 a second.
    assert f"{200 * (238_075 // 32 * 32) / 1000 / 3600:.1f}" in done.stdout
    assert not (tmp_path / "results").exists()


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    ready = replicate("doctor", "--tier", "smoke", cwd=tmp_path)
    assert ready.returncode == 0, ready.stdout
    lacking = replicate("doctor", "--tier", "paper", cwd=tmp_path)
    assert lacking.returncode == 1
    assert "missing  data mimic-cxr: missing" in lacking.stdout
    assert "missing  text encoder emilyalsentzer/Bio_ClinicalBERT" in lacking.stdout


def test_prepare_verify_and_score_without_a_model(tmp_path: Path) -> None:
    source = raw.write_nih(tmp_path / "nih", patients=40)
    prepared = tmp_path / "prepared"
    done = replicate(
        "data", "prepare", "nih-cxr14", "--source", source, "--out", prepared, "--split", "patient-seeded"
    )
    assert done.returncode == 0, done.stderr
    assert replicate("data", "verify", prepared, "--source", source).returncode == 0
    data = PreparedData.open(prepared)
    rows = data.rows("test")
    truth = data.labels[rows]
    known = [k for k, name in enumerate(data.label_names) if 0 < (truth[:, k] == 1).sum() < len(rows)]
    scores = pd.DataFrame(
        [
            {"sample": data.manifest["sample_id"].iloc[row], "finding": name, "score": (7 * i + 3 * k) % 11}
            for k, name in enumerate(data.label_names)
            for i, row in enumerate(rows)
        ]
    )
    scores.to_csv(tmp_path / "theirs.csv", index=False)
    done = replicate(
        "score", tmp_path / "theirs.csv", "--protocol", "nih-cxr14/patient-seeded/v1", "--prepared", prepared,
        "--out", tmp_path / "rows.csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = pd.read_csv(tmp_path / "rows.csv").query("metric == 'auc'").set_index("finding")["value"]
    assert known
    for k in known:
        name = data.label_names[k]
        theirs = scores[scores["finding"] == name]["score"]
        assert measured[name] == pytest.approx(roc_auc_score(truth[:, k] == 1, theirs), abs=1e-12)


def test_a_damaged_prepared_folder_is_found(tmp_path: Path) -> None:
    prepared = prepare(
        "nih-cxr14", raw.write_nih(tmp_path / "nih"), tmp_path / "prepared", size=32, progress=False
    )
    images = prepared / "images.npy"
    images.write_bytes(images.read_bytes()[:-100])
    done = replicate("data", "verify", prepared)
    assert done.returncode == 2
    assert "images.npy" in done.stderr


@pytest.mark.parametrize("method", ["medslip", "medklip"])
def test_parity_prints_one_json_object(method: str, reference: Path) -> None:
    stem = reference / "parity" / f"{method}_resnet18_seed7"
    done = replicate("checkpoint", "parity", "--method", method, "--reference", stem)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["ok"] is True
    assert {"losses", "logits", "attention", "grad_norms"} <= set(outcome)
