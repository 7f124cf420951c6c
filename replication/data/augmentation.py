"""Training augmentation of uint8 images from the cache; every draw comes from the seed of the batch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from replication.data.randaugment import rand_augment
from replication.errors import ConfigError
from replication.knowledge.vocabulary import ANATOMIES, anatomy_index, mirrored
from replication.training_config import AugmentationConfig

LUNG_FIELD = (0.40, 0.33)
"""Half-width and half-height, as shares of the side, of the middle part that ``batched`` keeps in view.

A crop may not cut off the lateral pleura, where effusions, pneumothoraces and thickening are read."""

_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10
_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

cv2.setNumThreads(1)


class Augmented(NamedTuple):
    """``images`` [B, S, S] float32 in 0..255; ``flipped`` [B], which of them were mirrored."""

    images: Tensor
    flipped: NDArray[np.bool_]


class Share(NamedTuple):
    """Which images of a batch these are: from ``start``, out of ``total`` that draws are made for."""

    start: int
    total: int

    def of(self, drawn: NDArray[Any], count: int) -> NDArray[Any]:
        """The part of ``[total, ...]`` that belongs to ``count`` images of their own."""
        return drawn[self.start : self.start + count]


def augment(
    images: NDArray[np.uint8], config: AugmentationConfig, seed: int, share: Share | None = None
) -> Augmented:
    """Augment a batch [B, S, S]; equal arguments give equal results.

    Args:
        share: the images are only a part of the batch, and come out as they would in all of it.
    """
    share = share or Share(0, len(images))
    if config.kind == "batched":
        return _batched(images, config, np.random.default_rng([seed, 0xA06]), share)
    return _released(images, config, seed, share)


def augment_pairs(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], config: AugmentationConfig, seed: int
) -> tuple[Tensor, NDArray[np.uint8]]:
    """Augment images ``[B, S, S]`` and move their masks ``[B, S, S]`` with them.

    What comes into view from outside the image belongs to no mask.

    Raises:
        ConfigError: the kind of augmentation does not say where pixels go.
    """
    if config.kind != "batched":
        raise ConfigError(
            "Masks can only follow the augmentation 'batched'.", found=config.kind, allowed="batched"
        )
    rng = np.random.default_rng([seed, 0xA06])
    share = Share(0, len(images))
    maps, _ = affine_maps(share.total, config, rng)
    moved = _warp(masks, maps, cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, cv2.BORDER_CONSTANT)
    return _jitter(_warp(images, maps, _WARP, cv2.BORDER_REPLICATE), config, rng, share), moved


def mirror_triplets(triplets: NDArray[np.int8]) -> NDArray[np.int8]:
    """Left and right anatomies exchanged: ``[..., 51, 75]`` -> a copy of the same shape.

    An anatomy without a partner (the middle lobe, the right atrium and ventricle) becomes "not mentioned": on
    the mirrored image it lies where the vocabulary has no name for it.
    """
    swapped = triplets[..., _MIRROR, :]
    swapped[..., _UNPAIRED, :] = -1
    return swapped


def crop_box(
    height: int, width: int, scale: tuple[float, float], rng: np.random.RandomState
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop by area and aspect ratio, as torchvision draws it.

    After ten draws that do not fit, the largest central crop within the aspect limits.
    """
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.randint(0, height - h + 1)), int(rng.randint(0, width - w + 1)), h, w
    w = min(width, round(height * _RATIO[1]))
    h = min(height, round(width / _RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def _released(images: NDArray[np.uint8], config: AugmentationConfig, seed: int, share: Share) -> Augmented:
    """Random resized crop (bicubic), flip and RandAugment, image by image (released pre-training)."""
    size = images.shape[-1]
    result = np.empty_like(images)
    flipped = np.zeros(len(images), dtype=bool)
    states = share.of(np.random.SeedSequence([seed, 0xA1B]).generate_state(share.total), len(images))
    for k, (image, state) in enumerate(zip(images, states, strict=True)):
        rng = np.random.RandomState(int(state))
        top, left, height, width = crop_box(size, size, config.crop_scale, rng)
        crop = Image.fromarray(image[top : top + height, left : left + width])
        pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
        if config.hflip != "off" and rng.random_sample() < 0.5:
            flipped[k] = True
            pixels = pixels[:, ::-1]
        result[k] = rand_augment(
            np.ascontiguousarray(pixels), rng, autocontrast=config.autocontrast, sharpness=config.sharpness
        )
    return Augmented(torch.from_numpy(result).float(), flipped)


def affine_maps(
    count: int, config: AugmentationConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Maps from output to input positions, ``[count, 2, 3]`` in -1..1, and which of them mirror.

    A zoom (the crop, aspect kept: the shape of the heart is a sign), a rotation and a shift. The shift is
    held back where it would push the lung field out of view.
    """
    side = np.sqrt(rng.uniform(*config.crop_scale, count))
    angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation, count))
    cos, sin = np.cos(angle), np.sin(angle)
    half = np.array(LUNG_FIELD)
    extent = half * np.abs(cos)[:, None] + half[::-1] * np.abs(sin)[:, None]
    slack = (1 - side) / 2 + config.translation
    room = np.maximum(side[:, None] / 2 - extent, 0)
    shift = np.clip(rng.uniform(-1, 1, (count, 2)) * slack[:, None], -room, room) * 2
    flipped = rng.random(count) < (0.0 if config.hflip == "off" else 0.5)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    maps = np.empty((count, 2, 3))
    maps[:, :, :2] = rotation * side[:, None, None]
    maps[:, :, 2] = np.einsum("bij,bj->bi", rotation, shift)
    maps[flipped, :, 0] *= -1
    return maps, flipped


def _batched(
    images: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator, share: Share
) -> Augmented:
    """One affine resampling (bilinear, borders repeated), then contrast and brightness."""
    maps, flipped = (share.of(drawn, len(images)) for drawn in affine_maps(share.total, config, rng))
    warped = _warp(images, maps, _WARP, cv2.BORDER_REPLICATE)
    return Augmented(_jitter(warped, config, rng, share), flipped)


def _warp(images: NDArray[np.uint8], maps: NDArray[np.float64], flags: int, border: int) -> NDArray[np.uint8]:
    size = images.shape[-1]
    warped = np.empty_like(images)
    # OpenCV image by image takes a third of the time of one grid_sample over the batch on a CPU core.
    for image, matrix, result in zip(images, _in_pixels(maps, size), warped, strict=True):
        cv2.warpAffine(image, matrix, (size, size), result, flags, border)
    return warped


def _jitter(
    images: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator, share: Share
) -> Tensor:
    """Contrast about each image's mean, and brightness: float32 in 0..255."""
    drawn = rng.uniform(1 - config.jitter, 1 + config.jitter, (2, share.total)).astype(np.float32)
    contrast, brightness = (
        torch.from_numpy(share.of(factor, len(images)))[:, None, None] for factor in drawn
    )
    pixels = torch.from_numpy(images).float()
    mean = pixels.mean(dim=(1, 2), keepdim=True)
    return pixels.sub_(mean).mul_(contrast * brightness).add_(mean * brightness).clamp_(0, 255)


def _in_pixels(maps: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Maps of positions in -1..1 -> maps of pixel coordinates, whose centres are whole numbers."""
    centre = (size - 1) / 2
    pixels = maps.copy()
    pixels[:, :, 2] = maps[:, :, 2] * (size / 2) + centre - maps[:, :, :2].sum(-1) * centre
    return pixels


_PARTNERS = [mirrored(name) for name in ANATOMIES]
_MIRROR = np.array([k if name is None else anatomy_index(name) for k, name in enumerate(_PARTNERS)])
_UNPAIRED = np.array([k for k, name in enumerate(_PARTNERS) if name is None])
