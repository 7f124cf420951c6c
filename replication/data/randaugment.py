"""RandAugment as the released code has it (randaugment.py, taken over from ALBEF), with its two oddities.

Works on ``[H, W]`` or ``[H, W, C]`` uint8 alike; every operation treats the channels one by one. Draws are
those of NumPy's legacy generator in the released order, so a seeded ``RandomState`` repeats its pipelines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]
Autocontrast = Literal["albef_bug", "pil"]
Sharpness = Literal["wrap", "clip"]

OPERATIONS = (
    "Identity",
    "AutoContrast",
    "Equalize",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)
"""In the order that the random choice numbers them."""

LEVEL = 0.7
"""The released M = 7 of 10; never drawn."""

_FACTOR = LEVEL * 1.8 + 0.1
_SHEAR = LEVEL * 0.3
_PIXELS = LEVEL * 10
_DEGREES = LEVEL * 30
_FILL = (128, 128, 128)


def rand_augment(
    image: Array,
    rng: np.random.RandomState,
    *,
    count: int = 2,
    autocontrast: Autocontrast = "pil",
    sharpness: Sharpness = "clip",
) -> Array:
    """Apply ``count`` operations drawn with replacement, each with a chance of one half.

    Args:
        autocontrast: ``albef_bug`` whitens images whose smallest value is not 0 (audit P8).
        sharpness: ``wrap`` lets values below 0 and above 255 wrap around (audit P9).
    """
    for name in rng.choice(OPERATIONS, count):
        if rng.random_sample() > 0.5:
            continue
        if name == "AutoContrast":
            image = auto_contrast(image, autocontrast)
        elif name == "Sharpness":
            image = sharpen(image, sharpness)
        elif name in _PLAIN:
            image = _PLAIN[name](image)
        elif name in _SIGNED:
            # The released rotation alone turns its sign round for small draws.
            draw = rng.random_sample()
            negative = draw < 0.5 if name == "Rotate" else draw > 0.5
            image = _SIGNED[name](image, -1.0 if negative else 1.0)
    return image


def auto_contrast(image: Array, behaviour: Autocontrast) -> Array:
    """Stretch every channel to 0..255.

    ``albef_bug``: the minimum is negated as uint8, so a minimum above 0 pushes every pixel to 255.
    """

    def table(channel: Array) -> Array:
        low, high = int(channel.min()), int(channel.max())
        if high <= low:
            return np.arange(256, dtype=np.uint8)
        shift = -low if behaviour == "pil" else (256 - low) % 256
        return _truncated((np.arange(256) + shift) * (255.0 / (high - low)))

    return _by_table(image, table)


def equalize(image: Array) -> Array:
    """Flatten the histogram of every channel; as Pillow does."""

    def table(channel: Array) -> Array:
        histogram = np.bincount(channel.ravel(), minlength=256)
        filled = histogram[histogram > 0]
        step = int(filled[:-1].sum()) // 255
        if step == 0:
            return np.arange(256, dtype=np.uint8)
        before = np.concatenate([[0], np.cumsum(histogram)[:-1]])
        return _truncated((before + step // 2) // step)

    return _by_table(image, table)


def brighten(image: Array) -> Array:
    """Values times 1.36, cut off at 255."""
    return _truncated(np.arange(256) * _FACTOR)[image]


def sharpen(image: Array, behaviour: Sharpness) -> Array:
    """Away from a 3 x 3 blur by 1.36; the outermost pixels stay."""
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    blurred = cv2.filter2D(image, -1, kernel / 13)[1:-1, 1:-1].astype(np.float32)
    sharp = blurred + np.float32(_FACTOR) * (image[1:-1, 1:-1].astype(np.float32) - blurred)
    if behaviour == "clip":
        sharp = np.clip(sharp, 0, 255)
    result = image.copy()
    # Through a wider integer: float to uint8 outside 0..255 differs between processors.
    result[1:-1, 1:-1] = sharp.astype(np.int32).astype(np.uint8)
    return result


def shear_x(image: Array, sign: float) -> Array:
    """x grows by 0.21 y."""
    return _warp(image, [[1, sign * _SHEAR, 0], [0, 1, 0]])


def shear_y(image: Array, sign: float) -> Array:
    """y grows by 0.21 x."""
    return _warp(image, [[1, 0, 0], [sign * _SHEAR, 1, 0]])


def translate_x(image: Array, sign: float) -> Array:
    """Seven pixels to the left for sign 1, whatever the image's size."""
    return _warp(image, [[1, 0, -sign * _PIXELS], [0, 1, 0]])


def translate_y(image: Array, sign: float) -> Array:
    """Seven pixels up for sign 1."""
    return _warp(image, [[1, 0, 0], [0, 1, -sign * _PIXELS]])


def rotate(image: Array, sign: float) -> Array:
    """21 degrees about the centre."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), sign * _DEGREES, 1)
    return _warp(image, matrix.tolist())


_PLAIN: dict[str, Callable[[Array], Array]] = {"Equalize": equalize, "Brightness": brighten}
_SIGNED: dict[str, Callable[[Array, float], Array]] = {
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
}


def _truncated(values: NDArray[np.generic]) -> Array:
    return np.asarray(np.clip(values, 0, 255).astype(np.uint8), np.uint8)


def _by_table(image: Array, table: Callable[[Array], Array]) -> Array:
    if image.ndim == 2:
        return table(image)[image]
    channels = [table(image[..., k])[image[..., k]] for k in range(image.shape[-1])]
    return np.stack(channels, axis=-1)


def _warp(image: Array, matrix: list[list[float]]) -> Array:
    height, width = image.shape[:2]
    warped = cv2.warpAffine(
        image,
        # Double precision, as the released rotation hands it over.
        np.array(matrix, np.float64),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_FILL,
    )
    return np.asarray(warped, np.uint8)
