"""Tubes, lines, pacemakers, wires and clips: thin metal, or plastic with a metal stripe."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from replication.phantom.anatomy import LEFT, RIGHT, SIGN
from replication.phantom.projection import Projection
from replication.phantom.scene import Device, Scene

Points = NDArray[np.float64]
Sheet = NDArray[np.uint8]


def add_devices(view: Projection, scene: Scene, rng: np.random.Generator) -> None:
    """Draw every device of a scene; where it runs derives from ``rng``."""
    for device in scene.devices:
        sheet = view.camera.blank()
        thickness = _DRAW[device.kind](view, sheet, device, rng)
        view.metal += view.camera.soften(sheet, 0.0) * np.float32(thickness)


def _side(device: Device) -> int:
    return RIGHT if device.side == "right" else LEFT


def _curve(points: list[tuple[float, float]], n: int = 20) -> Points:
    """A smooth curve drawn towards its control points (a Bezier curve), [1, n, 2]."""
    t = np.linspace(0, 1, n)[:, None, None]
    level = np.repeat(np.array(points, np.float64)[None], n, axis=0)
    while level.shape[1] > 1:
        level = level[:, :-1] * (1 - t) + level[:, 1:] * t
    return level[:, 0][None]


def _tube(view: Projection, sheet: Sheet, device: Device, rng: np.random.Generator) -> float:
    """An endotracheal tube in the midline, a chest tube on either side."""
    chest, camera = view.chest, view.camera
    if device.side == "midline":
        tip = chest.height(rng.uniform(0.12, 0.26))
        line = _curve([(rng.normal(0.2, 0.3), -22.0), (0.1, -14.0), (0.15, tip)])
        camera.strokes(sheet, line, 0.75, 0.5)
        camera.strokes(sheet, line, 0.45, 0.15)
        return 0.06
    side = _side(device)
    sign, outer = SIGN[side], view.outer_at(side, 0.6)
    line = _curve(
        [
            (sign * (outer + 3.0), chest.height(0.75)),
            (sign * (outer - 1.0), chest.height(0.65)),
            (sign * (outer - 2.5), chest.height(0.3)),
            (sign * rng.uniform(5.0, 9.0), chest.height(0.12)),
        ]
    )
    camera.strokes(sheet, line, 0.6, 0.5)
    camera.strokes(sheet, line, 0.2, 1.0)
    return 0.06


def _line(view: Projection, sheet: Sheet, device: Device, rng: np.random.Generator) -> float:
    """A central venous line by the jugular or the subclavian vein, its tip in the superior vena cava."""
    chest, sign = view.chest, SIGN[_side(device)]
    tip = (-view.border_at(RIGHT, 0.35) + 0.8, chest.height(rng.uniform(0.38, 0.52)))
    jugular = rng.random() < 0.5
    start = (sign * 4.0, -20.0) if jugular else (sign * 17.0, chest.height(-0.02))
    middle = (sign * 3.2, -13.5) if jugular else (sign * 7.0, chest.height(0.02))
    line = _curve([start, middle, (-1.6, chest.height(0.1)), (tip[0], chest.height(0.2)), tip])
    view.camera.strokes(sheet, line, 0.25, 1.0)
    return 0.10


def _pacemaker(view: Projection, sheet: Sheet, device: Device, rng: np.random.Generator) -> float:
    """A generator under the clavicle with leads to the right atrium and the right ventricle."""
    chest, camera = view.chest, view.camera
    sign = SIGN[_side(device)]
    x, y = sign * rng.uniform(9.0, 11.0), chest.height(rng.uniform(0.08, 0.2))
    t = np.linspace(0, 2 * np.pi, 24)
    case = np.stack([x + 2.3 * np.cos(t) * (1 + 0.15 * np.cos(2 * t)), y + 2.0 * np.sin(t)], axis=1)
    camera.fill(sheet, case, 1.0)
    ventricle = (0.72 * view.border_at(LEFT, 0.85), chest.height(0.88))
    atrium = (-0.7 * view.border_at(RIGHT, 0.65), chest.height(0.62))
    for end, bow in ((ventricle, -3.0), (atrium, -4.0)):
        vein = [(x, y - 1.0), (sign * 6.0, chest.height(0.0)), (-2.0, chest.height(0.08))]
        lead = _curve([*vein, (bow, chest.height(0.5)), (bow * 0.6, chest.height(0.85)), end])
        camera.strokes(sheet, lead, 0.25, 0.6)
    return 0.22


def _wire(view: Projection, sheet: Sheet, device: Device, rng: np.random.Generator) -> float:
    """Six sternal wires after heart surgery."""
    t = np.linspace(0.2, 2 * np.pi, 12)
    for v in np.linspace(0.16, 0.72, 6):
        x, y = rng.normal(0, 0.1), view.chest.height(float(v))
        ring = np.stack([x + 0.75 * np.cos(t), y + 0.45 * np.sin(t)], axis=1)
        view.camera.strokes(sheet, ring[None], 0.14, 1.0)
    return 0.16


def _clip(view: Projection, sheet: Sheet, device: Device, rng: np.random.Generator) -> float:
    """A few surgical clips near one another."""
    x, y = view.lung_x(_side(device), 0.45, rng.uniform(0.0, 0.6)), view.chest.height(rng.uniform(0.3, 0.6))
    for _ in range(int(rng.integers(3, 7))):
        at, angle = np.array([x, y]) + rng.normal(0, 1.2, 2), rng.uniform(0, np.pi)
        half = 0.35 * np.array([np.cos(angle), np.sin(angle)])
        view.camera.strokes(sheet, np.stack([at - half, at + half])[None], 0.18, 1.0)
    return 0.2


_DRAW: dict[str, Callable[[Projection, Sheet, Device, np.random.Generator], float]] = {
    "tube": _tube,
    "line": _line,
    "pacemaker": _pacemaker,
    "wire": _wire,
    "clip": _clip,
}
