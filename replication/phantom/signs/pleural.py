"""Signs of the pleural space: fluid, air, scar."""

from __future__ import annotations

import numpy as np

from replication.phantom.anatomy import Chest
from replication.phantom.camera import BoolArray, smoothstep
from replication.phantom.projection import Projection
from replication.phantom.scene import FindingInstance
from replication.phantom.signs.airspace import sides
from replication.phantom.skeleton import soft_band


def deform_effusion(chest: Chest, instance: FindingInstance) -> None:
    """A large effusion pushes the mediastinum away."""
    if instance.side in ("left", "right") and instance.severity > 0.7:
        chest.shift -= (1 if instance.side == "left" else -1) * 1.2 * (instance.severity - 0.7)


def effusion(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Fluid in the costophrenic angle, its meniscus rising along the wall; lying down it layers as a haze."""
    chest = view.chest
    mask = np.zeros_like(view.left)
    for side in sides(instance):
        rise = (1.7 + 11.0 * instance.severity**1.35) * rng.uniform(0.9, 1.1) * (0.8 if chest.supine else 1.0)
        wall = np.exp(-np.maximum(view.rim, 0) * np.float32(1 / (1.2 + 0.22 * rise)))
        level = np.float32(chest.base + 0.3) - np.float32(rise) * (np.float32(0.64) + np.float32(0.36) * wall)
        inside = view.side(side) * (view.rim > -0.05) * smoothstep(view.hilum, -1.5, 0.3)
        fluid = np.float32(0.95) * smoothstep(view.y - level, -0.3, 0.16 * rise + 0.9) * inside
        if chest.supine:
            layer = np.float32(0.06 + 0.30 * instance.severity) * smoothstep(view.v, 0.25, 0.9) * inside
            fluid += layer * (np.float32(1.0) - fluid)
        view.fill(fluid)
        view.water += fluid * smoothstep(view.above, -0.2, -1.5) * np.float32(0.3)
        mask |= (fluid > 0.3) & (view.above > -1.2)
    return np.asarray(mask & (view.rim > 0))


def deform_pneumothorax(chest: Chest, instance: FindingInstance) -> None:
    """A large one pushes the mediastinum away and the diaphragm down."""
    over = max(0.0, instance.severity - 0.6)
    sign = 1 if instance.side == "left" else -1
    chest.shift -= sign * 1.5 * over
    chest.dome[1 if instance.side == "left" else 0] += 1.2 * over


def pneumothorax(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Air between the lung and the wall: a thin visceral line, no vessels beyond it."""
    chest = view.chest
    mask = np.zeros_like(view.left)
    for side in sides(instance):
        apical = instance.zone == "apical"
        gap0 = (0.7 + 3.0 * instance.severity) * rng.uniform(0.85, 1.15)
        end = 0.38 + 0.25 * instance.severity if apical else 1.15
        taper = np.clip(np.float32(1.0) - np.maximum(view.v, 0) * np.float32(1 / end), 0, 1) ** np.float32(
            0.8 if apical else 0.45
        )
        wave = np.float32(1.0) + np.float32(0.08) * view.camera.texture(6.0, rng)
        gap = np.float32(gap0) * taper * wave
        depth = np.minimum(view.rim, (view.y - np.float32(chest.apex)) * np.float32(1.15))
        beyond = smoothstep(gap - depth, -0.06, 0.12) * view.lung * view.side(side) * (gap > 0.12)
        line = soft_band(depth - gap, 0.1, max(0.22, 0.8 / view.camera.pixels_per_cm))
        line *= view.lung * view.side(side) * (gap > 0.12)
        view.air += beyond
        view.airless *= np.float32(1.0) - beyond
        view.marking *= np.float32(1.0) - beyond
        view.water += line * np.float32(0.75)
        collapsed = view.lung * view.side(side) * (np.float32(1.0) - beyond)
        view.fill(collapsed * np.float32(0.10 * instance.severity))
        mask |= (beyond + line) > 0.4
    return mask


def pleural_thickening(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """A soft-tissue band along the lateral wall, or a cap over the apex."""
    chest = view.chest
    mask = np.zeros_like(view.left)
    wave = view.camera.texture(3.5, rng)
    for side in sides(instance):
        thick = 0.6 + 1.0 * instance.severity
        band = np.float32(thick) * (np.float32(1.0) + np.float32(0.28) * wave)
        if instance.zone == "apical":
            depth = np.minimum(view.rim * np.float32(0.8), view.y - np.float32(chest.apex))
            reach = smoothstep(view.v, 0.24, 0.12)
            band = band * np.float32(1.3)
        else:
            depth = view.rim
            top = rng.uniform(0.3, 0.45)
            reach = smoothstep(view.v, top - 0.08, top + 0.08) * smoothstep(view.v, 1.02, 0.9)
        inside = (
            view.side(side)
            * (depth > -0.1)
            * (view.above > -0.3)
            * (view.y > chest.apex - 0.1)
            * (view.hilum > -0.1)
        )
        soft = 0.35 if instance.zone == "apical" else 0.14
        field = smoothstep(band - depth, -soft, soft) * reach * inside
        view.fill(field * np.float32(0.85))
        view.water += field * np.float32(
            (0.7 + 1.1 * instance.severity) * (0.7 if instance.zone == "apical" else 1.0)
        )
        mask |= field > 0.4
    return mask
