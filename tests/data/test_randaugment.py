from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from replication.data import randaugment


@pytest.fixture(scope="module")
def outputs(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "randaugment.npz") as file:
        return dict(file)


CASES = {
    "AutoContrast": ("input", lambda x: randaugment.auto_contrast(x, "albef_bug")),
    "AutoContrast_min0": ("input_min0", lambda x: randaugment.auto_contrast(x, "albef_bug")),
    "Equalize": ("input", randaugment.equalize),
    "Brightness": ("input", randaugment.brighten),
    "Sharpness": ("input", lambda x: randaugment.sharpen(x, "wrap")),
    "Sharpness_0_255": ("input_0_255", lambda x: randaugment.sharpen(x, "wrap")),
    "ShearX": ("input", lambda x: randaugment.shear_x(x, 1.0)),
    "ShearX_neg": ("input", lambda x: randaugment.shear_x(x, -1.0)),
    "ShearY": ("input", lambda x: randaugment.shear_y(x, 1.0)),
    "TranslateX": ("input", lambda x: randaugment.translate_x(x, 1.0)),
    "TranslateY": ("input", lambda x: randaugment.translate_y(x, 1.0)),
    "Rotate": ("input", lambda x: randaugment.rotate(x, 1.0)),
    "Rotate_neg": ("input", lambda x: randaugment.rotate(x, -1.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_equals_the_released_one(outputs: dict[str, np.ndarray], name: str) -> None:
    source, operation = CASES[name]
    assert np.array_equal(operation(outputs[source]), outputs[name])


@pytest.mark.parametrize("seed", range(12))
def test_a_seeded_pipeline_equals_the_released_one(outputs: dict[str, np.ndarray], seed: int) -> None:
    result = randaugment.rand_augment(
        outputs["pipeline_input"],
        np.random.RandomState(seed),
        autocontrast="albef_bug",
        sharpness="wrap",
    )
    assert np.array_equal(result, outputs["pipeline_seed0_11"][seed])


def noise(low: int, high: int) -> np.ndarray:
    return np.random.default_rng(5).integers(low, high, (32, 32)).astype(np.uint8)


def test_the_released_autocontrast_whitens_what_has_no_black() -> None:
    image = noise(20, 200)
    assert (randaugment.auto_contrast(image, "albef_bug") == 255).all()
    correct = np.asarray(ImageOps.autocontrast(Image.fromarray(image)))
    assert np.array_equal(randaugment.auto_contrast(image, "pil"), correct)


def test_the_switches_agree_where_nothing_goes_wrong() -> None:
    image = noise(0, 200)
    assert image.min() == 0
    assert np.array_equal(
        randaugment.auto_contrast(image, "pil"), randaugment.auto_contrast(image, "albef_bug")
    )
    flat = np.full((8, 8), 90, np.uint8)
    assert np.array_equal(randaugment.sharpen(flat, "clip"), randaugment.sharpen(flat, "wrap"))


def test_the_released_sharpness_wraps_around_and_ours_clips() -> None:
    image = np.zeros((9, 9), np.uint8)
    image[4, 4] = 255
    image[:3] = 250
    wrapped, clipped = randaugment.sharpen(image, "wrap"), randaugment.sharpen(image, "clip")
    assert clipped[4, 4] == 255
    assert wrapped[4, 4] < 128
    assert np.array_equal(clipped[0], image[0])


def test_equalize_equals_pillow() -> None:
    image = noise(40, 90)
    assert np.array_equal(randaugment.equalize(image), np.asarray(ImageOps.equalize(Image.fromarray(image))))


def test_grey_images_are_treated_as_colour_ones() -> None:
    image = noise(10, 240)
    colour = np.repeat(image[..., None], 3, axis=-1)
    for seed in range(20):
        grey = randaugment.rand_augment(image, np.random.RandomState(seed))
        three = randaugment.rand_augment(colour, np.random.RandomState(seed))
        assert np.array_equal(three, np.repeat(grey[..., None], 3, axis=-1))
