"""Path lengths through the chest along every ray: what the X-rays meet before they meet the detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replication.phantom.anatomy import (
    LEFT,
    PROFILE_BOTTOM,
    PROFILE_STEPS,
    PROFILE_TOP,
    RIGHT,
    SIGN,
    Chest,
)
from replication.phantom.camera import BoolArray, Camera, FloatArray, smoothstep
from replication.phantom.vessels import draw_vessels

_BODY_AT = np.array([-30, -19.5, -17.5, -15.5, -13.0, -10.0, -6.0, -2.0, 4.0, 12.0, 24.0])
_BODY = np.array([7.0, 7.0, 8.5, 15.5, 21.0, 22.5, 21.0, 18.8, 18.2, 18.2, 19.0])


class Projection:
    """Maps [size, size] of one chest under one camera, all float32, lengths in cm.

    Attributes:
        x, y: chest coordinates.
        v: relative height, 0 at the lung apex, 1 at the costophrenic angle.
        left: whether the pixel lies on the patient's left.
        r: distance from the midline.
        rim: depth under the lateral chest wall (negative outside the cavity).
        above: height above the diaphragm dome (negative below).
        hilum: distance from the mediastinal border (negative behind heart and mediastinum).
        lung: coverage of the aerated lung field, 0..1.
        cavity: path length through the pleural cavity.
        airless: share of the lung's path that findings filled with fluid or tissue, 0..1.
        air: extra share of the lung's path that findings emptied (bullae, pneumothorax), 0..1.
        water: water-equivalent path added outside the lung's own density (may be negative for gas).
        bone, metal: path lengths.
        marking: multiplies the visible vessels.
    """

    def __init__(self, chest: Chest, camera: Camera) -> None:
        self.chest = chest
        self.camera = camera
        size = camera.size
        self.x, self.y = camera.grid()
        self.v = (self.y - np.float32(chest.apex)) * np.float32(1.0 / (chest.base - chest.apex))
        self.left: BoolArray = self.x > 0
        self.r = np.abs(self.x)
        step = (PROFILE_STEPS - 1) / (PROFILE_BOTTOM - PROFILE_TOP)
        at = np.clip((self.v - np.float32(PROFILE_TOP)) * np.float32(step), 0, PROFILE_STEPS - 1)
        index = at.astype(np.int32) + np.where(self.left, np.int32(PROFILE_STEPS), np.int32(0))
        self._outer_profile, self._border_profile = chest.outer(), chest.border()
        self.outer: FloatArray = np.take(self._outer_profile.astype(np.float32).ravel(), index)
        self.border: FloatArray = np.take(self._border_profile.astype(np.float32).ravel(), index)
        self.rim = self.outer - self.r
        self.hilum = self.r - self.border
        self.above = self.diaphragm() - self.y
        pixel = np.float32(camera.pixels_per_cm)
        wall = np.minimum(self.rim, self.y - np.float32(chest.apex))
        edge = np.minimum(wall, np.minimum(self.hilum, self.above))
        self.lung: FloatArray = np.clip(edge * pixel + np.float32(0.5), 0, 1)
        inside = np.clip(wall * pixel + np.float32(0.5), 0, 1)
        across = self.r / np.maximum(self.outer, np.float32(0.1))
        dome = np.sqrt(np.clip(self.v * np.float32(2.6) + np.float32(0.06), 0.0, 1.0))
        chord = np.sqrt(np.clip(np.float32(1.0) - across * across, 0.0, 1.0))
        self.cavity: FloatArray = np.float32(chest.depth - 2.2 * chest.wall) * chord * dome * inside
        self.airless = np.zeros((size, size), np.float32)
        self.air = np.zeros((size, size), np.float32)
        self.water = np.zeros((size, size), np.float32)
        self.bone = np.zeros((size, size), np.float32)
        self.metal = np.zeros((size, size), np.float32)
        self.marking = np.ones((size, size), np.float32)

    def diaphragm(self) -> FloatArray:
        """y of the hemidiaphragm above or below every pixel, cm."""
        chest = self.chest
        # The central tendon joins the two domes, so their heights blend across the midline.
        blend = smoothstep(self.x, -3.5, 3.5)
        top = np.float32(chest.dome[RIGHT]) + blend * np.float32(chest.dome[LEFT] - chest.dome[RIGHT])
        peak = np.float32(0.42) * self.outer
        away = (self.r - peak) / peak
        lateral = np.clip(away * np.float32(0.42 / 0.58), 0.0, 1.2)
        medial = np.clip(-away, 0.0, 1.0)
        lateral *= lateral
        fall = lateral * (np.float32(0.55) + np.float32(0.45) * lateral)
        y: FloatArray = top + (np.float32(chest.base) - top) * fall + np.float32(1.1) * medial * medial
        return y

    def hilum_at(self, side: int) -> tuple[float, float]:
        """Centre (x, y) of a hilum, cm; the left one lies higher."""
        v = 0.44 if side == RIGHT else 0.40
        return float(SIGN[side] * (self.border_at(side, v) + 0.45)), self.chest.height(v)

    def border_at(self, side: int, v: float) -> float:
        """Half-width of the mediastinum towards a side at a relative height, cm."""
        return float(self._border_profile[side, self._row(v)])

    def outer_at(self, side: int, v: float) -> float:
        """Half-width of the pleural cavity of a side at a relative height, cm."""
        return float(self._outer_profile[side, self._row(v)])

    def outers(self, side: int, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half-widths of the pleural cavity of a side at relative heights of any shape, cm."""
        at = (v - PROFILE_TOP) * ((PROFILE_STEPS - 1) / (PROFILE_BOTTOM - PROFILE_TOP))
        widths: NDArray[np.float64] = self._outer_profile[
            side, np.clip(at.astype(np.intp), 0, PROFILE_STEPS - 1)
        ]
        return widths

    def lung_x(self, side: int, v: float, share: float) -> float:
        """x in a lung, ``share`` of the way from the mediastinum (0) to the chest wall (1), cm."""
        inner, outer = self.border_at(side, v), self.outer_at(side, v)
        return float(SIGN[side] * (inner + share * (outer - inner)))

    def dome_at(self, x: float) -> float:
        """y of the diaphragm at an x, cm."""
        chest, side = self.chest, LEFT if x > 0 else RIGHT
        outer = self.outer_at(side, 0.85)
        peak = 0.42 * outer
        lateral = max(abs(x) - peak, 0) / (outer - peak)
        return float(chest.dome[side] + (chest.base - chest.dome[side]) * lateral**2)

    @staticmethod
    def _row(v: float) -> int:
        at = (v - PROFILE_TOP) / (PROFILE_BOTTOM - PROFILE_TOP) * (PROFILE_STEPS - 1)
        return int(np.clip(at, 0, PROFILE_STEPS - 1))

    def side(self, index: int) -> BoolArray:
        """Pixels of the patient's right (0) or left (1)."""
        return self.left if index == LEFT else ~self.left

    def fill(self, share: FloatArray) -> None:
        """Make a share (0..1) of what is still aerated along each ray airless."""
        self.airless += share * (np.float32(1.0) - self.airless)

    def water_path(self) -> FloatArray:
        """Water-equivalent path through soft tissue, lung and fluid, cm."""
        chest = self.chest
        body = self._body()
        behind = np.float32(1.0) - self._mediastinum()
        below = np.exp(np.minimum(self.above, 0.0) * np.float32(0.55)) * np.float32(0.20)
        step = np.clip(self.above * np.float32(self.camera.pixels_per_cm) + np.float32(0.5), 0, 1)
        path = self.cavity * behind * (step + (np.float32(1.0) - step) * below)
        vessel = self._vessels()
        density = np.float32(chest.density)
        aerated = np.float32(1.0) - np.clip(self.airless, 0, 1)
        vessel *= aerated
        vessel *= path
        vessel *= np.maximum(self.marking, 0)
        lung = density * (np.float32(1.0) - np.clip(self.air, 0, 1))
        aerated *= np.float32(1.0) - lung
        path *= aerated
        total: FloatArray = body
        total -= path
        total += vessel
        total += self.water
        return np.maximum(total, np.float32(0.05), out=total)

    def _body(self) -> FloatArray:
        chest = self.chest
        half = np.interp(
            np.linspace(-30, 30, 601), _BODY_AT + (chest.shoulder + 12.6), _BODY + 0.9 * chest.wall
        ).astype(np.float32)
        half += np.float32(chest.width - 13.1)
        at = np.clip((self.y + np.float32(30)) * np.float32(10), 0, 600).astype(np.int32)
        share = self.r / np.take(half, at)
        quartic = np.square(np.square(share))
        neck = smoothstep(self.y, chest.shoulder - 6.0, chest.shoulder + 3.0)
        depth = np.float32(chest.depth) * (np.float32(0.62) + np.float32(0.38) * neck)
        depth *= np.float32(1.0) + np.float32(0.06) * smoothstep(self.above, 1.0, -5.0)
        path: FloatArray = depth * np.sqrt(np.clip(np.float32(1.0) - quartic * share, 0.0, 1.0))
        return path

    def _mediastinum(self) -> FloatArray:
        """Share of the cavity's path taken by heart and mediastinum, as steep at the border as a sphere."""
        inside = np.clip(-self.hilum, 0.0, None)
        half = np.maximum(self.border, np.float32(1.5))
        rise = np.sqrt(np.clip(inside / half * np.float32(1.9), 0.0, 1.0))
        share: FloatArray = rise * (np.float32(0.70) + np.float32(0.2) * smoothstep(self.v, 0.3, 0.7))
        return share

    def _vessels(self) -> FloatArray:
        """Water path of the pulmonary vessels for every cm of lung along the ray."""
        chest = self.chest
        hila = self.hilum_at(RIGHT), self.hilum_at(LEFT)
        reach = self.outer_at(RIGHT, 0.55) + hila[RIGHT][0], self.outer_at(LEFT, 0.55) - hila[LEFT][0]
        drawn = draw_vessels(self.camera, hila, reach, chest.vessels)
        pruned = np.float32(1.0 - chest.upper_markings) * smoothstep(self.v, 0.55, 0.2)
        return drawn * (np.float32(1.0) - pruned) * np.float32(chest.markings * 2.3 / 12.0)
