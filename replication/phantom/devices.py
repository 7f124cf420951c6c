"""Tubes, lines, pacemakers, wires and clips."""

from __future__ import annotations

import numpy as np

from replication.phantom.anatomy import LEFT, RIGHT, SIGN
from replication.phantom.projection import Projection
from replication.phantom.scene import Device, Scene


def add_devices(view: Projection, scene: Scene, rng: np.random.Generator) -> None:
    """Draw every device of a scene."""
    for device in scene.devices:
        side = RIGHT if device.side == "right" else LEFT
        sheet = view.sheet()
        thickness = _DRAW[device.kind](view, sheet, side, device, rng)
        view.metal += sheet.astype(np.float32) * np.float32(thickness / 255.0)


def _curve(points: list[tuple[float, float]], n: int = 24) -> np.ndarray:
    """A smooth curve near control points (a Bezier of their degree), [n, 2]."""
    control = np.array(points, np.float64)
    t = np.linspace(0, 1, n)[:, None]
    level = np.repeat(control[None], n, axis=0)
    while level.shape[1] > 1:
        level = level[:, :-1] * (1 - t[:, :, None]) + level[:, 1:] * t[:, :, None]
    return level[:, 0]


def _tube(view, sheet, side, device, rng):  # type: ignore[no-untyped-def]
    chest, camera = view.chest, view.camera
    if device.side == "midline":
        tip = chest.height(rng.uniform(0.12, 0.26))
        line = _curve([(rng.normal(0.2, 0.3), -22.0), (0.1, -14.0), (0.15, tip)])
        camera.strokes(sheet, line[None], 0.75, 0.5)
        camera.strokes(sheet, line[None], 0.45, 0.15)
        return 0.06
    sign = SIGN[side]
    outer = view.outer_at(side, 0.6)
    start, end = (
        (sign * (outer + 3.0), chest.height(0.75)),
        (sign * rng.uniform(5.0, 9.0), chest.height(0.12)),
    )
    line = _curve(
        [start, (sign * (outer - 1.0), chest.height(0.65)), (sign * (outer - 2.5), chest.height(0.3)), end]
    )
    camera.strokes(sheet, line[None], 0.6, 0.5)
    camera.strokes(sheet, line[None], 0.2, 1.0)
    return 0.06


def _line(view, sheet, side, device, rng):  # type: ignore[no-untyped-def]
    chest, camera = view.chest, view.camera
    sign = SIGN[side]
    tip = (-view.border_at(RIGHT, 0.35) + 0.8, chest.height(rng.uniform(0.38, 0.52)))
    jugular = rng.random() < 0.5
    start = (sign * 4.0, -20.0) if jugular else (sign * 17.0, chest.height(-0.02))
    middle = (sign * 3.2, -13.5) if jugular else (sign * 7.0, chest.height(0.02))
    line = _curve([start, middle, (-1.6, chest.height(0.1)), (tip[0], chest.height(0.2)), tip])
    camera.strokes(sheet, line[None], 0.25, 1.0)
    return 0.10


def _pacemaker(view, sheet, side, device, rng):  # type: ignore[no-untyped-def]
    chest, camera = view.chest, view.camera
    sign = SIGN[side]
    cx, cy = sign * rng.uniform(9.0, 11.0), chest.height(rng.uniform(0.08, 0.2))
    t = np.linspace(0, 2 * np.pi, 24)
    box = np.stack([cx + 2.3 * np.cos(t) * (1 + 0.15 * np.cos(2 * t)), cy + 2.0 * np.sin(t)], axis=1)
    camera.fill(sheet, box, 1.0)
    apex = (0.72 * view.border_at(LEFT, 0.85), chest.height(0.88))
    atrium = (-0.7 * view.border_at(RIGHT, 0.65), chest.height(0.62))
    for end, bow in ((apex, -3.0), (atrium, -4.0)):
        lead = _curve([(cx, cy - 1.0), (sign * 6.0, chest.height(0.0)), (-2.0, chest.height(0.08)),
                       (bow, chest.height(0.5)), (bow * 0.6, chest.height(0.85)), end])  # fmt: skip
        camera.strokes(sheet, lead[None], 0.25, 0.6)
    return 0.35


def _wire(view, sheet, side, device, rng):  # type: ignore[no-untyped-def]
    chest, camera = view.chest, view.camera
    t = np.linspace(0.2, 2 * np.pi, 12)
    for v in np.linspace(0.16, 0.72, 6):
        ring = np.stack([0.75 * np.cos(t) + rng.normal(0, 0.1), chest.height(v) + 0.45 * np.sin(t)], axis=1)
        camera.strokes(sheet, ring[None], 0.14, 1.0)
    return 0.16


def _clip(view, sheet, side, device, rng):  # type: ignore[no-untyped-def]
    chest, camera = view.chest, view.camera
    centre = np.array([view.lung_x(side, 0.45, rng.uniform(0.0, 0.6)), chest.height(rng.uniform(0.3, 0.6))])
    for _ in range(int(rng.integers(3, 7))):
        at, angle = centre + rng.normal(0, 1.2, 2), rng.uniform(0, np.pi)
        step = 0.35 * np.array([np.cos(angle), np.sin(angle)])
        camera.strokes(sheet, np.stack([at - step, at + step])[None], 0.18, 1.0)
    return 0.2


_DRAW = {"tube": _tube, "line": _line, "pacemaker": _pacemaker, "wire": _wire, "clip": _clip}
