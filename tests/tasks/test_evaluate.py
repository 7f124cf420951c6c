from __future__ import annotations

from pathlib import Path

import harness_doubles as doubles
import numpy as np
import pandas as pd
import pytest
import torch

from replication.checkpoints import load_run, save_run
from replication.errors import ConfigError, DataError
from replication.records import merge_rows, read_metadata, read_predictions, read_rows, result_name
from replication.tasks import zero_shot_classification
from replication.tasks.evaluate import evaluate, score_predictions

DATA, PROTOCOL, CONFIG, TEXT = (
    doubles.prepared(),
    doubles.protocol(),
    doubles.run_config(),
    doubles.FakeText(),
)
CLASSIFICATION, GROUNDING = PROTOCOL.tasks


class Place:
    """Folders of one evaluation."""

    def __init__(self, root: Path) -> None:
        self.run, self.predictions, self.rows = root / "run", root / "predictions", root / "rows"
        done = {"wall_seconds": 12.5}
        save_run(self.run, doubles.method(), CONFIG, TEXT, doubles.LABELS, done)

    def evaluate(self, data: object = DATA, protocol: object = PROTOCOL, bootstrap: int = 20) -> None:
        method, config = load_run(self.run, TEXT)
        evaluate(
            self.run,
            method,
            config,
            protocol,
            data,
            predictions_folder=self.predictions,
            rows_folder=self.rows,
            bootstrap=bootstrap,
            batch_size=16,
            progress=False,
        )

    def times(self) -> dict[str, int]:
        files = [*self.predictions.rglob("*.*"), *self.rows.rglob("*.*")]
        return {path.name: path.stat().st_mtime_ns for path in files}

    def table(self, task: str) -> Path:
        return self.predictions / CONFIG.run_id / result_name(task, PROTOCOL.id)

    def row_file(self, task: str) -> Path:
        return self.rows / CONFIG.run_id / result_name(task, PROTOCOL.id)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_rows_carry_all_that_is_needed_to_repeat_them(place: Place) -> None:
    place.evaluate()
    rows = read_rows(merge_rows(place.rows))
    assert set(rows["task"]) == set(PROTOCOL.tasks)
    assert set(rows["run_id"]) == {CONFIG.run_id}
    assert set(rows["wall_seconds"]) == {12.5}
    assert set(rows["supervision"]) == {"labels"}
    assert set(rows["manifest_hash"]) == {DATA.fingerprint}
    assert set(rows["selection"]) == {"best_val"}
    assert (rows[["config_hash", "environment_hash", "code_version", "device", "dtype"]] != "").all(axis=None)
    auc = rows[(rows["metric"] == "auc") & (rows["finding"] == "mean")].iloc[0]
    assert auc["lower"] <= auc["value"] <= auc["upper"]
    assert len(read_predictions(place.table(CLASSIFICATION))) == 72


def test_the_second_time_nothing_is_computed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.evaluate()
    before, merged = place.times(), merge_rows(place.rows).read_bytes()
    monkeypatch.setattr(zero_shot_classification, "predict", None)
    monkeypatch.setattr(zero_shot_classification, "measure", None)
    place.evaluate()
    assert place.times() == before
    assert merge_rows(place.rows).read_bytes() == merged


def test_two_evaluations_give_equal_rows(tmp_path: Path) -> None:
    one, two = Place(tmp_path / "one"), Place(tmp_path / "two")
    for place in (one, two):
        place.evaluate()
    assert merge_rows(one.rows).read_bytes() == merge_rows(two.rows).read_bytes()


def test_more_draws_need_no_new_predictions(place: Place) -> None:
    place.evaluate()
    before = place.times()
    place.evaluate(bootstrap=40)
    changed = {name for name, time in place.times().items() if time != before[name]}
    assert changed == {place.row_file(CLASSIFICATION).name} | {place.row_file(GROUNDING).name}


def test_other_weights_or_data_are_predicted_anew(place: Place) -> None:
    place.evaluate()
    first = read_predictions(place.table(CLASSIFICATION))["score"]
    torch.manual_seed(0)
    save_run(place.run, doubles.method(seed=9), CONFIG, TEXT, doubles.LABELS, {"wall_seconds": 1.0})
    place.evaluate()
    assert not first.equals(read_predictions(place.table(CLASSIFICATION))["score"])
    data = doubles.prepared(seed=1)
    data.provenance["fingerprint"] = "e" * 64
    place.evaluate(data=data)
    assert read_metadata(place.table(CLASSIFICATION))["manifest"] == "e" * 64


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_damaged_predictions_are_not_measured(suffix: str, place: Place) -> None:
    place.evaluate()
    damaged = place.table(GROUNDING).with_suffix(suffix)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 4] ^= 0xFF
    damaged.write_bytes(content)
    before = place.row_file(GROUNDING).read_bytes()
    with pytest.raises(DataError, match="delete"):
        place.evaluate(bootstrap=33)
    assert place.row_file(GROUNDING).read_bytes() == before


def test_a_task_without_meaning_leaves_an_empty_file_and_its_reason(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    data = doubles.prepared()
    data.manifest["boxes"] = "[]"
    place.evaluate(data=data)
    assert len(read_rows(place.row_file(GROUNDING))) == 0
    assert "no regions" in read_metadata(place.row_file(GROUNDING))["nothing"]
    assert "no regions" in capsys.readouterr().err
    assert len(read_rows(place.row_file(CLASSIFICATION))) > 0


def test_scores_that_are_not_finite_are_not_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    original = doubles.TinyMethod.score
    monkeypatch.setattr(
        doubles.TinyMethod, "score", lambda self, images, findings: original(self, images, findings) * np.nan
    )
    with pytest.raises(DataError, match="not finite"):
        place.evaluate()
    assert not place.predictions.exists()


def test_an_unknown_task_is_refused_before_anything_is_done(place: Place) -> None:
    with pytest.raises(ConfigError, match="did you mean 'zero_shot_grounding'"):
        place.evaluate(protocol=doubles.protocol(tasks=["zero_shot_classification", "zero_shot_groundin"]))
    assert not place.predictions.exists()


@pytest.fixture
def scores(tmp_path: Path) -> pd.DataFrame:
    frame = zero_shot_classification.predict(doubles.method(), DATA, PROTOCOL).frame
    return frame[["sample", "finding", "score"]].copy()


def write(frame: pd.DataFrame, folder: Path) -> Path:
    path = folder / "scores.csv"
    frame.to_csv(path, index=False)
    return path


def test_somebody_elses_scores_are_measured_as_ours(scores: pd.DataFrame, tmp_path: Path) -> None:
    shuffled = scores.sample(frac=1, random_state=0)
    theirs = score_predictions(write(shuffled, tmp_path), PROTOCOL, DATA, draws=30)
    predictions = zero_shot_classification.predict(doubles.method(), DATA, PROTOCOL)
    ours = [vars(one) for one in zero_shot_classification.measure(predictions, PROTOCOL, draws=30)]
    pd.testing.assert_frame_equal(theirs, pd.DataFrame(ours))


def test_scores_with_labels_need_no_data(scores: pd.DataFrame, tmp_path: Path) -> None:
    full = zero_shot_classification.predict(doubles.method(), DATA, PROTOCOL).frame
    with_data = score_predictions(write(scores, tmp_path), PROTOCOL, DATA, draws=10)
    alone = score_predictions(write(full, tmp_path), PROTOCOL, draws=10)
    pd.testing.assert_frame_equal(with_data, alone)


def test_scores_of_test_images_of_one_class_are_refused(tmp_path: Path) -> None:
    full = zero_shot_classification.predict(doubles.method(), DATA, PROTOCOL).frame
    with pytest.raises(DataError, match="both classes among the test images"):
        score_predictions(write(full.assign(label=0), tmp_path), PROTOCOL, draws=10)


def test_without_validation_scores_only_thresholds_are_missing(scores: pd.DataFrame, tmp_path: Path) -> None:
    test = DATA.manifest.iloc[DATA.rows("test")]["sample_id"]
    found = score_predictions(
        write(scores[scores["sample"].isin(test)], tmp_path), PROTOCOL, DATA, draws=10
    ).set_index(["finding", "metric"])["value"]
    assert np.isfinite(found["mean", "auc"])
    assert np.isnan(found["spot", "f1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="score"), "column 'score' is missing"),
        (lambda f: f.replace({"finding": {"spot": "spott"}}), "line 2[^!]*did you mean 'spot'"),
        (lambda f: f.replace({"sample": {f["sample"].iloc[3]: "image9x"}}), "Unknown sample"),
        (
            lambda f: f.assign(score=f["score"].astype(str).where(f.index != 5, "high")),
            "line 7[^!]*'score': 'high'",
        ),
        (lambda f: pd.concat([f, f.iloc[:1]]), "scored twice[^!]*line 74"),
        (lambda f: f.iloc[:-1], "have no score for 'noise'"),
        (lambda f: f[f["finding"] == "spot"], "finding of the protocol has no scores"),
    ],
)
def test_bad_scores_are_refused(change: object, message: str, scores: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        score_predictions(write(change(scores), tmp_path), PROTOCOL, DATA, draws=5)
