from __future__ import annotations

import harness_doubles as doubles
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score

from replication.data.batches import PreparedData
from replication.errors import ConfigError, DataError
from replication.tasks.adaptation import Adaptation
from replication.tasks.common import NothingToMeasure, Predictions
from replication.tasks.finetune_segmentation import (
    THRESHOLDS,
    SegmentationTuning,
    balanced,
    count_pixels,
    known_regions,
    measure,
    region_loss,
    region_masks,
)
from replication.transfer_config import SegmentationConfig

SETTINGS = SegmentationConfig(
    epochs=0,
    min_steps=60,
    checks=2,
    batch_size=16,
    trunk_lr=3e-3,
    head_lr=1e-2,
    decoder_channels=(16, 16, 8, 8),
)
SPOT = [{"name": "spot", "column": "spot", "text": "spot"}]


def protocol(grounding: str = "boxes") -> object:
    return doubles.protocol(findings=SPOT, grounding=grounding)


def learner(data: PreparedData, grounding: str = "boxes", **changes: object) -> SegmentationTuning:
    adaptation = Adaptation(doubles.method().trunk, data, protocol(grounding), seed=0, batch_size=32)
    return SegmentationTuning(adaptation, SETTINGS.model_copy(update=changes))


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return doubles.prepared(80)


@pytest.fixture(scope="module")
def predictions(data: PreparedData) -> Predictions:
    return learner(data).predict(data.rows("train"), 1.0)


def values(predictions: Predictions) -> dict[str, float]:
    measured = measure(predictions, protocol(), draws=10)
    return {one.metric: one.value for one in measured if one.metric != "threshold"}


def test_it_finds_the_regions(predictions: Predictions) -> None:
    found = values(predictions)
    assert found["dice"] > 0.7
    assert found["iou"] > 0.55
    assert set(found) == {"dice", "iou", "dice_all", "iou_all"}


def test_the_same_again_gives_the_same(data: PreparedData, predictions: Predictions) -> None:
    torch.manual_seed(99)
    again = learner(data).predict(data.rows("train"), 1.0)
    for name, array in predictions.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_frozen_encoder_learns_less_than_an_updated_one(
    data: PreparedData, predictions: Predictions
) -> None:
    frozen = learner(data, encoder="frozen").predict(data.rows("train"), 1.0)
    assert not np.array_equal(frozen.arrays["found"], predictions.arrays["found"])
    assert values(frozen)["dice"] > 0.2


def test_regions_that_are_shuffled_in_training_are_not_found(predictions: Predictions) -> None:
    data = doubles.prepared(80, masks=True)
    train = data.rows("train")
    data.masks[train] = data.masks[np.random.default_rng(0).permutation(train)]
    data.labels[train, 0] = data.masks[train].any(axis=(1, 2))
    broken = learner(data, "masks").predict(train, 1.0)
    test = data.masks[data.rows("test")]
    where = np.broadcast_to(data.masks[train].mean(axis=0) / data.masks[train].mean(axis=0).max(), test.shape)
    chance = count_pixels(where.astype(np.float32), test.astype(bool)).dice()[test.any(axis=(1, 2))]
    assert values(broken)["dice"] < chance.mean(axis=0).max() + 0.05
    assert values(predictions)["dice"] > chance.mean(axis=0).max() + 0.15


@given(
    st.integers(0, 10_000).flatmap(lambda seed: st.just(np.random.default_rng(seed))),
)
@settings(max_examples=10, deadline=None)
def test_counts_give_the_dice_and_iou_of_scikit_learn(rng: np.random.Generator) -> None:
    probability = rng.random((4, 6, 6)).astype(np.float32)
    probability[0] = 0.01
    truth = rng.random((4, 6, 6)) < 0.3
    truth[:2] = False
    counts = count_pixels(probability, truth)
    for k in range(0, len(THRESHOLDS), 6):
        called = probability > np.float32(THRESHOLDS[k])
        for i in range(4):
            both = truth[i].ravel(), called[i].ravel()
            assert counts.dice()[i, k] == pytest.approx(f1_score(*both, zero_division=1.0))
            assert counts.iou()[i, k] == pytest.approx(
                jaccard_score(*both, zero_division=1.0) if any(map(np.any, both)) else 1.0
            )


def stored(true: list[int], found: list[list[int]], hit: list[list[int]], split: list[str]) -> Predictions:
    """Predictions with two thresholds."""
    names = [f"image{i}" for i in range(len(true))]
    frame = pd.DataFrame(
        {"sample": names, "patient": names, "split": split, "finding": "spot", "score": 0.5, "label": 1}
    ).astype({"score": np.float32, "label": np.int8})
    arrays = {
        name: np.array(value, np.int32) for name, value in (("found", found), ("hit", hit), ("true", true))
    }
    return Predictions(frame, {**arrays, "thresholds": THRESHOLDS[[4, 9]]})


def test_thresholds_come_from_validation_and_empty_images_count_in_all_only() -> None:
    made = stored(
        true=[10, 0, 10, 0, 0],
        found=[[10, 0], [5, 0], [10, 2], [3, 0], [0, 0]],
        hit=[[10, 0], [0, 0], [5, 2], [0, 0], [0, 0]],
        split=["val", "val", "test", "test", "test"],
    )
    measured = measure(made, protocol(), draws=20)
    found = {one.metric: one for one in measured if one.metric != "threshold"}
    # On val: with a region 1 against 0; over all images (1 + 0) / 2 against (0 + 1) / 2, the first of equals.
    assert found["dice"].value == pytest.approx(2 * 5 / 20)
    assert found["iou"].value == pytest.approx(5 / 15)
    assert (found["dice"].n, found["dice"].n_positive) == (1, 1)
    assert found["dice_all"].value == pytest.approx((0.5 + 0 + 1) / 3)
    assert (found["dice_all"].n, found["dice_all"].n_positive) == (3, 1)
    assert "scores 1 if nothing is found in it, else 0" in found["dice_all"].threshold_rule
    assert [one.value for one in measured if one.metric == "threshold"] == [THRESHOLDS[4]] * 2


def test_the_interval_goes_over_patients() -> None:
    dice = np.arange(1, 9)
    made = stored(
        true=[10] * 9,
        found=[[10, 10]] * 9,
        hit=[[5, 5], *([int(one), 0] for one in dice)],
        split=["val", *["test"] * 8],
    )
    made.frame["patient"] = ["v", *["one"] * 4, *["two"] * 4]
    measured = {one.metric: one for one in measure(made, protocol(), draws=500)}
    assert measured["dice"].lower == pytest.approx(0.25)
    assert measured["dice"].upper == pytest.approx(0.65)


def test_boxes_and_masks_are_the_same_target() -> None:
    boxes, masks = doubles.prepared(20), doubles.prepared(20, masks=True)
    rows = np.arange(40)
    drawn = region_masks(boxes, rows, protocol())
    np.testing.assert_array_equal(drawn, region_masks(masks, rows, protocol("masks")))
    np.testing.assert_array_equal(drawn.any(axis=(1, 2)), boxes.labels[:, 0] == 1)


def test_a_finding_without_a_drawn_region_is_not_used(data: PreparedData) -> None:
    partly = doubles.prepared(40)
    present = np.flatnonzero(partly.labels[:, 0] == 1)
    partly.manifest.loc[present[:5], "boxes"] = "[]"
    known = known_regions(partly, protocol())
    assert not known[present[:5]].any()
    assert known.sum() == len(known) - 5
    predicted = learner(partly, min_steps=1, checks=1).predict(partly.rows("train"), 1.0)
    assert not set(partly.manifest["sample_id"].iloc[present[:5]]) & set(predicted.frame["sample"])


def test_as_many_images_without_a_region_as_with_one() -> None:
    absent = np.array([True, False, True, True, False, True])
    rows = np.arange(10, 16)
    drawn = [balanced(rows, absent, seed) for seed in range(20)]
    assert all(set(one) >= {11, 14} and len(one) == 4 for one in drawn)
    assert len({tuple(one) for one in drawn}) > 1
    assert list(balanced(rows, ~absent, 0)) == list(rows)


def test_the_loss_is_cross_entropy_and_dice() -> None:
    logits = torch.zeros(1, 1, 2, 2)
    masks = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    dice = (2 * 0.5 + 1) / (4 * 0.5 + 1 + 1)
    assert float(region_loss(logits, masks)) == pytest.approx(np.log(2) + 1 - dice)
    sure = torch.where(masks[:, None] == 1, 30.0, -30.0)
    assert float(region_loss(sure, masks)) == pytest.approx(0, abs=1e-6)


def test_a_trunk_with_one_map_cannot_be_decoded(data: PreparedData) -> None:
    trunk = doubles.method().trunk
    trunk.stage_channels = (32,)
    with pytest.raises(NothingToMeasure, match="no finer feature maps"):
        SegmentationTuning(Adaptation(trunk, data, protocol(), seed=0), SETTINGS)


def test_a_protocol_with_several_findings_or_no_regions_is_refused(data: PreparedData) -> None:
    trunk = doubles.method().trunk
    with pytest.raises(ConfigError, match="one finding"):
        SegmentationTuning(Adaptation(trunk, data, doubles.protocol(), seed=0), SETTINGS)
    with pytest.raises(NothingToMeasure, match="no regions"):
        SegmentationTuning(Adaptation(trunk, data, protocol("none"), seed=0), SETTINGS)


def test_labels_without_any_region_are_refused_before_training() -> None:
    data = doubles.prepared(24)
    data.manifest["boxes"] = "[]"
    with pytest.raises(DataError, match=r"nothing to segment[^!]*0 labelled images"):
        learner(data).predict(data.rows("train"), 1.0)
