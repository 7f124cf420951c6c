from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replication.data.augmentation import (
    LUNG_FIELD,
    affine_maps,
    augment,
    augment_pairs,
    crop_box,
    mirror_triplets,
)
from replication.errors import ConfigError
from replication.knowledge.vocabulary import anatomy_index, pathology_index
from replication.training_config import AugmentationConfig

STILL = {"crop_scale": (1.0, 1.0), "rotation": 0.0, "translation": 0.0, "jitter": 0.0}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 48, 48)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["batched", "released"])
def test_a_seed_repeats_a_batch_and_another_changes_it(images: np.ndarray, kind: str) -> None:
    config = AugmentationConfig(kind=kind, hflip="keep_labels")
    first, again, other = (augment(images, config, seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert np.array_equal(first.flipped, again.flipped)
    assert not torch.equal(first.images, other.images)
    assert 0 < first.flipped.sum() < len(images)
    assert first.images.dtype == torch.float32
    assert first.images.min() >= 0
    assert first.images.max() <= 255


@pytest.mark.parametrize("kind", ["batched", "released"])
def test_nothing_flips_by_default(images: np.ndarray, kind: str) -> None:
    assert not augment(images, AugmentationConfig(kind=kind), 1).flipped.any()


def test_without_any_motion_the_batch_is_unchanged_but_for_its_flips(images: np.ndarray) -> None:
    assert torch.equal(
        augment(images, AugmentationConfig(**STILL), 1).images, torch.from_numpy(images).float()
    )
    result = augment(images, AugmentationConfig(hflip="keep_labels", **STILL), 1)
    expected = np.where(result.flipped[:, None, None], images[:, :, ::-1], images)
    assert np.array_equal(result.images.numpy(), expected)


@given(st.integers(0, 10_000), st.sampled_from(["off", "keep_labels"]))
def test_the_lung_field_stays_in_view(seed: int, hflip: str) -> None:
    """No default crop, rotation or shift puts the lateral pleura outside the image."""
    maps, _ = affine_maps(8, AugmentationConfig(hflip=hflip), np.random.default_rng(seed))
    field = 2 * np.array([(x * LUNG_FIELD[0], y * LUNG_FIELD[1]) for x in (-1, 1) for y in (-1, 1)])
    for matrix in maps:
        shown = np.linalg.solve(matrix[:, :2], (field - matrix[:, 2]).T)
        assert np.abs(shown).max() <= 1 + 1e-9


def test_a_stripe_at_the_lateral_pleura_survives_every_default_augmentation() -> None:
    size = 128
    image = np.zeros((size, size), np.uint8)
    edge = round((0.5 - LUNG_FIELD[0]) * size)
    image[60:68, edge : edge + 4] = 255
    result = augment(np.repeat(image[None], 200, 0), AugmentationConfig(jitter=0.0), 7).images
    assert (result.amax(dim=(1, 2)) > 200).all()


def test_what_lies_outside_repeats_the_border() -> None:
    images = np.full((8, 32, 32), 77, np.uint8)
    config = AugmentationConfig(translation=0.5, rotation=45, jitter=0.0)
    assert torch.equal(augment(images, config, 0).images, torch.full((8, 32, 32), 77.0))


def test_jitter_changes_brightness_and_contrast_only(images: np.ndarray) -> None:
    soft = (images // 4 + 90).astype(np.uint8)
    result = augment(soft, AugmentationConfig(**{**STILL, "jitter": 0.2}), 2).images.numpy()
    for before, after in zip(soft, result, strict=True):
        slope, offset = np.polyfit(before.ravel(), after.ravel(), 1)
        assert np.allclose(after, slope * before + offset, atol=1e-2)
        assert 0.8**2 <= slope <= 1.2**2


@given(st.integers(0, 500), st.integers(8, 60), st.integers(8, 60))
def test_released_crops_lie_inside(seed: int, height: int, width: int) -> None:
    top, left, h, w = crop_box(height, width, (0.2, 1.0), np.random.RandomState(seed))
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    assert h > 0
    assert w > 0


def test_mirroring_swaps_the_sides_and_drops_what_has_no_partner() -> None:
    triplets = np.full((1, 51, 75), -1, np.int8)
    effusion = pathology_index("effusion")
    triplets[0, anatomy_index("left_pleural"), effusion] = 1
    triplets[0, anatomy_index("right_pleural"), effusion] = 0
    triplets[0, anatomy_index("trachea"), effusion] = 1
    triplets[0, anatomy_index("middle_right_lobe"), effusion] = 1
    before = triplets.copy()
    mirrored = mirror_triplets(triplets)
    assert mirrored[0, anatomy_index("left_pleural"), effusion] == 0
    assert mirrored[0, anatomy_index("right_pleural"), effusion] == 1
    assert mirrored[0, anatomy_index("trachea"), effusion] == 1
    assert (mirrored[0, anatomy_index("middle_right_lobe")] == -1).all()
    assert np.array_equal(triplets, before)
    twice = mirror_triplets(mirrored)
    before[0, anatomy_index("middle_right_lobe")] = -1
    assert np.array_equal(twice, before)


def test_masks_move_with_their_images() -> None:
    """A bright disc and its mask still cover each other after any warp."""
    row, column = np.mgrid[:64, :64]
    masks = np.stack([(row - y) ** 2 + (column - x) ** 2 < 80 for y, x in ((20, 30), (40, 25), (32, 40))])
    config = AugmentationConfig(crop_scale=(0.5, 1.0), rotation=20, translation=0.2, hflip="keep_labels")
    for seed in range(5):
        images, moved = augment_pairs(masks.astype(np.uint8) * 200, masks.astype(np.uint8), config, seed)
        bright = images.numpy() > images.numpy().max(axis=(1, 2), keepdims=True) / 2
        assert set(np.unique(moved)) == {0, 1}
        assert (bright & (moved == 1)).sum() / (bright | (moved == 1)).sum() > 0.9
        assert not np.array_equal(moved, masks)


def test_images_of_pairs_are_those_of_images_alone(images: np.ndarray) -> None:
    config = AugmentationConfig(hflip="keep_labels")
    pixels, _ = augment_pairs(images, np.zeros_like(images), config, 7)
    assert torch.equal(pixels, augment(images, config, 7).images)


def test_masks_cannot_follow_the_released_augmentation(images: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="batched"):
        augment_pairs(images, np.zeros_like(images), AugmentationConfig(kind="released"), 0)
