from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replication import records
from replication.errors import DataError
from replication.records import Row

ROW = Row(
    method="tiny",
    variant="default",
    recipe="matched",
    supervision="labels",
    tier="smoke",
    seed=0,
    dataset="nih-cxr14",
    protocol="nih-cxr14/double/v1",
    task="zero_shot_classification",
    label_fraction=0.0,
    finding="mass",
    metric="auc",
    value=0.75,
    lower=0.7,
    upper=float("nan"),
    n=100,
    n_positive=10,
    higher_is_better=True,
    selection="best_val",
    threshold_rule="",
    run_id="0123456789ab",
    config_hash="c",
    manifest_hash="m",
    code_version="v",
    code_dirty=False,
    environment_hash="e",
    device="cpu",
    dtype="float32",
    wall_seconds=12.5,
)


def predictions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample": ["a", "b", "a", "b"],
            "patient": ["p", "q", "p", "q"],
            "split": ["test"] * 4,
            "finding": ["mass", "mass", "edema", "edema"],
            "score": np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32),
            "label": np.array([0, 1, -1, 0], dtype=np.int8),
        }
    )


def test_rows_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    records.write_rows([ROW, replace(ROW, metric="ap")], path, {"key": 1})
    frame = records.read_rows(path)
    assert list(frame.columns) == [field.name for field in fields(Row)]
    assert replace(Row(**frame.iloc[0].to_dict()), upper=0) == replace(ROW, upper=0)
    assert frame["upper"].isna().all()
    assert records.read_metadata(path) == {"key": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


def test_merging_does_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    rows = [replace(ROW, seed=seed, run_id=f"run{seed}", finding=f) for seed in (1, 0) for f in "ba"]
    for name, order in (("one", rows), ("two", rows[::-1])):
        for number, row in enumerate(order):
            records.write_rows([row], tmp_path / name / f"{number}" / "x.parquet")
    one = records.merge_rows(tmp_path / "one", tmp_path / "1.parquet")
    two = records.merge_rows(tmp_path / "two", tmp_path / "2.parquet")
    assert one.read_bytes() == two.read_bytes()
    merged = records.read_rows(one)
    assert merged[["seed", "finding"]].to_numpy().tolist() == [[0, "a"], [0, "b"], [1, "a"], [1, "b"]]
    chosen = records.merge_rows(tmp_path / "one", tmp_path / "3.parquet", run_ids=["run1"])
    assert set(records.read_rows(chosen)["run_id"]) == {"run1"}


def test_merging_nothing_gives_an_empty_table(tmp_path: Path) -> None:
    records.write_rows([], tmp_path / "rows" / "x.parquet")
    assert len(records.read_rows(records.merge_rows(tmp_path / "rows"))) == 0


def test_a_row_measured_twice_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        records.write_rows([ROW], tmp_path / "rows" / f"{name}.parquet")
    with pytest.raises(DataError, match="measured twice"):
        records.merge_rows(tmp_path / "rows")
    assert not (tmp_path / "rows.parquet").exists()


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"nonsense" * 100])
def test_a_damaged_file_is_named(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows" / "x.parquet"
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"x\.parquet"):
        records.merge_rows(tmp_path / "rows")


@pytest.mark.parametrize("fraction", [0.0, 0.01, 1e-05, 1.0])
def test_a_rows_name_tells_its_protocol(fraction: float) -> None:
    name = records.row_name("0123", "linear_probe", "nih-cxr14/phantom/v1", fraction, "a/b", "auc")
    assert records.protocol_of(name) == "nih-cxr14/phantom/v1"
    assert records.protocol_of("some other name") == ""


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    records.write_rows([ROW], path)
    with pytest.raises(DataError, match="columns are not those"):
        records.read_predictions(path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.drop_columns("split"), "no split"),
        (lambda t: t.append_column("age", pa.array([40] * len(t))), r"age \(int64 or nothing\)"),
        (lambda t: t.set_column(4, "score", t["score"].cast("double")), r"found: score \(double"),
        (lambda t: t.select(t.column_names[::-1]), "another order: label, score"),
    ],
)
def test_columns_of_another_version_are_named(
    change: Callable[[pa.Table], pa.Table], found: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.parquet"
    records.write_predictions(predictions(), path, {})
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(DataError, match=found):
        records.read_predictions(path)


def test_predictions_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    records.write_predictions(predictions(), path, {"run_id": "r"})
    pd.testing.assert_frame_equal(
        records.read_predictions(path, samples=["a", "b"]), predictions(), check_dtype=False
    )
    assert records.read_metadata(path)["run_id"] == "r"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(score=[0.1, float("nan"), 0.3, 0.4]), "line 1[^!]*'sample': 'b'"),
        (lambda f: f.assign(score=[0.1, 0.2, float("inf"), 0.4]), "not finite"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "scored twice"),
        (lambda f: f.assign(label=[0, 1, 2, 0]), "Not a label"),
        (lambda f: f.iloc[:3], "have no score for 'edema'[^!]*first missing: b"),
        (lambda f: f.assign(patient=["p", "q", "other", "q"]), "two patients"),
    ],
)
def test_bad_predictions_are_refused_and_not_written(change: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    with pytest.raises(DataError, match=message):
        records.write_predictions(change(predictions()), path, {})
    assert list(tmp_path.iterdir()) == []


def test_expected_images_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    records.write_predictions(predictions(), path, {})
    with pytest.raises(DataError, match="first missing: c"):
        records.read_predictions(path, samples=["a", "b", "c"])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        records.write_json(path, {"a": object()})
    assert records.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["values.json"]


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_code_version_is_the_commit_and_sees_changes_of_the_code_only(tmp_path: Path) -> None:
    code, notes = tmp_path / "replication" / "a.py", tmp_path / "results.md"
    code.parent.mkdir()
    code.write_text("a = 1\n")
    git(tmp_path, "init")
    assert records.code_version(tmp_path) == (records.NO_COMMIT, False)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit, dirty = records.code_version(tmp_path)
    assert len(commit) == 40
    assert not dirty
    notes.write_text("changed\n")
    assert records.code_version(tmp_path) == (commit, False)
    code.write_text("a = 2\n")
    assert records.code_version(tmp_path) == (commit, True)
    assert records.code_version(code.parent) == (records.NO_COMMIT, False)


def test_code_version_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.code_version(tmp_path) == (records.NO_COMMIT, False)


def test_provenance_names_the_environment() -> None:
    found = records.provenance()
    assert len(found.environment_hash) == 64
    assert found == records.provenance()
