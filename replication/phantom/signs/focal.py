"""Nodules, masses and collapsed lung."""

from __future__ import annotations

import cv2
import numpy as np

from replication.phantom.anatomy import SIGN, Chest
from replication.phantom.camera import BoolArray, smoothstep
from replication.phantom.projection import Projection
from replication.phantom.scene import FindingInstance
from replication.phantom.signs.airspace import FISSURE, ZONE_HEIGHT, sides


def _place(
    view: Projection, instance: FindingInstance, side: int, radius: float, rng: np.random.Generator
) -> tuple[float, float]:
    v = float(np.clip(ZONE_HEIGHT[instance.zone] + rng.uniform(-0.08, 0.08), 0.09, 0.8))
    x = view.lung_x(side, v, 0.12 if instance.zone == "hilar" else rng.uniform(0.22, 0.8))
    y = min(view.chest.height(v), view.dome_at(x) - 0.8 * radius)
    return x, y


def nodule(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """One or a few round opacities of 1 to 3 cm, some of them calcified."""
    mask = np.zeros_like(view.left)
    for side in sides(instance):
        for _ in range(1 + int(rng.random() < 0.5) + int(rng.random() < 0.3)):
            radius = 0.5 * (1.5 + 1.45 * instance.severity * rng.uniform(0.8, 1.0))
            x, y = _place(view, instance, side, radius, rng)
            dx = (view.x - np.float32(x)) * np.float32(1 / radius)
            dy = (view.y - np.float32(y)) * np.float32(1 / (radius * rng.uniform(0.85, 1.15)))
            q = dx * dx + dy * dy
            calcium = rng.uniform(2.2, 3.5)
            view.water += np.sqrt(np.clip(np.float32(1.0) - q, 0, 1)) * np.float32(calcium * radius)
            mask |= q < 1.0
            mask[_nearest(view, x, y)] = True
    return mask


def _nearest(view: Projection, x: float, y: float) -> tuple[int, int]:
    column, row = view.camera.points(np.array([[x, y]]))[0] / 16.0
    limit = view.camera.size - 1
    return int(np.clip(round(row), 0, limit)), int(np.clip(round(column), 0, limit))


def mass(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """A lobulated opacity larger than 3 cm, some with spicules."""
    mask = np.zeros_like(view.left)
    for side in sides(instance):
        radius = 0.5 * (3.2 + 3.6 * instance.severity)
        x, y = _place(view, instance, side, radius, rng)
        squeeze, angle = rng.uniform(0.75, 1.1), rng.uniform(0, np.pi)
        u, w = view.x - np.float32(x), view.y - np.float32(y)
        a = u * np.float32(np.cos(angle)) + w * np.float32(np.sin(angle))
        b = (w * np.float32(np.cos(angle)) - u * np.float32(np.sin(angle))) * np.float32(1 / squeeze)
        q = np.sqrt(a * a + b * b) * np.float32(1 / radius) + np.float32(0.09) * view.camera.texture(
            1.2 * radius, rng
        )
        body = np.sqrt(np.clip(np.float32(1.0) - q * q, 0, 1))
        inside = smoothstep(view.rim, -0.4, 0.2) * (view.side(side))
        view.water += body * inside * np.float32(1.7 * radius)
        view.marking *= np.float32(1.0) - np.float32(0.6) * (body > 0)
        mask |= (q < 1.0) & (inside > 0.5)
        if rng.random() < 0.5:
            sheet = view.camera.blank()
            theta = rng.uniform(0, 2 * np.pi, 14)
            rays = np.stack([np.cos(theta), np.sin(theta)], axis=1)
            ends = np.stack([rays * 0.8 * radius, rays * radius * rng.uniform(1.15, 1.6, (14, 1))], axis=1)
            view.camera.strokes(sheet, ends + np.array([x, y]), 0.2, 1.0)
            view.water += sheet.astype(np.float32) * view.lung * np.float32(0.5 / 255.0)
    return mask


def deform_atelectasis(chest: Chest, instance: FindingInstance) -> None:
    """Loss of volume: the hemidiaphragm rises and the mediastinum moves over."""
    for side in sides(instance):
        chest.dome[side] -= 0.35 + 1.5 * instance.severity
        if instance.side != "bilateral":
            chest.shift += SIGN[side] * 0.8 * instance.severity


def atelectasis(view: Projection, instance: FindingInstance, rng: np.random.Generator) -> BoolArray:
    """Plate-like bands, or a wedge of collapsed lobe when severe."""
    mask = np.zeros_like(view.left)
    for side in sides(instance):
        if instance.severity > 0.6 and instance.zone in ("upper", "lower", "retrocardiac"):
            mask |= _wedge(view, instance, side, rng)
        else:
            mask |= _plates(view, instance, side, rng)
    return mask


def _plates(view: Projection, instance: FindingInstance, side: int, rng: np.random.Generator) -> BoolArray:
    sheet = view.camera.blank()
    t = np.linspace(0, 1, 6)[:, None]
    for _ in range(1 + int(3 * instance.severity)):
        v = ZONE_HEIGHT[instance.zone] + rng.normal(0, 0.035)
        behind_heart = instance.zone == "retrocardiac"
        x0 = view.lung_x(side, v, -0.35 if behind_heart else rng.uniform(0.08, 0.4))
        length = rng.uniform(2.5, 4.0) + 3.0 * instance.severity
        tilt = rng.normal(0.08, 0.22)
        y0 = min(view.chest.height(v), view.dome_at(x0) - 0.7)
        end = np.array([x0 + SIGN[side] * length * np.cos(tilt), y0 + length * np.sin(tilt)])
        path = np.array([x0, y0]) * (1 - t) + end * t + np.array([0, -0.35]) * np.sin(np.pi * t)
        view.camera.strokes(sheet, path[None], 0.35 + 0.4 * rng.random(), 1.0)
    soft = view.camera.soften(sheet, 0.15)
    inside = view.side(side) * smoothstep(view.above, -0.3, 0.2) * (view.rim > 0)
    view.water += soft * inside * np.float32(0.9 + 1.4 * instance.severity)
    haze = cv2.GaussianBlur(soft, (0, 0), 0.9 * view.camera.pixels_per_cm) * inside
    view.fill(np.minimum(haze * np.float32(0.5), 0.3))
    return np.asarray((soft * inside > 0.25) | (haze > 0.22))


def _wedge(view: Projection, instance: FindingInstance, side: int, rng: np.random.Generator) -> BoolArray:
    spread = np.maximum(view.r - np.float32(1.0), 0)
    ragged = view.camera.texture(3.0, rng)
    if instance.zone == "upper":
        edge = np.float32(FISSURE[side] - 0.1) - spread * np.float32(0.030 + 0.02 * instance.severity)
        field = smoothstep(edge - view.v + np.float32(0.012) * ragged, -0.025, 0.025) * view.lung
    else:
        reach = 5.5 - 1.5 * instance.severity
        edge = (view.v - np.float32(0.5)) * np.float32(reach / 0.4)
        field = smoothstep(edge - view.r + np.float32(1.2) + np.float32(0.2) * ragged, -0.35, 0.4)
        field *= smoothstep(view.above, -0.3, 0.2) * (view.rim > 0)
    field = field * view.side(side) * (view.r > 0.8)
    view.fill(field * np.float32(0.5 + 0.35 * instance.severity))
    return np.asarray(field > 0.4)
