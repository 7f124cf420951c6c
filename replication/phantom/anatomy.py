"""The healthy chest of one patient in one projection: a handful of measures, in cm, that findings may alter.

The patient's left lung has index 1, the right lung index 0. Heights are given twice: y in cm and the
relative height v, 0 at the lung apex and 1 at the costophrenic angle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from replication.phantom.scene import View

Measures = NDArray[np.float64]

RIGHT, LEFT = 0, 1
SIGN = np.array([-1.0, 1.0])
"""Direction of the lateral side of the right and of the left lung on the image."""

# Half-width of the pleural cavity at relative heights, as a share of the greatest half-width.
_OUTER_AT = np.array([-0.30, -0.02, 0.0, 0.03, 0.08, 0.16, 0.28, 0.42, 0.58, 0.74, 0.88, 1.0, 1.5])
_OUTER = np.array([0.20, 0.30, 0.36, 0.47, 0.58, 0.70, 0.82, 0.905, 0.96, 0.99, 1.0, 0.985, 0.95])
# Half-widths of the mediastinum and heart, in cm.
_BORDER_AT = np.array([-0.3, 0.0, 0.04, 0.10, 0.20, 0.27, 0.35, 0.42, 0.50, 0.60, 0.70, 0.80, 0.90, 1.0, 1.5])
_BORDER = np.array(
    [
        [4.4, 4.2, 3.0, 2.5, 2.5, 2.6, 2.6, 2.7, 2.9, 3.5, 4.1, 4.3, 4.1, 3.6, 3.2],
        [4.4, 4.2, 3.0, 2.5, 2.6, 3.3, 2.9, 3.1, 3.8, 5.3, 6.9, 7.9, 8.2, 7.9, 7.4],
    ]
)
_HEART = np.array([0, 0, 0, 0, 0, 0, 0, 0.15, 0.45, 0.8, 1, 1, 1, 1, 1.0])
_KNOB = np.array([0, 0, 0, 0.1, 0.6, 1.0, 0.35, 0, 0, 0, 0, 0, 0, 0, 0.0])

PROFILE_STEPS = 512
PROFILE_TOP, PROFILE_BOTTOM = -0.3, 1.5
_FINE = np.linspace(PROFILE_TOP, PROFILE_BOTTOM, PROFILE_STEPS)
_OUTER_PROFILE = np.asarray(PchipInterpolator(_OUTER_AT, _OUTER)(_FINE), np.float64)
_BORDER_PROFILE = np.asarray(PchipInterpolator(_BORDER_AT, _BORDER, axis=1)(_FINE), np.float64)
_HEART_PROFILE = np.asarray(PchipInterpolator(_BORDER_AT, _HEART)(_FINE), np.float64)
_KNOB_PROFILE = np.asarray(PchipInterpolator(_BORDER_AT, _KNOB)(_FINE), np.float64)


@dataclass
class Chest:
    """What a projection is computed from; findings change it before anything is drawn.

    Lengths are in cm, ``density`` in grams per millilitre (water 1); ``vessels`` [2, 3] are numbers in 0..1
    that choose, turn and stretch the vessel tree of each lung.
    """

    apex: float
    base: float
    width: float
    dome: Measures
    arch: float
    outer_bend: Measures
    heart: float
    heart_right: float
    knob: float
    tortuous: float
    shift: float
    depth: float
    wall: float
    shoulder: float
    density: float
    markings: float
    upper_markings: float
    rib_slope: float
    rib_bone: float
    rib_width: float
    clavicle: float
    scapula: float
    breast: float
    breast_drop: float
    bubble: float
    scar: float
    fold: float
    supine: bool
    vessels: Measures

    def height(self, v: float) -> float:
        """y of a relative height."""
        return self.apex + v * (self.base - self.apex)

    def outer(self) -> Measures:
        """Half-width of each pleural cavity on the fine grid of relative heights, [2, PROFILE_STEPS]."""
        bend = 1.0 + self.outer_bend[:, None] * np.sin(np.pi * np.clip(_FINE, 0, 1))[None]
        return self.width * _OUTER_PROFILE[None] * bend

    def border(self) -> Measures:
        """Half-width of the mediastinum towards each side on the fine grid, [2, PROFILE_STEPS]."""
        scale = 1.0 + np.array([[self.heart_right - 1.0], [self.heart - 1.0]]) * _HEART_PROFILE[None]
        border = _BORDER_PROFILE * scale * (self.width / 13.2)
        border[LEFT] += self.knob * _KNOB_PROFILE
        border[RIGHT] += self.tortuous * _KNOB_PROFILE
        return border + SIGN[:, None] * self.shift * np.clip(0.4 + _FINE, 0.3, 1.0)[None]

    def cardiothoracic_ratio(self) -> float:
        """Greatest width of the heart over greatest inner width of the thorax."""
        border, outer = self.border(), self.outer()
        low = _FINE > 0.5
        return float(border[:, low].max(axis=1).sum() / outer.max(axis=1).sum())


@lru_cache(maxsize=64)
def _habitus(seed: int, patient: int) -> Chest:
    """The chest of a patient on an average PA film."""
    rng = np.random.default_rng([seed, 11, patient])
    n = rng.standard_normal(18)
    woman = bool(rng.random() < 0.5)
    stout, tall = float(np.clip(n[0], -1.8, 2.2)), float(np.clip(n[1], -2, 2))
    apex = -13.0
    base = apex + 23.4 + 1.1 * tall - 0.5 * stout - (0.9 if woman else 0.0)
    arch = float(np.clip(3.4 + 0.6 * n[5], 2.0, 5.0))
    return Chest(
        apex=apex,
        base=base,
        width=13.1 + 0.55 * n[2] + 0.25 * stout - (0.5 if woman else 0.0),
        dome=base - arch + np.array([0.35 * n[3], 0.95 + 0.35 * n[4]]),
        arch=arch,
        outer_bend=0.025 * n[6:8],
        heart=float(np.clip(0.95 + 0.085 * n[8] + 0.02 * stout, 0.74, 1.15)),
        heart_right=float(np.clip(1.0 + 0.07 * n[9], 0.82, 1.15)),
        knob=float(np.clip(0.15 + 0.35 * n[10], -0.4, 1.1)),
        tortuous=float(np.clip(0.25 * n[11], -0.2, 0.7)),
        shift=0.0,
        depth=20.5 + 1.6 * stout + 0.5 * n[12],
        wall=2.6 + 0.9 * stout,
        shoulder=-12.6 + 0.8 * n[13],
        density=float(np.clip(0.25 + 0.022 * n[14], 0.2, 0.31)),
        markings=float(np.clip(1.0 + 0.22 * n[15], 0.6, 1.6)),
        upper_markings=0.75,
        rib_slope=n[16],
        rib_bone=float(rng.uniform(0.5, 1.1)),
        rib_width=float(rng.uniform(0.95, 1.35)),
        clavicle=0.35 * n[17],
        scapula=float(rng.random() < 0.3) * 0.4,
        breast=float(rng.uniform(1.2, 4.2)) if woman and rng.random() < 0.8 else 0.0,
        breast_drop=float(rng.uniform(-1.5, 2.0)),
        bubble=0.0,
        scar=float(rng.random() < 0.25) * float(rng.uniform(0.3, 1.0)),
        fold=0.0,
        supine=False,
        vessels=rng.random((2, 3)),
    )


def chest(seed: int, patient: int, image: int, view: View) -> Chest:
    """The healthy chest of a patient, as breathed and turned for one film.

    Args:
        seed: of the data set.
        patient: the habitus derives from it.
        image: depth of breath, turn and other things that differ between films derive from it.
        view: ``AP`` films are taken closer, in shallower breath, with the shoulder blades over the lungs.
    """
    usual = _habitus(seed, patient)
    rng = np.random.default_rng([seed, 12, image])
    n = rng.standard_normal(7)
    draw = rng.random(5)
    supine = view == "AP"
    breath = 0.4 * n[0] - (1.3 if supine else 0.0)
    return replace(
        usual,
        apex=usual.apex + 0.2 * n[1],
        base=usual.base + breath,
        dome=usual.dome + breath + 0.15 * n[5:7],
        heart=usual.heart * (1.07 if supine else 1.0) * (1 + 0.012 * n[2]),
        heart_right=usual.heart_right * (1.07 if supine else 1.0),
        shift=0.2 * n[3],
        depth=usual.depth - (0.8 if supine else 0.0),
        shoulder=usual.shoulder - (0.8 if supine else 0.0),
        density=usual.density + (0.02 if supine else 0.0) + 0.008 * n[4],
        upper_markings=1.0 if supine else 0.75,
        clavicle=usual.clavicle + (0.7 if supine else 0.0),
        scapula=0.3 + 0.7 * draw[0] if supine else usual.scapula,
        bubble=0.4 + 0.6 * draw[1] if draw[2] < (0.3 if supine else 0.65) else 0.0,
        fold=0.4 + 0.6 * draw[3] if draw[4] < (0.2 if supine else 0.06) else 0.0,
        supine=supine,
    )
