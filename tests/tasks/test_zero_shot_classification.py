from __future__ import annotations

import dataclasses
import math

import harness_doubles as doubles
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from replication.devices import compute_device
from replication.errors import DataError
from replication.tasks.common import NothingToMeasure, Predictions
from replication.tasks.zero_shot_classification import measure, metric_draws, predict

DATA = doubles.prepared()
PROTOCOL = doubles.protocol()


def made_up(seed: int = 0, images: int = 200) -> pd.DataFrame:
    """Scores that know ``spot`` a little and ``noise`` not at all, with a few unknown labels."""
    rng = np.random.default_rng(seed)
    parts = []
    for finding, signal in (("spot", 1.0), ("noise", 0.0)):
        label = rng.integers(-1, 2, images)
        parts.append(
            pd.DataFrame(
                {
                    "sample": [f"s{i}" for i in range(images)],
                    "patient": [f"p{i // 2}" for i in range(images)],
                    "split": np.where(np.arange(images) < images // 2, "val", "test"),
                    "finding": finding,
                    "score": np.round(signal * label + rng.normal(size=images), 1).astype(np.float32),
                    "label": label.astype(np.int8),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def table(frame: pd.DataFrame, **options: object) -> dict[tuple[str, str], float]:
    found = measure(Predictions(frame), PROTOCOL, draws=50, **options)
    return {(one.finding, one.metric): one.value for one in found}


def test_predictions_hold_every_image_and_finding_of_val_and_test() -> None:
    method = doubles.method()
    frame = predict(method, DATA, PROTOCOL, batch_size=7).frame
    rows = np.concatenate([DATA.rows("val"), DATA.rows("test")])
    assert len(frame) == 2 * len(rows)
    spot = frame[frame["finding"] == "spot"]
    assert spot["sample"].tolist() == DATA.manifest["sample_id"].iloc[rows].tolist()
    assert spot["label"].tolist() == DATA.labels[rows, 0].tolist()
    batch = DATA.batch(rows[:5], augmentation=None, seed=0)
    scores = method.eval().score(batch.images.to(compute_device()), doubles.findings())[:, 0]
    assert spot["score"].to_numpy()[:5] == pytest.approx(scores.detach().cpu().numpy(), abs=1e-5)


@pytest.mark.parametrize("label", [0, 1, -1])
def test_test_images_of_one_class_are_refused_before_any_is_scored(
    label: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = DATA.labels.copy()
    labels[DATA.rows("test")] = label
    method = doubles.method()
    monkeypatch.setattr(method, "score", None)
    with pytest.raises(NothingToMeasure, match=r"both classes among the test images[^!]*present"):
        predict(method, dataclasses.replace(DATA, labels=labels), PROTOCOL)


def test_one_finding_with_both_classes_is_enough() -> None:
    labels = DATA.labels.copy()
    labels[np.ix_(DATA.rows("test"), [1])] = 0
    assert len(predict(doubles.method(), dataclasses.replace(DATA, labels=labels), PROTOCOL).frame)


def test_batch_size_does_not_matter() -> None:
    one, two = (predict(doubles.method(), DATA, PROTOCOL, batch_size=b).frame for b in (3, 64))
    assert one["score"].to_numpy() == pytest.approx(two["score"].to_numpy(), abs=1e-6)


def test_metrics_are_those_of_scikit_learn_with_the_threshold_of_validation() -> None:
    frame = made_up()
    found = table(frame)
    for finding in doubles.LABELS:
        known = frame[(frame["finding"] == finding) & (frame["label"] >= 0)]
        val, test = (known[known["split"] == split] for split in ("val", "test"))
        every = {t: f1_score(val["label"], val["score"] >= t) for t in sorted(val["score"])}
        threshold = max(every, key=lambda t: every[t])
        called = test["score"] >= threshold
        assert found[finding, "auc"] == pytest.approx(roc_auc_score(test["label"], test["score"]))
        assert found[finding, "ap"] == pytest.approx(average_precision_score(test["label"], test["score"]))
        assert found[finding, "f1"] == pytest.approx(f1_score(test["label"], called))
        assert found[finding, "accuracy"] == pytest.approx(accuracy_score(test["label"], called))
        assert found[finding, "threshold"] == pytest.approx(threshold)
    assert found["mean", "auc"] == pytest.approx((found["spot", "auc"] + found["noise", "auc"]) / 2)
    assert ("mean", "threshold") not in found


def test_released_rules_choose_on_test_and_leave_the_threshold_out() -> None:
    frame = made_up()
    released = doubles.protocol(threshold_source="test")
    found = measure(Predictions(frame), released, draws=10, threshold_op="gt")
    values = {(one.finding, one.metric): one for one in found}
    known = frame[(frame["finding"] == "spot") & (frame["label"] >= 0) & (frame["split"] == "test")]
    threshold = values["spot", "threshold"].value
    assert values["spot", "f1"].value == pytest.approx(f1_score(known["label"], known["score"] > threshold))
    assert values["spot", "f1"].threshold_rule == "maximum F1 on test, score > it"


def test_intervals_hold_the_value_and_shrink_with_more_patients() -> None:
    small, large = (
        {(m.finding, m.metric): m for m in measure(Predictions(made_up(images=n)), PROTOCOL, draws=300)}
        for n in (200, 2000)
    )
    for key in (("spot", "auc"), ("mean", "auc"), ("noise", "f1")):
        assert small[key].lower < small[key].value < small[key].upper
        assert large[key].upper - large[key].lower < 0.6 * (small[key].upper - small[key].lower)


def test_a_finding_without_positives_is_undefined_and_left_out_of_the_mean() -> None:
    frame = made_up()
    frame.loc[(frame["finding"] == "noise") & (frame["split"] == "test"), "label"] = 0
    found = {(m.finding, m.metric): m for m in measure(Predictions(frame), PROTOCOL, draws=20)}
    assert math.isnan(found["noise", "auc"].value)
    assert found["noise", "auc"].n_positive == 0
    assert ("mean", "auc") in found
    assert found["mean", "auc"].value == found["spot", "auc"].value


def test_without_validation_positives_there_is_no_threshold() -> None:
    frame = made_up()
    frame.loc[(frame["finding"] == "noise") & (frame["split"] == "val"), "label"] = 0
    found = table(frame)
    assert math.isnan(found["noise", "f1"])
    assert math.isnan(found["noise", "accuracy"])
    assert found["noise", "auc"] > 0


def test_draws_of_two_runs_are_paired() -> None:
    """Two runs with nearly the same scores differ by far less than each varies."""
    frame = made_up()
    other = frame.assign(score=frame["score"] + np.float32(0.001) * np.arange(len(frame)) % 2)
    one, two = (metric_draws(f, PROTOCOL, draws=200)[0].draws for f in (frame, other))
    assert np.std(one - two) < 0.1 * np.std(one)


def test_data_of_another_protocol_are_refused() -> None:
    with pytest.raises(DataError, match="split differs"):
        predict(doubles.method(), DATA, doubles.protocol(split="patient-seeded"))
    unknown = [{"name": "x", "column": "x", "text": "x"}]
    with pytest.raises(DataError, match="label that the data do not have"):
        predict(doubles.method(), DATA, doubles.protocol(findings=unknown))
