"""Bones, airways and other normal structures drawn onto a projection."""

from __future__ import annotations

import numpy as np

from replication.phantom.anatomy import LEFT, RIGHT, SIGN
from replication.phantom.camera import FloatArray, smoothstep
from replication.phantom.projection import Projection

_RIBS = 10


def add_normal_structures(view: Projection, rng: np.random.Generator) -> None:
    """Add bones, airways, hila, breasts, gastric bubble and the harmless oddities of a healthy chest."""
    _ribs(view)
    _spine(view)
    _shoulder_girdle(view, rng)
    _airways(view)
    _hila(view, rng)
    _breasts(view)
    _oddities(view, rng)
    view.water += view.camera.texture(9.0, rng) * np.float32(0.22)
    view.water += view.camera.texture(0.9, rng) * np.float32(0.14) * view.lung
    _stomach(view, rng)


_T = np.linspace(0, 1, 7)
_ARCH = np.sin(0.5 * np.pi * _T) ** 0.92
_RISE = -0.9 * np.sin(np.pi * np.minimum(_T * 1.4, 1.0))
_LEVEL = np.arange(_RIBS, dtype=np.float64)[:, None]


def _ribs(view: Projection) -> None:
    chest, camera = view.chest, view.camera
    slope = 1.0 + 0.12 * chest.rib_slope
    height = 0.015 + 0.098 * _LEVEL
    y0 = chest.apex + height * (chest.base - chest.apex)
    drop = (1.4 + 0.42 * _LEVEL) * slope
    back_y = y0 + _RISE + drop * _T**2.2
    front_y = (y0 + drop + (2.9 + 0.18 * _LEVEL) * slope * _T**0.8)[1:8]
    back, front = [], []
    for side in (RIGHT, LEFT):
        outer = view.outers(side, height + 0.10) + 0.35
        back.append(np.stack([SIGN[side] * (2.0 + (outer - 2.0) * _ARCH), back_y], axis=2))
        x = outer - (outer - 4.6 - 0.55 * _LEVEL) * _T**1.5
        front.append(np.stack([SIGN[side] * x[1:8], front_y], axis=2))
    # Front and back ribs cross, so each kind has its own sheet; at half level their sum cannot overflow.
    rear, fore, width = camera.blank(), camera.blank(), chest.rib_width
    lines = np.concatenate(back)
    camera.strokes(rear, lines, width, 0.5)
    camera.strokes(rear, lines, width * 0.45, 0.31)
    lines = np.concatenate(front)
    camera.strokes(fore, lines, width * 1.15, 0.375)
    camera.strokes(fore, lines, width * 0.55, 0.25)
    bones = camera.soften(rear + fore, 0.17)
    behind = np.minimum(view.hilum, np.float32(0.4) * view.above)
    bones *= np.float32(0.35) + np.float32(0.65) * smoothstep(behind, -1.0, 0.0)
    bones *= np.float32(chest.rib_bone * 1.5)
    view.bone += bones


def _spine(view: Projection) -> None:
    phase = np.cos(view.y * np.float32(2 * np.pi / 2.7))
    column = smoothstep(view.r + np.float32(0.12) * phase, 2.15, 1.35)
    view.bone += column * (np.float32(0.62) + np.float32(0.12) * phase)


_BOTH = np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])
"""Mirrors a shape given for the left side onto both."""


def _shoulder_girdle(view: Projection, rng: np.random.Generator) -> None:
    chest, camera = view.chest, view.camera
    sheet = camera.blank()
    y_in, y_out = chest.height(0.07) - chest.clavicle, chest.height(-0.06) - 0.6 * chest.clavicle
    clavicle = np.stack([1.8 + 14.5 * _T, y_in + (y_out - y_in) * _T - 0.7 * np.sin(2 * np.pi * _T)], axis=1)
    clavicles = clavicle * _BOTH
    clavicles[..., 1] += rng.normal(0, 0.15, (2, 1))
    camera.strokes(sheet, clavicles, 1.2, 1.0)
    camera.strokes(sheet, clavicles, 0.55, 0.7)
    edge = 13.4 - 2.6 * chest.scapula
    blade = np.array([[16.6, -12.5], [edge, -9.0], [edge + 0.6, -3.2], [edge + 2.0, -1.0], [17.5, -9.5]])
    for mirrored in blade * _BOTH:
        camera.fill(sheet, mirrored, 0.28)
    camera.strokes(sheet, np.array([[18.0, -11.5], [19.6, 4.0]]) * _BOTH, 2.4, 0.9)
    view.bone += camera.soften(sheet, 0.14)


def _airways(view: Projection) -> None:
    chest, camera = view.chest, view.camera
    sheet = camera.blank()
    carina = np.array([0.15 + 0.5 * chest.shift, chest.height(0.30)])
    trachea = np.array([[0.1, -22.0], [0.15 + 0.2 * chest.shift, -12.0], carina])
    camera.strokes(sheet, trachea[None], 1.7, 1.0)
    bronchi = np.array([[(0, 0), (-2.2, 2.0), (-3.6, 3.4)], [(0, 0), (2.4, 1.6), (4.4, 2.6)]])
    camera.strokes(sheet, carina + bronchi, 1.1, 0.7)
    view.water -= camera.soften(sheet, 0.18) * np.float32(1.5)


def _hila(view: Projection, rng: np.random.Generator) -> None:
    for side in (RIGHT, LEFT):
        x, y = view.hilum_at(side)
        dx = (view.x - np.float32(x)) * np.float32(1 / 1.5)
        dy = (view.y - np.float32(y + 0.5)) * np.float32(1 / 2.3)
        bump = np.clip(np.float32(1.0) - dx * dx - dy * dy, 0.0, 1.0)
        view.water += np.sqrt(bump) * np.float32(1.7 * view.chest.markings**0.5 * rng.uniform(0.7, 1.2))


def _breasts(view: Projection) -> None:
    chest = view.chest
    if not chest.breast:
        return
    dx = (view.r - np.float32(9.2)) * np.float32(1 / 6.8)
    dy = (view.y - np.float32(chest.height(0.78) + chest.breast_drop)) * np.float32(1 / 6.0)
    bump = np.clip(np.float32(1.0) - dx * dx - dy * dy, 0.0, 1.0)
    lower = np.where(dy > 0, np.sqrt(bump), bump)
    view.water += lower * np.float32(0.75 * chest.breast)


def _stomach(view: Projection, rng: np.random.Generator) -> None:
    bubble = view.chest.bubble
    offset = rng.uniform(-0.8, 1.2, 2)
    if not bubble:
        return
    x = 6.0 + offset[0]
    y = view.dome_at(x) + 2.0 + 0.6 * offset[1]
    dx = (view.x - np.float32(x)) * np.float32(1 / (1.6 + 2.2 * bubble))
    dy = (view.y - np.float32(y)) * np.float32(1 / (0.9 + 0.9 * bubble))
    q = dx * dx + dy * dy + np.float32(0.22) * view.camera.texture(3.0, rng)
    gas = np.sqrt(np.clip(np.float32(1.0) - q, 0.0, 1.0))
    amount = np.float32(1.0 + 3.5 * bubble * rng.uniform(0.5, 1.0))
    view.water -= gas * smoothstep(view.above, -0.2, -0.8) * amount


def _oddities(view: Projection, rng: np.random.Generator) -> None:
    """Skin folds, old scars: harmless lines that a reader must not take for disease."""
    chest, camera = view.chest, view.camera
    draw = rng.random(8)
    if chest.fold:
        side = LEFT if draw[0] < 0.5 else RIGHT
        t = np.linspace(0, 1, 8)
        x = SIGN[side] * (8.0 + 4.5 * draw[1] + (2.5 * draw[2] - 1.0) * t + 0.6 * np.sin(np.pi * t))
        y = -8.0 + 6 * draw[3] + (9.0 + 8 * draw[4]) * t
        sheet = camera.blank()
        camera.strokes(sheet, np.stack([x, y], axis=1)[None], 0.35, 1.0)
        view.water += sheet.astype(np.float32) * np.float32(0.8 * chest.fold / 255.0)
    if chest.scar:
        side = LEFT if draw[5] < 0.5 else RIGHT
        v = 0.45 + 0.4 * draw[6]
        x0, y0 = view.lung_x(side, v, 0.35 + 0.3 * draw[7]), chest.height(v)
        line = np.array([[x0, y0], [x0 + SIGN[side] * (1.0 + 1.5 * chest.scar), y0 + 0.9 * draw[0]]])
        sheet = camera.blank()
        camera.strokes(sheet, line[None], 0.3, 1.0)
        view.water += sheet.astype(np.float32) * np.float32(0.7 * chest.scar / 255.0) * view.lung


def soft_band(value: FloatArray, centre: float, half: float) -> FloatArray:
    """1 at the centre of a band, falling smoothly to 0 at its half-width."""
    t = np.clip(np.float32(1.0) - np.abs(value - np.float32(centre)) * np.float32(1 / half), 0.0, 1.0)
    band: FloatArray = t * t * (np.float32(3.0) - np.float32(2.0) * t)
    return band
