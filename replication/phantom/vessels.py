"""A forest of branching pulmonary vessels, grown once and bent to every patient's lungs."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from replication.phantom.anatomy import LEFT, RIGHT, SIGN
from replication.phantom.camera import Camera, FloatArray

TREES = 48
_MEDIAL, _LATERAL, _HEIGHT = 3.5, 11.0, 12.5
_RADII = (0.46, 0.36, 0.27, 0.19, 0.13)
_TRUNKS = np.deg2rad(np.array([-96, -72, -50, -28, -8, 14, 34, 52, 68, 82, 98], np.float64))


def _grow(rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """One tree, an array [branches, 3, 2] of cm lateral to and below the hilum for every generation."""
    angle = _TRUNKS + rng.normal(0, 0.10, _TRUNKS.size)
    start = np.stack([0.5 * np.cos(angle) - 0.6, 0.9 * np.sin(angle)], axis=1)
    length = rng.uniform(1.8, 2.8, _TRUNKS.size) * (1.0 + 0.35 * np.abs(np.sin(angle)))
    generations = []
    t = np.linspace(0, 1, 3)[None, :]
    for _ in _RADII:
        bend = rng.normal(0, 0.16, angle.size)
        turn = angle[:, None] + bend[:, None] * t
        along = np.stack([np.cos(turn), np.sin(turn)], axis=2) * (length[:, None] * t)[..., None]
        path = start[:, None] + along
        generations.append(path)
        fork = 0.75 * rng.uniform(0.18, 0.55, angle.size)
        start = np.repeat(path[:, -1], 2, axis=0)
        angle = np.repeat(angle + bend, 2) + np.stack([fork, -fork], axis=1).ravel()
        length = np.repeat(length, 2) * rng.uniform(0.62, 0.95, 2 * length.size)
    return generations


@cache
def _forest(resolution: int) -> NDArray[np.uint8]:
    """Every tree drawn at some pixels a cm, thick and dense near the hilum, [TREES, height, width]."""
    rng = np.random.default_rng(20240301)
    height, width = int(2 * _HEIGHT * resolution), int((_MEDIAL + _LATERAL) * resolution)
    forest = np.zeros((TREES, height, width), np.uint8)
    for sheet in forest:
        for radius, paths in reversed(list(zip(_RADII, _grow(rng), strict=True))):
            pixels = 2 * radius * resolution
            drawn = max(1, round(pixels))
            level = 255 * min(1.0, 1.6 * radius) * min(1.0, pixels / drawn)
            fixed = np.rint((paths + np.array([_MEDIAL, _HEIGHT])) * resolution * 16).astype(np.int32)
            cv2.polylines(sheet, list(fixed), False, int(level), drawn, cv2.LINE_AA, 4)
        cv2.GaussianBlur(sheet, (0, 0), max(0.13 * resolution, 0.35), dst=sheet)
    return forest


def draw_vessels(
    camera: Camera,
    hila: tuple[tuple[float, float], tuple[float, float]],
    reach: tuple[float, float],
    pick: NDArray[np.float64],
) -> FloatArray:
    """Vessels of both lungs, levels in 0..1 [size, size].

    Args:
        camera: the pose.
        hila: centres (x, y) of the right and the left hilum, cm.
        reach: from hilum to chest wall on either side, cm.
        pick: [2, 3] in 0..1: which tree, its turn, its stretch.
    """
    resolution = 4 if camera.pixels_per_cm < 5 else 8 if camera.pixels_per_cm < 10 else 16
    forest = _forest(resolution)
    out = np.zeros((camera.size, camera.size), np.uint8)
    for side in (RIGHT, LEFT):
        turn = 0.24 * (pick[side, 1] - 0.5)
        wide = 10.0 / reach[side]
        tall = 0.92 + 0.16 * pick[side, 2]
        own = np.array([[wide * SIGN[side], turn], [-turn * SIGN[side], tall]])
        matrix = own @ camera.inverse
        matrix[:, 2] -= own @ np.array(hila[side])
        matrix[:, 2] += _MEDIAL, _HEIGHT
        tree = forest[int(pick[side, 0] * TREES) % TREES]
        drawn = cv2.warpAffine(
            tree,
            matrix * resolution,
            (camera.size, camera.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        np.maximum(out, drawn, out=out)
    return out.astype(np.float32) * np.float32(1 / 255.0)
