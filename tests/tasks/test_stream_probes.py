from __future__ import annotations

import harness_doubles as doubles
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from replication.tasks.common import NothingToMeasure, Predictions
from replication.tasks.stream_probes import (
    FEWEST,
    SHUFFLES,
    Target,
    metric_draws,
    probe,
    probed,
    standardised,
)

PROTOCOL = doubles.protocol(id="mimic-cxr/double/v1", dataset="mimic-cxr", tasks=["disentanglement"])
COUNT = 900


def names(count: int = COUNT) -> pd.DataFrame:
    """Three images of each patient; two thirds train, the rest validation and test."""
    patient = np.arange(count) // 3
    split = np.array(["train", "train", "train", "train", "val", "test"])[patient % 6]
    columns = {"sample": [f"i{i:04d}" for i in range(count)], "patient": [f"p{p:03d}" for p in patient]}
    return pd.DataFrame({**columns, "split": split}, dtype=str)


def planted(leak: float, seed: int = 0) -> Predictions:
    """Streams that hold their own target, ``leak`` of the other's, and noise; the trunk holds both."""
    rng = np.random.default_rng(seed)
    what, where = rng.integers(0, 2, (2, COUNT, 3)).astype(np.int8)
    noise = rng.standard_normal((3, COUNT, 8)).astype(np.float32)
    own, other = np.eye(8)[:3], np.eye(8)[3:6]
    features = {
        "trunk": noise[0] + 3 * (what @ own + where @ other),
        "pathology": noise[1] + 3 * (what @ own + leak * where @ other),
        "anatomy": noise[2] + 3 * (where @ own + leak * what @ other),
    }
    targets = {"pathology": Target(["a", "b", "c"], what), "anatomy": Target(["x", "y", "z"], where)}
    return probed(names(), {k: v.astype(np.float32) for k, v in features.items()}, targets, PROTOCOL)


def values(predictions: Predictions, draws: int = 50) -> dict[tuple[str, str], float]:
    return {(one.finding, one.metric): one.value for one in metric_draws(predictions, PROTOCOL, draws=draws)}


def test_planted_streams_come_out_disentangled() -> None:
    found = {(d.finding, d.metric): d for d in metric_draws(planted(0.0), PROTOCOL, draws=200)}
    for stream, other in (("pathology", "anatomy"), ("anatomy", "pathology")):
        assert found[stream, f"{stream}_auc"].value > 0.95
        assert found[stream, f"{other}_auc"].value == pytest.approx(0.5, abs=0.08)
        assert found["trunk", f"{stream}_auc"].value > 0.95
        assert found[stream, "contrast_to_trunk"].measured().lower > 0.3
    assert ("trunk", "contrast") not in found


def test_streams_that_hold_everything_have_no_contrast() -> None:
    found = values(planted(1.0))
    for stream in ("pathology", "anatomy"):
        assert found[stream, "contrast"] == pytest.approx(0.0, abs=0.03)
        assert found[stream, "contrast_to_trunk"] == pytest.approx(0.0, abs=0.03)


def test_features_without_labels_in_them_land_at_chance() -> None:
    rng = np.random.default_rng(3)
    target = {"pathology": Target(["a", "b"], rng.integers(0, 2, (COUNT, 2)).astype(np.int8))}
    noise = {"trunk": rng.standard_normal((COUNT, 8)).astype(np.float32)}
    found = metric_draws(probed(names(), noise, target, PROTOCOL), PROTOCOL, draws=200)
    own = next(d for d in found if d.metric == "pathology_auc").measured()
    assert own.lower < 0.5 < own.upper


def test_shuffled_labels_are_at_chance_whatever_the_features_hold() -> None:
    found = values(planted(1.0))
    for (_, metric), value in found.items():
        if metric.startswith("chance_"):
            assert value == pytest.approx(0.5, abs=0.07)


def test_every_metric_follows_from_the_predictions() -> None:
    """The literal twin: scikit-learn on every finding, means and differences by hand."""
    predictions = planted(0.3)
    found = values(predictions)
    own: dict[tuple[str, str], list[float]] = {}
    chance: dict[tuple[str, str], list[float]] = {}
    for number, name in enumerate(predictions.frame["finding"].unique()):
        lines = predictions.frame[predictions.frame["finding"] == name]
        key = tuple(name.split("/")[:2])
        own.setdefault(key, []).append(roc_auc_score(lines["label"], lines["score"]))
        for shuffled in predictions.arrays["chance"][number]:
            chance.setdefault(key, []).append(roc_auc_score(lines["label"], shuffled))
    for (stream, target), auc in own.items():
        assert found[stream, f"{target}_auc"] == pytest.approx(np.mean(auc))
        assert found[stream, f"chance_{target}_auc"] == pytest.approx(np.mean(chance[stream, target]))
    difference = np.mean(own["anatomy", "anatomy"]) - np.mean(own["anatomy", "pathology"])
    of_trunk = np.mean(own["trunk", "anatomy"]) - np.mean(own["trunk", "pathology"])
    assert found["anatomy", "contrast"] == pytest.approx(difference)
    assert found["anatomy", "contrast_to_trunk"] == pytest.approx(difference - of_trunk)


def test_unknown_labels_are_neither_learned_from_nor_scored() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, (COUNT, 1)).astype(np.int8)
    features = {"trunk": rng.standard_normal((COUNT, 4)).astype(np.float32) + labels}
    hidden = labels.copy()
    hidden[::2] = -1
    odd = np.arange(COUNT) % 2 == 1
    some = probed(names(), features, {"side": Target(["left"], hidden)}, PROTOCOL)
    alone = probed(
        names()[odd].reset_index(drop=True),
        {"trunk": features["trunk"][odd]},
        {"side": Target(["left"], labels[odd])},
        PROTOCOL,
    )
    known = some.frame["label"] >= 0
    assert known.sum() == len(alone.frame)
    # Features are standardised over all training images, known or not: scores differ a little in scale.
    a, b = some.frame.loc[known, "score"], alone.frame["score"]
    assert np.corrcoef(a, b)[0, 1] > 0.999
    measured = metric_draws(some, PROTOCOL, draws=10)
    assert {one.n for one in measured} == {int(known.sum())}


def test_validation_alone_chooses_the_penalty() -> None:
    """Test labels may say anything: the scores stay the same."""
    rng = np.random.default_rng(1)
    split = names()["split"].to_numpy(dtype=str)
    labels = rng.integers(0, 2, COUNT).astype(np.int8)
    features = rng.standard_normal((COUNT, 30)) + 0.3 * labels[:, None]
    scores, shuffled = probe(features, labels, split, seed=0)
    assert shuffled.shape == (SHUFFLES, (split == "test").sum())
    changed = np.where(split == "test", 1 - labels, labels).astype(np.int8)
    assert np.array_equal(probe(features, changed, split, seed=0)[0], scores)
    assert not np.array_equal(probe(features, labels, split, seed=1)[1], shuffled)


def test_standardised_by_the_training_samples_alone() -> None:
    rng = np.random.default_rng(0)
    features = np.c_[rng.normal(5, 3, (200, 2)), np.full(200, 7.0)]
    training = np.arange(200) < 100
    scaled = standardised(features, training)
    assert scaled[training].mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-12)
    assert scaled[training].std(axis=0) == pytest.approx(np.array([1.0, 1.0, 0.0]))
    features[150] = 1000.0
    assert np.array_equal(standardised(features, training)[:100], scaled[:100])


def test_rare_classes_are_left_out_and_none_is_an_error() -> None:
    split = names()["split"].to_numpy(dtype=str)
    labels = np.zeros((COUNT, 3), dtype=np.int8)
    for name, least in FEWEST.items():
        labels[np.flatnonzero(split == name)[:least], 0] = 1
        labels[np.flatnonzero(split == name)[: least - (name == "val")], 1] = 1
    target = Target(["enough", "rare in val", "never"], labels)
    assert target.frequent(split).classes == ["enough"]
    rare = {"pathology": Target(["never"], labels[:, 2:])}
    features = {"trunk": np.ones((COUNT, 2), dtype=np.float32)}
    with pytest.raises(NothingToMeasure, match="frequent"):
        probed(names(), features, rare, PROTOCOL)
