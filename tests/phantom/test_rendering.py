from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from replication.errors import ConfigError, DataError
from replication.knowledge.vocabulary import ANATOMIES
from replication.phantom.anatomy import chest
from replication.phantom.findings import SIGNS, deform
from replication.phantom.population import sample_scenes
from replication.phantom.rendering import ACQUISITIONS, boxes, regions, render
from replication.phantom.scene import FINDINGS, FindingInstance, Scene, Side, Zone

SITES = [
    (finding, side, zone)
    for finding in FINDINGS
    for side, zones in SIGNS[finding].sites.items()
    for zone in zones
]
HEIGHTS = {
    "apical": (0.0, 0.3),
    "upper": (0.05, 0.5),
    "hilar": (0.2, 0.65),
    "mid": (0.3, 0.72),
    "lower": (0.5, 1.1),
    "base": (0.55, 1.1),
    "retrocardiac": (0.5, 1.2),
}
"""Where, in relative height of the lung, the middle of a mask of each zone may lie."""


def scene_of(finding: str, side: Side, zone: Zone, patient: int = 3, severity: float = 0.7) -> Scene:
    return Scene(patient, 3 * patient, 4 * patient, "PA", (FindingInstance(finding, side, zone, severity),))


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    scenes = sample_scenes(6, seed=2)
    first, second = render(scenes, seed=2), render(scenes, seed=2)
    assert first.images.tobytes() == second.images.tobytes()
    assert [list(m) for m in first.masks] == [list(m) for m in second.masks]
    assert render(scenes, seed=3).images.tobytes() != first.images.tobytes()


@pytest.mark.parametrize("size", [96, 128, 224])
def test_an_image_does_not_depend_on_its_batch(size: int) -> None:
    scenes = sample_scenes(5, seed=2)
    together = render(scenes, size, seed=2)
    assert together.images.shape == (len(scenes), size, size)
    for i, scene in enumerate(reversed(scenes)):
        alone = render([scene], size, seed=2)
        at = len(scenes) - 1 - i
        assert np.array_equal(alone.images[0], together.images[at])
        assert alone.masks[0].keys() == together.masks[at].keys()
        for key, mask in alone.masks[0].items():
            assert np.array_equal(mask, together.masks[at][key])


def test_a_normal_chest_has_no_masks_and_a_film_uses_the_grey_scale() -> None:
    rendered = render([Scene(p, 3 * p, 4 * p, "PA") for p in range(5)])
    assert all(masks == {} for masks in rendered.masks)
    assert (rendered.images.reshape(5, -1).std(axis=1) > 30).all()


@pytest.mark.parametrize(("finding", "side", "zone"), SITES)
def test_a_mask_lies_on_the_stated_side_and_in_the_stated_zone(finding: str, side: Side, zone: Zone) -> None:
    for patient in (3, 8):
        scene = scene_of(finding, side, zone, patient)
        mask = render([scene]).masks[0][finding, side]
        places = regions(scene)
        assert mask.any()
        right, left = places["right_lung_unspec"], places["left_lung_unspec"]
        if side == "left":
            assert not (mask & right).any() and (mask & (left | places["heart_size"])).any()
        elif side == "right":
            assert not (mask & left).any() and (mask & (right | places["heart_size"])).any()
        elif side == "bilateral":
            assert (mask & left).any() and (mask & right).any()
        if zone in HEIGHTS:
            rows = np.flatnonzero(places["pulmonary"].any(axis=1))
            middle = (np.flatnonzero(mask.any(axis=1)).mean() - rows[0]) / (rows[-1] - rows[0])
            low, high = HEIGHTS[zone]
            assert low <= middle <= high
        elif zone == "pleural":
            assert (mask & places["pleural_unspec"]).any()
        elif zone == "cardiac":
            assert (mask & places["heart_size"]).sum() > 0.9 * mask.sum()


def test_regions_speak_the_released_vocabulary_and_lie_in_the_film() -> None:
    places = regions(Scene(1, 3, 4, "AP"), size=96)
    assert set(places) <= set(ANATOMIES)
    assert all(mask.shape == (96, 96) and mask.any() for mask in places.values())
    assert not (places["left_lung_unspec"] & places["right_lung_unspec"]).any()


def test_left_is_on_the_right_of_the_image() -> None:
    mask = render([scene_of("mass", "left", "mid")]).masks[0]["mass", "left"]
    x, _, width, _ = boxes(mask)
    assert x + width / 2 > 0.5


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_image_inside_its_mask_more_than_outside(finding: str) -> None:
    inside, outside = [], []
    for patient in range(20, 28):
        side, zones = list(SIGNS[finding].sites.items())[patient % len(SIGNS[finding].sites)]
        scene = scene_of(finding, side, zones[patient % len(zones)], patient)
        rendered = render([scene, replace(scene, findings=())])
        mask = rendered.masks[0][finding, side]
        change = _change(rendered.images, ~mask)
        inside.append(change[mask].mean())
        outside.append(change[~mask].mean())
    assert np.mean(inside) > 1.2 * np.mean(outside)


def _change(pair: NDArray[np.uint8], elsewhere: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What differs between two films beyond the display curve, which is fitted where nothing was found."""
    shown, plain = pair / 255.0
    curve = np.polyfit(plain[elsewhere], shown[elsewhere], 3)
    change: NDArray[np.float64] = np.abs(shown - np.polyval(curve, plain))
    return change


@pytest.mark.parametrize("finding", ["effusion", "nodule", "pneumothorax", "mass"])
def test_severity_makes_a_finding_larger(finding: str) -> None:
    zone = SIGNS[finding].sites["left"][-1]
    areas = [
        render([scene_of(finding, "left", zone, severity=severity)]).masks[0][finding, "left"].sum()
        for severity in (0.2, 0.6, 1.0)
    ]
    assert areas[0] < areas[1] < areas[2]


def test_cardiomegaly_widens_the_heart_beyond_that_of_healthy_chests() -> None:
    healthy = [chest(0, p, 4 * p, "PA").cardiothoracic_ratio() for p in range(300)]
    assert np.mean(healthy) < 0.48 and np.quantile(healthy, 0.99) < 0.54
    for patient in range(10):
        scene = scene_of("cardiomegaly", "midline", "cardiac", patient, severity=0.5)
        large = chest(0, patient, scene.image, "PA")
        deform(large, scene)
        assert large.cardiothoracic_ratio() > 0.55


def test_patients_differ_and_films_of_a_patient_resemble_each_other() -> None:
    ratios = {round(chest(0, p, 4 * p, "PA").width, 3) for p in range(20)}
    assert len(ratios) == 20
    assert chest(0, 5, 20, "PA").width == chest(0, 5, 21, "PA").width


def test_boxes_hold_the_mask_and_stay_inside_the_image() -> None:
    scenes = sample_scenes(60, seed=6)
    rendered = render(scenes, acquisition="covidx-cxr4", seed=6)
    for i, scene in enumerate(scenes):
        shown = list(rendered.masks.instances(i))
        assert [instance for instance, _ in shown] == list(scene.findings)
        for _, mask in shown:
            x, y, width, height = boxes(mask)
            assert width > 0 and height > 0
            assert x >= 0 and y >= 0 and x + width <= 1 and y + height <= 1
            rows, columns = (
                slice(round(y * 128), round((y + height) * 128)),
                slice(round(x * 128), round((x + width) * 128)),
            )
            assert mask[rows, columns].sum() == mask.sum()
    assert boxes(np.zeros((8, 8), bool)) == (0.0, 0.0, 0.0, 0.0)


def test_masks_unite_instances_of_one_finding_and_side() -> None:
    pair = (FindingInstance("nodule", "left", "upper", 0.8), FindingInstance("nodule", "left", "lower", 0.8))
    rendered = render([Scene(1, 3, 4, "PA", pair)])
    apart = [mask for _, mask in rendered.masks.instances(0)]
    assert not (apart[0] & apart[1]).any()
    assert np.array_equal(rendered.masks[0]["nodule", "left"], apart[0] | apart[1])


def test_hospitals_show_the_same_patient_differently() -> None:
    scenes = sample_scenes(8, seed=2)
    shown = {name: render(scenes, acquisition=name, seed=2).images for name in ACQUISITIONS}
    for name, images in shown.items():
        if name != "mimic-cxr":
            assert not np.array_equal(images, shown["mimic-cxr"])
            assert abs(images.astype(float) - shown["mimic-cxr"]).mean() > 8


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="mimic-cxr"):
        render([], acquisition="mimic")
    with pytest.raises(DataError, match="midline"):
        render([scene_of("hernia", "left", "retrocardiac")])
    with pytest.raises(DataError, match="severity"):
        render([scene_of("nodule", "left", "mid", severity=1.5)])
    with pytest.raises(DataError, match="unknown finding"):
        render([scene_of("fracture", "left", "mid")])


def golden_images() -> NDArray[np.uint8]:
    return render(sample_scenes(3, seed=20)[:4], 64, seed=20).images


GOLDEN_THUMBNAILS = [
    "38 69 72 38 154 96 105 160 143 128 161 158 203 242 243 196",
    "49 81 79 40 180 83 96 170 160 107 147 142 210 243 238 205",
    "189 144 144 188 154 82 100 151 140 132 183 142 220 243 245 221",
    "144 131 130 164 184 67 89 155 138 85 179 111 220 242 249 232",
]
"""Mean grey value of each of the 4 x 4 blocks of the four images."""
GOLDEN_SHA256 = "d6d2e061e42b5c9e92f639d221030d9dd77f65f8f7e2249e55432ee566a1379d"


def test_the_frozen_pictures_look_as_they_did() -> None:
    blocks = golden_images().reshape(4, 4, 16, 4, 16).mean(axis=(2, 4)).reshape(4, 16)
    assert np.abs(blocks - [[int(value) for value in row.split()] for row in GOLDEN_THUMBNAILS]).max() < 1.5


def test_the_frozen_pictures_are_the_same_bytes() -> None:
    simd = (np.show_config(mode="dicts") or {}).get("SIMD Extensions", {}).get("found", [])
    if (np.__version__, cv2.__version__) != ("2.4.6", "5.0.0") or not any("AVX512" in name for name in simd):
        pytest.skip(
            "bytes were recorded with NumPy 2.4.6, OpenCV 5.0.0 and AVX-512; rounding may differ here"
        )
    assert sha256(golden_images().tobytes()).hexdigest() == GOLDEN_SHA256
