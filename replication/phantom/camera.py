"""From centimetres in the chest to pixels of the image, and the shapes and textures drawn through that map.

Chest coordinates: origin in the middle of the field, x towards the patient's left (right on the image),
y downwards, both in cm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

FIELD = 36.0
"""Width of the square field at scale 1, in cm (a 14 inch cassette)."""

_SHIFT = 4
_BANK = 256
_GRAIN = 4.0

cv2.setNumThreads(1)


@cache
def _bank() -> FloatArray:
    """A periodic field of smooth unit-variance noise whose grain is about ``_GRAIN`` pixels, [256, 256]."""
    white = np.random.default_rng(20240229).standard_normal((_BANK, _BANK), dtype=np.float32)
    pad = 16
    smooth = cv2.GaussianBlur(np.pad(white, pad, mode="wrap"), (0, 0), _GRAIN / 3.0)[pad:-pad, pad:-pad]
    return np.ascontiguousarray(smooth / smooth.std(), dtype=np.float32)


class Camera:
    """Pose of the chest in the field.

    Args:
        size: pixels a side.
        scale: magnification (1 shows ``FIELD`` cm).
        rotation: of the body in the image plane, degrees, clockwise.
        shift: of the body in the field, cm (x, y).

    Attributes:
        pixels_per_cm: the scale of the image.
        forward: the affine map from cm to pixels, [2, 3].
        inverse: the affine map from pixels to cm, [2, 3].
    """

    def __init__(
        self, size: int, scale: float = 1.0, rotation: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self.size = size
        self.pixels_per_cm = size / FIELD * scale
        cosine, sine = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
        linear = self.pixels_per_cm * np.array([[cosine, -sine], [sine, cosine]])
        offset = linear @ np.array(shift) + (size - 1) / 2
        back = linear.T / self.pixels_per_cm**2
        self.forward = np.column_stack([linear, offset])
        self.inverse = np.column_stack([back, -back @ offset])
        self._fixed = (self.forward * (1 << _SHIFT)).T.copy()

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """Chest coordinates x and y of every pixel, each [size, size], in cm."""
        (a, b, c), (d, e, f) = self.inverse.astype(np.float32)
        step = np.arange(self.size, dtype=np.float32)
        return a * step[None, :] + (b * step[:, None] + c), d * step[None, :] + (e * step[:, None] + f)

    def points(self, chest: NDArray[np.floating]) -> NDArray[np.int32]:
        """Fixed-point pixel positions (4 fractional bits) of points [..., 2] in cm."""
        fixed: NDArray[np.int32] = np.rint(chest @ self._fixed[:2] + self._fixed[2]).astype(np.int32)
        return fixed

    def blank(self) -> NDArray[np.uint8]:
        """An empty drawing sheet, [size, size]."""
        return np.zeros((self.size, self.size), np.uint8)

    def strokes(
        self,
        sheet: NDArray[np.uint8],
        lines: Sequence[NDArray[np.floating]] | NDArray[np.floating],
        width: float,
        level: float,
    ) -> None:
        """Draw open polylines (each [n, 2], cm) of one width (cm) at a level in [0, 1].

        A stroke thinner than a pixel keeps its width times level, as a thin wire would on a detector.
        """
        pixels = width * self.pixels_per_cm
        drawn = max(1, round(pixels))
        value = int(np.clip(255.0 * level * min(1.0, pixels / drawn), 0, 255))
        if isinstance(lines, np.ndarray):
            fixed = list(self.points(lines))
        else:
            fixed = [self.points(line) for line in lines]
        # Smooth edges of wide strokes cost four times as much, and sheets get blurred anyway.
        kind = cv2.LINE_AA if drawn == 1 else cv2.LINE_8
        cv2.polylines(sheet, fixed, False, value, drawn, kind, _SHIFT)

    def fill(self, sheet: NDArray[np.uint8], outline: NDArray[np.floating], level: float) -> None:
        """Fill a polygon ([n, 2], cm) at a level in [0, 1]."""
        cv2.fillPoly(sheet, [self.points(outline)], int(np.clip(255.0 * level, 0, 255)), cv2.LINE_AA, _SHIFT)

    def texture(self, wavelength: float, rng: np.random.Generator) -> FloatArray:
        """Smooth unit-variance noise fixed to the chest, [size, size]; wavelength in cm."""
        zoom = _GRAIN / wavelength
        angle = rng.uniform(0, 2 * np.pi)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ self.inverse
        matrix[:, 2] += rng.uniform(0, _BANK, 2)
        return np.asarray(
            cv2.warpAffine(
                _bank(),
                matrix,
                (self.size, self.size),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_WRAP,
            ),
            np.float32,
        )

    def soften(self, sheet: NDArray[np.uint8], sigma: float) -> FloatArray:
        """A sheet blurred by ``sigma`` cm, at least a third of a pixel, as levels in 0..1, [size, size]."""
        blurred = cv2.GaussianBlur(sheet, (0, 0), max(sigma * self.pixels_per_cm, 0.35))
        return blurred.astype(np.float32) * np.float32(1 / 255.0)


def smoothstep(value: FloatArray, low: float, high: float) -> FloatArray:
    """0 below ``low``, 1 above ``high``, smooth between; ``low > high`` falls instead of rising."""
    t: FloatArray = np.subtract(value, np.float32(low), dtype=np.float32)
    t *= np.float32(1.0 / (high - low))
    np.clip(t, 0.0, 1.0, out=t)
    step = np.float32(-2.0) * t
    step += np.float32(3.0)
    step *= t
    step *= t
    return step
