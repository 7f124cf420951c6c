from __future__ import annotations

import harness_doubles as doubles
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from replication.tasks.adaptation import Adaptation
from replication.tasks.linear_probe import LinearProbe, probe
from replication.transfer_config import LinearProbeConfig

SETTINGS = LinearProbeConfig()


def normal(count: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the first differs between the classes by ``shift`` deviations."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int8)
    features = rng.standard_normal((count, 8)).astype(np.float32)
    features[:, 0] += shift * labels
    return features, labels


def test_it_finds_what_separates_the_classes() -> None:
    (x, y), (v, w), (a, b) = (normal(200, seed, shift=3.0) for seed in range(3))
    assert roc_auc_score(b, probe(x, y, v, w, a, SETTINGS)) > 0.95


def test_random_labels_land_at_chance() -> None:
    (x, y), (v, w), (a, b) = (normal(400, seed) for seed in range(3))
    assert abs(roc_auc_score(b, probe(x, y, v, w, a, SETTINGS)) - 0.5) < 0.1


def test_validation_alone_chooses_the_penalty() -> None:
    """Few labelled images of many features: the chosen C has the best validation AUC of all."""
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((2, 40, 60)).astype(np.float32)
    y, w = (x[:, :20].sum(1) > 0).astype(np.int8), (v[:, :20].sum(1) > 0).astype(np.int8)
    single = {
        value: roc_auc_score(
            w, probe(x, y, v, w, v, SETTINGS.model_copy(update={"inverse_penalties": (value,)}))
        )
        for value in SETTINGS.inverse_penalties
    }
    assert len(set(single.values())) > 1
    assert roc_auc_score(w, probe(x, y, v, w, v, SETTINGS)) == pytest.approx(max(single.values()))


def test_the_scale_of_the_features_does_not_matter() -> None:
    (x, y), (v, w), (a, _) = (normal(100, seed, shift=1.0) for seed in range(3))
    scale = np.geomspace(1e-2, 1e2, 8).astype(np.float32)
    plain = probe(x, y, v, w, a, SETTINGS)
    np.testing.assert_allclose(probe(x * scale, y, v * scale, w, a * scale, SETTINGS), plain, atol=1e-3)


def test_a_validation_split_of_one_class_takes_the_middle_penalty() -> None:
    (x, y), (a, _) = (normal(100, seed, shift=1.0) for seed in range(2))
    one = SETTINGS.model_copy(update={"inverse_penalties": (1.0,)})
    chosen = probe(x, y, a, np.zeros(100, np.int8), a, SETTINGS)
    np.testing.assert_array_equal(chosen, probe(x, y, a, np.zeros(100, np.int8), a, one))


def test_features_are_computed_once_and_the_trunk_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    data, trunk = doubles.prepared(40), doubles.method().trunk
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    learner = LinearProbe(Adaptation(trunk, data, doubles.protocol(), seed=0, batch_size=16), SETTINGS)
    whole = learner.predict(data.rows("train"), 1.0).frame
    assert list(whole["finding"].unique()) == list(doubles.LABELS)
    assert set(whole["split"]) == {"val", "test"}
    monkeypatch.setattr(Adaptation, "images", None)
    half = learner.predict(data.rows("train")[::2], 0.5).frame
    assert not np.array_equal(half["score"], whole["score"])
    assert all(torch.equal(value, before[key]) for key, value in trunk.state_dict().items())


def test_labels_that_are_not_known_are_left_out() -> None:
    data = doubles.prepared(60)
    train = data.rows("train")
    data.labels[train[::3], 0] = -1
    learner = LinearProbe(Adaptation(doubles.method().trunk, data, doubles.protocol(), seed=0), SETTINGS)
    scores = learner.predict(train, 1.0).frame["score"]
    data.images[train[::3]] = 0
    again = LinearProbe(Adaptation(doubles.method().trunk, data, doubles.protocol(), seed=0), SETTINGS)
    spot = (learner.predict(train, 1.0).frame["finding"] == "spot").to_numpy()
    np.testing.assert_array_equal(again.predict(train, 1.0).frame["score"][spot], scores[spot])
