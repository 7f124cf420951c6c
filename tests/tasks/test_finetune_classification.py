from __future__ import annotations

import harness_doubles as doubles
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from replication.data.batches import PreparedData
from replication.errors import DataError
from replication.tasks import zero_shot_classification
from replication.tasks.adaptation import Adaptation
from replication.tasks.common import Predictions
from replication.tasks.finetune_classification import ClassifierTuning, masked_cross_entropy
from replication.transfer_config import FineTuneConfig

SETTINGS = FineTuneConfig(epochs=0, min_steps=60, checks=3, batch_size=16, trunk_lr=3e-3, head_lr=1e-2)
PROTOCOL = doubles.protocol()


def tuned(data: PreparedData, **changes: object) -> Predictions:
    settings = SETTINGS.model_copy(update=changes)
    adaptation = Adaptation(doubles.method().trunk, data, PROTOCOL, seed=0, batch_size=64)
    return ClassifierTuning(adaptation, settings).predict(data.rows("train"), 1.0)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return doubles.prepared(120)


@pytest.fixture(scope="module")
def predictions(data: PreparedData) -> Predictions:
    return tuned(data)


def of(predictions: Predictions, finding: str) -> tuple[np.ndarray, np.ndarray]:
    frame = predictions.frame
    test = frame[(frame["finding"] == finding) & (frame["split"] == "test")]
    return test["label"].to_numpy(), test["score"].to_numpy()


def test_it_learns_what_is_there_and_nothing_else(predictions: Predictions) -> None:
    assert roc_auc_score(*of(predictions, "spot")) > 0.9
    assert abs(roc_auc_score(*of(predictions, "noise")) - 0.5) < 0.2


def test_labels_that_say_nothing_of_the_images_land_at_chance() -> None:
    """Half of the images with a square and half of those without are called present."""
    data = doubles.prepared(120)
    train = data.rows("train")
    for group in [train[data.labels[train, 0] == value] for value in (0, 1)]:
        data.labels[group, 0] = np.arange(len(group)) % 2
    assert abs(roc_auc_score(*of(tuned(data), "spot")) - 0.5) < 0.25


def test_metrics_are_those_of_scikit_learn(predictions: Predictions) -> None:
    measured = zero_shot_classification.measure(predictions, PROTOCOL, draws=10)
    found = {(one.finding, one.metric): one.value for one in measured}
    labels, scores = of(predictions, "spot")
    calls = scores >= found["spot", "threshold"]
    assert found["spot", "auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["spot", "ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found["spot", "f1"] == pytest.approx(f1_score(labels, calls), abs=1e-12)
    assert found["spot", "accuracy"] == pytest.approx(accuracy_score(labels, calls), abs=1e-12)


def test_the_same_again_gives_the_same(data: PreparedData, predictions: Predictions) -> None:
    torch.manual_seed(99)
    np.testing.assert_array_equal(tuned(data).frame["score"], predictions.frame["score"])


def test_the_given_trunk_stays(data: PreparedData) -> None:
    trunk = doubles.method().trunk
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    ClassifierTuning(
        Adaptation(trunk, data, PROTOCOL, seed=0), SETTINGS.model_copy(update={"min_steps": 3})
    ).predict(data.rows("train"), 1.0)
    assert all(torch.equal(value, before[key]) for key, value in trunk.state_dict().items())


def test_test_images_choose_nothing_unless_asked_to(predictions: Predictions) -> None:
    """With other labels of the test images the weights stay, but not where the test split selects."""
    data = doubles.prepared(120)
    test = data.rows("test")
    data.labels[test] = 1 - data.labels[test]
    np.testing.assert_array_equal(tuned(data).frame["score"], predictions.frame["score"])
    flattered, other = (tuned(one, select="test") for one in (doubles.prepared(120), data))
    assert not np.array_equal(flattered.frame["score"], other.frame["score"])


def test_unknown_labels_teach_nothing() -> None:
    logits = torch.tensor([[0.3, 2.0], [-1.0, 0.1]], requires_grad=True)
    labels = torch.tensor([[1, -1], [0, -1]], dtype=torch.int8)
    loss = masked_cross_entropy(logits, labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], torch.tensor([1.0, 0.0]))
    assert torch.isclose(loss, expected)
    loss.backward()
    assert torch.equal(logits.grad[:, 1], torch.zeros(2))
    assert masked_cross_entropy(logits, torch.full_like(labels, -1)) == 0


def test_a_validation_split_of_one_class_is_refused_before_training() -> None:
    data = doubles.prepared(24)
    data.labels[data.rows("val")] = 0
    with pytest.raises(DataError, match=r"both classes[^!]*'val'"):
        tuned(data)
