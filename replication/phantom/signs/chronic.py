"""Signs of long-standing disease: heart size, emphysema, fibrosis, hiatal hernia."""

from __future__ import annotations

import numpy as np

from replication.phantom.anatomy import SIGN, Chest
from replication.phantom.camera import BoolArray, smoothstep
from replication.phantom.projection import Projection
from replication.phantom.scene import FindingInstance
from replication.phantom.signs.airspace import sides


def deform_cardiomegaly(chest: Chest, instance: FindingInstance) -> None:
    """Widen the heart to a cardiothoracic ratio above 0.55 (higher on AP films, which magnify it)."""
    target = (0.492 + 0.145 * instance.severity) * (1.04 if chest.supine else 1.0)
    for _ in range(3):
        ratio = chest.cardiothoracic_ratio()
        if ratio >= target:
            break
        chest.heart *= (target / ratio) ** 1.15
        chest.heart_right *= (target / ratio) ** 0.7


def cardiomegaly(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Nothing beyond the outline: the mask is the heart."""
    return np.asarray((view.hilum < 0) & (view.v > 0.45) & (view.above > -0.5))


def deform_emphysema(chest: Chest, instance: FindingInstance) -> None:
    """Hyperinflation: long, dark lungs, flat diaphragms, few vessels, a narrow heart."""
    s = instance.severity
    chest.base += 0.4 + 1.0 * s
    chest.dome += 0.4 + 1.0 * s
    flat = 0.30 + 0.45 * s
    chest.dome += flat * (chest.base - chest.dome)
    chest.arch *= 1 - flat
    chest.density *= 0.92 - 0.25 * s
    chest.markings *= 0.9 - 0.35 * s
    chest.heart *= 1 - 0.04 - 0.08 * s
    chest.heart_right *= 1 - 0.06 * s
    chest.width *= 1 + 0.015 * s


def emphysema(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Bullae: round lucent spaces with hair-thin walls, most of them in the upper zones."""
    bullae = np.zeros_like(view.lung)
    for _ in range(int(rng.integers(1, 3)) + int(3 * instance.severity)):
        side = int(rng.integers(0, 2))
        v = rng.uniform(0.1, 0.36) if instance.zone == "upper" else rng.uniform(0.12, 0.75)
        radius = rng.uniform(0.8, 1.3) + 1.2 * instance.severity
        x, y = view.lung_x(side, v, rng.uniform(0.4, 0.85)), view.chest.height(v)
        q = np.sqrt((view.x - np.float32(x)) ** 2 + (view.y - np.float32(y)) ** 2) * np.float32(1 / radius)
        lucent = smoothstep(q, 1.0, 0.6)
        bullae = np.maximum(bullae, lucent)
        wall = np.clip(np.float32(1.0) - np.abs(q - np.float32(1.0)) * np.float32(radius / 0.3), 0, 1)
        view.water += wall * view.lung * np.float32(0.08 + 0.12 * instance.severity)
    view.air += bullae * view.lung * np.float32(0.2 + 0.3 * instance.severity)
    view.marking *= np.float32(1.0) - np.float32(0.7) * bullae
    if instance.zone == "upper":
        return np.asarray((view.lung > 0.5) & (view.v < 0.5))
    return np.asarray(view.lung > 0.5)


def deform_fibrosis(chest: Chest, instance: FindingInstance) -> None:
    """Small, stiff lungs."""
    for side in sides(instance):
        chest.dome[side] -= 0.2 + 0.9 * instance.severity


def fibrosis(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """A net of short lines and small rings, densest under the pleura of the bases (or of the upper zones)."""
    chest, camera = view.chest, view.camera
    upper = instance.zone in ("upper", "apical")
    low, high = (0.05, 0.42) if upper else (0.5, 0.98)
    mask = np.zeros_like(view.left)
    for side in sides(instance):
        count = int(110 + 190 * instance.severity)
        v = np.where(rng.random(count) < 0.85, rng.uniform(low, high, count), rng.uniform(0.1, 0.95, count))
        rim = rng.exponential(1.9 + 0.8 * instance.severity, count)
        x = SIGN[side] * (view.outers(side, v) - rim)
        y = chest.apex + v * (chest.base - chest.apex)
        angle = rng.uniform(0, np.pi, count)
        half = rng.uniform(0.2, 0.45, count)
        bend = rng.normal(0, 0.25, count)
        along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * half[:, None]
        normal = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * bend[:, None]
        centre = np.stack([x, y], axis=1)
        lines = np.stack([centre - along, centre + normal, centre + along], axis=1)
        sheet = view.camera.blank()
        camera.strokes(sheet, lines, 0.2, 1.0)
        own = view.side(side) * view.lung
        net = camera.soften(sheet, 0.1) * own
        view.water += net * np.float32(1.2 + 0.9 * instance.severity)
        zone = smoothstep(view.v, 0.5, 0.32) if upper else smoothstep(view.v, 0.42, 0.62)
        field = smoothstep(view.rim, 4.5 + 2.0 * instance.severity, 1.0) * zone * own
        view.fill(field * np.float32(0.16 + 0.24 * instance.severity))
        mask |= field > 0.25
    return mask


def hernia(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Stomach above the diaphragm behind the heart: a round opacity with an air-fluid level."""
    s = instance.severity
    rx, ry = 1.8 + 2.0 * s, 1.6 + 1.6 * s
    x = rng.uniform(-0.8, 1.8)
    y = min(view.dome_at(3.0), view.dome_at(-3.0)) + 0.6 - 0.75 * ry
    dx = (view.x - np.float32(x)) * np.float32(1 / rx)
    dy = (view.y - np.float32(y)) * np.float32(1 / ry)
    q = dx * dx + dy * dy + np.float32(0.06) * view.camera.texture(3.0, rng)
    body = np.sqrt(np.clip(np.float32(1.0) - q, 0, 1))
    view.water += body * np.float32(0.7 + 1.5 * s)
    level = rng.uniform(-0.25, 0.2)
    gas = np.sqrt(np.clip(np.float32(0.78) - q, 0, 1)) * smoothstep(dy, level + 0.03, level - 0.03)
    view.water -= gas * np.float32((1.6 + 2.3 * s) * (rng.random() < 0.75))
    return np.asarray(q < 1.0)
