"""The X-ray beam behind the chest, the detector and the display."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from replication.phantom.acquisition import Acquisition
from replication.phantom.camera import Camera, FloatArray
from replication.phantom.projection import Projection

MU_WATER, MU_BONE, MU_METAL = 0.185, 0.36, 6.0
"""Linear attenuation per cm near 65 keV; bone beyond the water it displaces."""


@cache
def _quanta() -> FloatArray:
    """A million unit normal numbers; drawing them anew for every image would take longer than its ribs."""
    return np.random.default_rng(20240302).standard_normal(1 << 20, dtype=np.float32)


def _grain(size: int, rng: np.random.Generator) -> FloatArray:
    """White unit noise [size, size]: a stretch of the million that starts anywhere."""
    quanta = _quanta()
    if size * size >= quanta.size:
        return rng.standard_normal((size, size), dtype=np.float32)
    start = int(rng.integers(0, quanta.size - size * size))
    return quanta[start : start + size * size].reshape(size, size)


def pose(size: int, film: Acquisition, rng: np.random.Generator) -> Camera:
    """How the patient stands before the detector of ``size`` pixels a side."""
    turn, dx, dy = rng.uniform(-1, 1, 3)
    return Camera(
        size, float(rng.uniform(*film.scale)), film.rotation * turn, (film.shift * dx, film.shift * dy)
    )


def expose(view: Projection, film: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The displayed film, [size, size], of a chest: beam, scatter, unsharpness, quantum noise, display curve.

    ``rng`` decides on exposure, processing and noise; it is drawn from equally often whatever the chest.
    """
    _marker(view, film, rng)
    size = view.camera.size
    nepers = view.water_path()
    nepers *= np.float32(-MU_WATER)
    nepers -= np.float32(MU_BONE) * view.bone
    nepers -= np.float32(MU_METAL) * view.metal
    primary = np.exp(nepers, out=nepers)
    blur = float(rng.uniform(*film.blur)) * view.camera.pixels_per_cm
    primary = cv2.GaussianBlur(primary, (0, 0), max(blur, 0.3))
    small = cv2.resize(primary, (32, 32), interpolation=cv2.INTER_AREA)
    veil = cv2.resize(cv2.GaussianBlur(small, (0, 0), 3.5), (size, size), interpolation=cv2.INTER_LINEAR)
    signal = primary + veil * np.float32(rng.uniform(*film.scatter))
    noise = np.float32(rng.uniform(*film.noise) * (size / 128.0) ** 0.5)
    quantum = np.sqrt(signal) * _grain(size, rng)
    signal += quantum * np.float32(noise * np.sqrt(signal.mean()))
    dense = np.negative(np.log(np.maximum(signal, np.float32(1e-4), out=signal), out=signal), out=signal)
    shown = _display(dense, film, rng)
    _collimate(shown, film, rng)
    return shown


_LEVELS = np.linspace(0, 1, 1024)


def _display(dense: FloatArray, film: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Window and display curve; overwrites ``dense``."""
    low_at, high_at = (float(rng.uniform(*r)) for r in film.window)
    gamma, contrast = float(rng.uniform(*film.gamma)), float(rng.uniform(*film.contrast))
    size = dense.shape[0]
    edge = size // 12
    step = max(1, size // 42)
    low, high = np.percentile(dense[edge:-edge:step, edge:-edge:step], [low_at, high_at])
    low -= float(rng.uniform(*film.toe)) * (high - low)
    dense -= np.float32(low)
    dense *= np.float32((_LEVELS.size - 1) / max(high - low, 1e-3))
    tone = np.clip(dense, 0, _LEVELS.size - 1, out=dense).astype(np.int32)
    curve = _LEVELS**gamma
    if contrast > 0.05:
        bend = 1.0 / (1.0 + np.exp(-2.5 * contrast * (2 * curve - 1)))
        curve = (bend - bend[0]) / (bend[-1] - bend[0])
    table = np.clip(np.rint(curve * 255), 0, 255).astype(np.uint8)
    shown: NDArray[np.uint8] = np.take(table, tone)
    return shown


def _marker(view: Projection, film: Acquisition, rng: np.random.Generator) -> None:
    """A lead letter beside one shoulder: L on the patient's left, R on the right."""
    draw = rng.random(4)
    if draw[0] >= film.marker:
        return
    camera = view.camera
    left = draw[1] < 0.5
    at = np.array([(15.2 if left else -16.0) + 0.8 * draw[2], -13.5 - 1.5 * draw[3]])
    sheet = camera.blank()
    height = 1.3 * camera.pixels_per_cm
    where = camera.points(at[None])[0] // 16
    cv2.putText(
        sheet,
        "L" if left else "R",
        (int(where[0]), int(where[1])),
        cv2.FONT_HERSHEY_SIMPLEX,
        height / 22.0,
        255,
        max(1, round(0.12 * height)),
        cv2.LINE_AA,
    )
    view.metal += sheet.astype(np.float32) * np.float32(0.4 / 255.0)


def _collimate(shown: NDArray[np.uint8], film: Acquisition, rng: np.random.Generator) -> None:
    """Black out up to 4 % of the field at each edge, where the film is collimated at all."""
    draw = rng.random(5)
    if draw[0] >= film.collimation:
        return
    size = shown.shape[0]
    top, bottom, left, right = (int(n) for n in draw[1:] * 0.04 * size)
    shown[:top] = 0
    shown[size - bottom :] = 0
    shown[:, :left] = 0
    shown[:, size - right :] = 0
