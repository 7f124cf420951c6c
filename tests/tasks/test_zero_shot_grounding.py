from __future__ import annotations

from collections.abc import Sequence

import harness_doubles as doubles
import numpy as np
import pytest
import torch
from torch import Tensor

from replication.errors import DataError
from replication.method import Finding
from replication.tasks.common import NothingToMeasure, Predictions
from replication.tasks.zero_shot_grounding import (
    RELEASED_RULES,
    GroundingRules,
    measure,
    predict,
    upsample,
)

DATA = doubles.prepared(patients=40)
PROTOCOL = doubles.protocol()


class Seer(doubles.TinyMethod):
    """Sees the bright square: mean brightness of cells of 4 x 4 pixels, with a little noise from the sign."""

    gain = 1.0

    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(images[:, :1], 4)
        return (self.gain * cells).expand(-1, len(findings), -1, -1)


def seer(gain: float = 1.0) -> Seer:
    method = doubles.method(Seer)
    method.gain = gain
    return method


def values(predictions: Predictions, **rules: object) -> dict[str, float]:
    found = measure(predictions, PROTOCOL, draws=50, rules=GroundingRules(**rules))
    return {one.metric: one.value for one in found if one.finding == "spot"}


@pytest.fixture(scope="module")
def seen() -> Predictions:
    return predict(seer(), DATA, PROTOCOL, batch_size=16)


def test_only_images_with_a_region_keep_their_map(seen: Predictions) -> None:
    rows = np.concatenate([DATA.rows("val"), DATA.rows("test")])
    spot = DATA.labels[rows, 0] == 1
    assert set(seen.frame["finding"]) == {"spot"}
    assert (seen.frame["label"] == 1).tolist() == spot.tolist()
    assert seen.arrays["heat"].shape == (spot.sum(), 8, 8)
    truth = np.unpackbits(seen.arrays["truth"], axis=1, count=32 * 32).reshape(-1, 32, 32)
    assert np.array_equal(truth == 1, DATA.images[rows[spot]] == 250)
    images = DATA.batch(rows[:3], augmentation=None, seed=0).images
    highest = torch.nn.functional.avg_pool2d(images[:, :1], 4).amax((1, 2, 3))
    assert seen.frame["score"].to_numpy()[:3] == pytest.approx(highest.numpy(), abs=1e-6)


def test_a_method_that_sees_beats_the_share_of_the_box_and_one_that_sees_the_opposite_does_not(
    seen: Predictions,
) -> None:
    good = values(seen)
    assert good["box_share"] == pytest.approx((12 / 32) ** 2)
    assert good["pointing_game"] > 0.95
    assert good["pixel_auc"] > 0.95
    assert good["dice"] > 0.8
    inverted = values(predict(seer(-1.0), DATA, PROTOCOL))
    assert inverted["pointing_game"] < good["box_share"]
    assert inverted["pixel_auc"] < 0.1


def test_scale_and_offset_of_a_map_do_not_matter_by_default(seen: Predictions) -> None:
    moved = dict(seen.arrays)
    moved["heat"] = 7 * seen.arrays["heat"] - 30
    assert values(Predictions(seen.frame, moved)) == pytest.approx(values(seen), abs=1e-6)


def test_a_constant_map_finds_nothing_and_points_by_chance(seen: Predictions) -> None:
    flat = {**seen.arrays, "heat": np.ones_like(seen.arrays["heat"])}
    found = values(Predictions(seen.frame, flat))
    assert found["pixel_auc"] == 0.5
    assert found["dice"] == 0
    assert found["pointing_game"] == pytest.approx(found["box_share"], abs=0.05)


def test_released_rules_measure_the_size_of_the_box_only() -> None:
    """Positive everywhere and threshold 0: the predicted region is the whole image (audit G4)."""

    class Positive(Seer):
        def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
            return super().heatmap(images, findings).exp()

    predictions = predict(doubles.method(Positive), DATA, PROTOCOL)
    found = {m.metric: m for m in measure(predictions, PROTOCOL, draws=20, rules=RELEASED_RULES)}
    share = found["box_share"].value
    assert found["iou"].value == pytest.approx(share)
    assert found["dice"].value == pytest.approx(2 * share / (1 + share))
    assert found["recall"].value == 1
    assert found["threshold"].value == 0


def test_batch_maximum_depends_on_the_batch_and_the_own_range_does_not(seen: Predictions) -> None:
    lines = seen.frame["label"] == 1
    gains = np.random.default_rng(0).uniform(0.2, 1, (int(lines.sum()), 1, 1)).astype(np.float32)
    heat = gains * (1 + seen.arrays["heat"])
    frame = seen.frame.copy()
    frame.loc[lines, "score"] = heat.max((1, 2))
    faint = Predictions(frame, {**seen.arrays, "heat": heat})
    by_batch, own, by_image = (
        [values(faint, normalise=rule, threshold=0.8, batch_size=b)["dice"] for b in (1, 16)]
        for rule in ("batch_max", "image_range", "image_max")
    )
    assert by_batch[0] != by_batch[1]
    assert own[0] == own[1]
    assert by_batch[0] == pytest.approx(by_image[0]) == by_image[1]


def test_the_threshold_is_the_best_of_validation(seen: Predictions) -> None:
    frame = seen.frame
    val = ((frame["label"] == 1) & (frame["split"] == "val")).to_numpy()[(frame["label"] == 1).to_numpy()]
    swapped = frame.assign(split=frame["split"].map({"val": "test", "test": "val"}))
    chosen = values(seen)["threshold"]
    on_validation = Predictions(swapped, seen.arrays)
    best = values(on_validation, threshold=chosen)["dice"]
    heat = seen.arrays["heat"][val]
    scaled = (heat - heat.min((1, 2), keepdims=True)) / np.ptp(heat, axis=(1, 2), keepdims=True)
    for threshold in np.quantile(scaled, np.linspace(0.01, 0.99, 99)):
        assert values(on_validation, threshold=float(threshold))["dice"] <= best + 1e-9


def test_the_threshold_of_the_test_images_gives_the_highest_dice_there(seen: Predictions) -> None:
    """As MAVL's released sweep does (audit V5)."""
    best = {m.metric: m for m in measure(seen, PROTOCOL, draws=10, rules=GroundingRules(threshold="test"))}
    assert best["dice"].threshold_rule == "maximum mean Dice on test, image_range"
    lines = seen.frame["label"] == 1
    heat = seen.arrays["heat"][(seen.frame.loc[lines, "split"] == "test").to_numpy()]
    scaled = (heat - heat.min((1, 2), keepdims=True)) / np.ptp(heat, axis=(1, 2), keepdims=True)
    for threshold in np.quantile(scaled, np.linspace(0.01, 0.99, 99)):
        assert values(seen, threshold=float(threshold))["dice"] <= best["dice"].value + 1e-9


def test_without_validation_regions_the_threshold_is_fixed_and_says_so(seen: Predictions) -> None:
    frame = seen.frame
    lines = frame["label"] == 1
    test_only = (frame.loc[lines, "split"] == "test").to_numpy()
    kept = frame[~(lines & (frame["split"] == "val"))].reset_index(drop=True)
    arrays = {**seen.arrays, **{k: seen.arrays[k][test_only] for k in ("heat", "truth")}}
    found = {m.metric: m for m in measure(Predictions(kept, arrays), PROTOCOL, draws=20)}
    assert found["threshold"].value == 0.5
    assert "no regions in val" in found["dice"].threshold_rule


def test_upsampling() -> None:
    cells = np.arange(4.0).reshape(1, 2, 2)
    nearest = upsample(cells, 4, "nearest")[0]
    assert nearest.tolist() == np.repeat(np.repeat(cells[0], 2, 0), 2, 1).tolist()
    smooth = upsample(cells, 4, "bilinear")[0]
    assert smooth[0].tolist() == [0, 0.25, 0.75, 1]
    assert smooth[:, 0].tolist() == [0, 0.5, 1.5, 2]


def test_masks_serve_as_regions() -> None:
    data = doubles.prepared(patients=8, masks=True)
    protocol = doubles.protocol(
        grounding="masks", findings=[{"name": "spot", "column": "spot", "text": "spot"}]
    )
    with_masks = predict(seer(), data, protocol)
    with_boxes = predict(seer(), doubles.prepared(patients=8), doubles.protocol())
    assert np.array_equal(with_masks.arrays["truth"], with_boxes.arrays["truth"])


def test_nothing_to_measure_is_told_apart_from_errors() -> None:
    mute = doubles.method()
    type(mute).heatmap_kind = "none"
    try:
        with pytest.raises(NothingToMeasure, match="no heat maps"):
            predict(mute, DATA, PROTOCOL)
    finally:
        type(mute).heatmap_kind = "native"
    blank = doubles.prepared(patients=8)
    blank.manifest["boxes"] = "[]"
    with pytest.raises(NothingToMeasure, match="no regions"):
        predict(seer(), blank, PROTOCOL)


def test_maps_of_another_table_are_refused(seen: Predictions) -> None:
    arrays = {**seen.arrays, "heat": seen.arrays["heat"][1:]}
    with pytest.raises(DataError, match="do not belong together"):
        measure(Predictions(seen.frame, arrays), PROTOCOL, draws=10)
