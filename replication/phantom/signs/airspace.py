"""Signs of airspaces filled with fluid, pus or cells: they make part of the lung's path airless."""

from __future__ import annotations

import numpy as np

from replication.phantom.anatomy import LEFT, RIGHT, SIGN, Chest
from replication.phantom.camera import BoolArray, FloatArray, smoothstep
from replication.phantom.projection import Projection
from replication.phantom.scene import FindingInstance

ZONE_HEIGHT = {
    "apical": 0.09,
    "upper": 0.25,
    "hilar": 0.45,
    "mid": 0.49,
    "lower": 0.71,
    "base": 0.80,
    "retrocardiac": 0.78,
}
"""Relative height of the centre of each zone."""

FISSURE = {RIGHT: 0.47, LEFT: 0.53}
"""Relative height at which an upper lobe ends on the frontal film."""


def sides(instance: FindingInstance) -> tuple[int, ...]:
    """Indices of the lungs that a finding is in."""
    return {"right": (RIGHT,), "left": (LEFT,)}.get(instance.side, (RIGHT, LEFT))


def blob(
    view: Projection,
    centre: tuple[float, float],
    radii: tuple[float, float],
    rough: float,
    rng: np.random.Generator,
) -> FloatArray:
    """A soft irregular patch, [size, size] in 0..1; centre and radii in cm."""
    dx = (view.x - np.float32(centre[0])) * np.float32(1 / radii[0])
    dy = (view.y - np.float32(centre[1])) * np.float32(1 / radii[1])
    q = np.sqrt(dx * dx + dy * dy) + np.float32(rough) * view.camera.texture(0.9 * min(radii), rng)
    patch: FloatArray = smoothstep(q, 1.15, 0.45)
    return patch


def _lung_and_heart(view: Projection, side: int) -> FloatArray:
    """Where lung tissue lies along the ray, behind the heart too, on one side."""
    lung: FloatArray = view.side(side) * smoothstep(view.above, -0.6, 0.1) * (view.rim > 0)
    return lung


def infiltration(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Patchy, ill-defined, streaky opacities in one zone."""
    mask = np.zeros_like(view.left)
    for side in sides(instance):
        v = ZONE_HEIGHT[instance.zone] + rng.normal(0, 0.025)
        x = view.lung_x(side, v, 0.2 if instance.zone == "hilar" else rng.uniform(0.35, 0.65))
        extent = rng.uniform(3.0, 4.2) * (0.8 + 0.35 * instance.severity)
        field = blob(view, (x, view.chest.height(v)), (extent, 0.95 * extent), 0.28, rng) * view.lung
        field *= view.side(side)
        patches = smoothstep(view.camera.texture(1.6, rng), -1.2, 1.6)
        view.fill(field * patches * np.float32(0.20 + 0.40 * instance.severity))
        view.marking += field * np.float32(0.5)
        mask |= field > 0.3
    return mask


def pneumonia(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """A lobe's airspaces filled unevenly, soft-edged, with air bronchograms."""
    mask = np.zeros_like(view.left)
    for side in sides(instance):
        behind_heart = instance.zone == "retrocardiac"
        v = ZONE_HEIGHT[instance.zone] + rng.normal(0, 0.03)
        share = -0.15 if behind_heart else rng.uniform(0.3, 0.6)
        x, y = view.lung_x(side, v, share), view.chest.height(v)
        extent = rng.uniform(3.2, 4.6) * (0.75 + 0.45 * instance.severity)
        field = blob(view, (x, y), (extent, 0.85 * extent), 0.16, rng)
        field *= _lung_and_heart(view, side) if behind_heart else view.lung * view.side(side)
        uneven = np.float32(0.8) + np.float32(0.15) * view.camera.texture(2.2, rng)
        view.fill(np.clip(field * uneven, 0, 1) * np.float32(0.20 + 0.45 * instance.severity))
        view.airless -= _bronchi(view, side, (x, y), extent, rng) * field * view.airless * np.float32(0.35)
        mask |= field > 0.35
    return mask


def _bronchi(
    view: Projection, side: int, centre: tuple[float, float], extent: float, rng: np.random.Generator
) -> FloatArray:
    """Air-filled bronchi that run from the hilum through a patch."""
    sheet = view.camera.blank()
    hilum = np.array(view.hilum_at(side))
    t = np.linspace(0, 1, 6)[:, None]
    for _ in range(4):
        end = np.array(centre) + rng.uniform(-0.8, 0.8, 2) * extent
        bow = rng.normal(0, 0.6, 2)
        path = hilum * (1 - t) + end * t + bow * np.sin(np.pi * t)
        view.camera.strokes(sheet, path[None], 0.35, 1.0)
    return view.camera.soften(sheet, 0.15)


def consolidation(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """A homogeneous, dense lobe or segment, sharp where a fissure bounds it."""
    mask = np.zeros_like(view.left)
    size = 0.3 + 0.7 * instance.severity
    ragged = view.camera.texture(2.4, rng)
    for side in sides(instance):
        fissure = FISSURE[side] + 0.02 * rng.standard_normal() - view.rim * np.float32(0.006 * SIGN[side])
        rim = view.rim + np.float32(0.8) * ragged
        v = view.v + np.float32(0.022) * ragged
        spared = 4.5 * (1 - size)
        across = smoothstep(rim, 0.5 * spared - 1.5, 1.4 * spared + 1.0)
        if instance.zone == "upper":
            height = smoothstep(fissure - view.v, -0.02, 0.02) * smoothstep(
                v, -0.1 + 0.30 * (1 - size), 0.12 + 0.30 * (1 - size)
            )
        elif instance.zone == "mid":
            end = FISSURE[side] + 0.14 + 0.28 * size
            height = smoothstep(view.v - fissure, -0.02, 0.02) * smoothstep(v, end, end - 0.16)
        else:
            height = smoothstep(v, 0.74 - 0.28 * size, 0.90 - 0.28 * size)
        if instance.zone == "retrocardiac":
            across = smoothstep(view.hilum, 0.8 + 1.2 * size, -0.2) * (view.r > 1.2)
            field = height * across * _lung_and_heart(view, side)
        else:
            field = height * across * view.lung * view.side(side)
        view.fill(field * np.float32(0.22 + 0.5 * instance.severity))
        mask |= field > 0.4
    return mask


def deform_edema(chest: Chest, instance: FindingInstance) -> None:
    """Engorged vessels, upper lobe diversion, a slightly larger heart."""
    chest.markings *= 1.0 + 0.45 * instance.severity
    chest.upper_markings = max(chest.upper_markings, 0.8 + 0.4 * instance.severity)
    chest.heart *= 1 + 0.03 * instance.severity


def edema(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Perihilar bat-wing haze of both lungs with septal lines at the bases."""
    spread = 2.6 + 2.0 * instance.severity + (1.6 if instance.zone == "diffuse" else 0.0)
    height = (view.v - np.float32(0.52)) * np.float32((view.chest.base - view.chest.apex) / (1.4 * spread))
    out = np.maximum(view.hilum, 0) * np.float32(1 / spread)
    wing = np.exp(-(out * out + height * height)) * view.lung
    uneven = np.clip(np.float32(0.8) + np.float32(0.22) * view.camera.texture(1.8, rng), 0.1, 1.4)
    view.fill(np.clip(wing * uneven * np.float32(0.04 + 0.62 * instance.severity**1.3), 0, 0.9))
    sheet = view.camera.blank()
    lines = []
    for side in (RIGHT, LEFT):
        for _ in range(int(4 + 8 * instance.severity)):
            v = rng.uniform(0.66, 0.93)
            x, y = SIGN[side] * (view.outer_at(side, v) - 0.15), view.chest.height(v)
            lines.append(
                np.array([[x, y], [x - SIGN[side] * rng.uniform(0.9, 1.8), y + rng.normal(0, 0.12)]])
            )
    view.camera.strokes(sheet, np.stack(lines), 0.16, 1.0)
    view.water += view.camera.soften(sheet, 0.0) * view.lung * np.float32(0.1 + 0.5 * instance.severity)
    return np.asarray(wing > 0.3)


def covid(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Ground glass of both lungs, peripheral and mostly in the lower zones; vessels stay visible."""
    depth = 3.0 + 3.0 * instance.severity
    low = 0.55 if instance.zone == "lower" else 0.32
    peripheral = smoothstep(view.rim, depth + 1.5, 0.6) * smoothstep(view.v, low - 0.15, low + 0.12)
    field = peripheral * smoothstep(view.camera.texture(3.2, rng), -1.6, 0.5) * view.lung
    grain = np.float32(0.85) + np.float32(0.2) * view.camera.texture(0.8, rng)
    view.fill(field * grain * np.float32(0.16 + 0.30 * instance.severity))
    view.marking += field * np.float32(0.35)
    return np.asarray(field > 0.3)
