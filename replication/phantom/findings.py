"""Which findings there are, where each may lie, and how a scene's findings reach the image.

A finding acts twice: first it deforms the chest (a raised diaphragm, a wider heart), then, once the path
lengths are known, it paints what it adds to or takes from them and says where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from replication.errors import DataError
from replication.phantom.anatomy import Chest
from replication.phantom.camera import BoolArray
from replication.phantom.projection import Projection
from replication.phantom.scene import FINDINGS, FindingInstance, Scene, Side, Zone
from replication.phantom.signs import airspace, chronic, focal, pleural

Paint = Callable[[Projection, FindingInstance, np.random.Generator], BoolArray]
Deform = Callable[[Chest, FindingInstance], None]

_SIDES: tuple[Side, ...] = ("left", "right", "bilateral", "midline")
_ZONES: tuple[Zone, ...] = (
    "apical", "upper", "mid", "lower", "base", "hilar", "retrocardiac", "pleural", "cardiac", "diffuse",
)  # fmt: skip


@dataclass(frozen=True)
class Sign:
    """How a finding looks.

    Attributes:
        paint: adds it to the path lengths and returns its mask [size, size].
        sites: the zones it occurs in, for every side it occurs on.
        deform: alters the chest beforehand, if it does.
    """

    paint: Paint
    sites: dict[Side, tuple[Zone, ...]]
    deform: Deform | None = None


def _lateral(*zones: Zone) -> dict[Side, tuple[Zone, ...]]:
    return {"left": zones, "right": zones}


SIGNS: dict[str, Sign] = {
    "atelectasis": Sign(
        focal.atelectasis,
        {
            "left": ("base", "lower", "retrocardiac", "upper"),
            "right": ("base", "lower", "upper"),
            "bilateral": ("base",),
        },
        focal.deform_atelectasis,
    ),
    "cardiomegaly": Sign(chronic.cardiomegaly, {"midline": ("cardiac",)}, chronic.deform_cardiomegaly),
    "effusion": Sign(
        pleural.effusion, {**_lateral("pleural"), "bilateral": ("pleural",)}, pleural.deform_effusion
    ),
    "infiltration": Sign(
        airspace.infiltration,
        {**_lateral("upper", "mid", "lower", "hilar"), "bilateral": ("lower", "hilar", "mid")},
    ),
    "mass": Sign(focal.mass, _lateral("upper", "mid", "lower", "hilar")),
    "nodule": Sign(focal.nodule, _lateral("upper", "mid", "lower")),
    "pneumonia": Sign(
        airspace.pneumonia,
        {
            "left": ("upper", "mid", "lower", "retrocardiac"),
            "right": ("upper", "mid", "lower"),
            "bilateral": ("lower",),
        },
    ),
    "pneumothorax": Sign(pleural.pneumothorax, _lateral("apical", "pleural"), pleural.deform_pneumothorax),
    "consolidation": Sign(
        airspace.consolidation,
        {"left": ("upper", "lower", "retrocardiac"), "right": ("upper", "mid", "lower")},
    ),
    "edema": Sign(airspace.edema, {"bilateral": ("hilar", "diffuse")}, airspace.deform_edema),
    "emphysema": Sign(chronic.emphysema, {"bilateral": ("diffuse", "upper")}, chronic.deform_emphysema),
    "fibrosis": Sign(
        chronic.fibrosis, {**_lateral("base", "upper"), "bilateral": ("base",)}, chronic.deform_fibrosis
    ),
    "pleural_thickening": Sign(
        pleural.pleural_thickening, {**_lateral("pleural", "apical"), "bilateral": ("apical", "pleural")}
    ),
    "hernia": Sign(chronic.hernia, {"midline": ("retrocardiac",)}),
    "covid": Sign(airspace.covid, {"bilateral": ("lower", "diffuse")}),
}
"""Every finding of ``scene.FINDINGS``."""


def check(instance: FindingInstance) -> Sign:
    """The sign of an instance; raises ``DataError`` when such a finding cannot be there."""
    sign = SIGNS.get(instance.finding)
    if sign is None:
        raise DataError("unknown finding", found=instance.finding, allowed=", ".join(FINDINGS))
    if instance.zone not in sign.sites.get(instance.side, ()):
        allowed = "; ".join(f"{side}: {', '.join(zones)}" for side, zones in sign.sites.items())
        raise DataError(
            f"{instance.finding} does not occur there",
            found=f"{instance.side}, {instance.zone}",
            allowed=allowed,
        )
    if not 0.0 < instance.severity <= 1.0:
        raise DataError("severity outside its range", found=instance.severity, allowed="(0, 1]")
    return sign


def deform(chest: Chest, scene: Scene) -> None:
    """Let every finding of a scene alter the chest."""
    for instance in scene.findings:
        sign = check(instance)
        if sign.deform is not None:
            sign.deform(chest, instance)


def paint(view: Projection, scene: Scene, seed: int) -> list[tuple[FindingInstance, BoolArray]]:
    """Add every finding of a scene to the path lengths; returns each with its mask [size, size].

    A lesion's shape and place derive from the patient and its site, so it is found again on other films.
    """
    found = []
    for instance in scene.findings:
        key = (FINDINGS.index(instance.finding), _SIDES.index(instance.side), _ZONES.index(instance.zone))
        rng = np.random.default_rng([seed, 31, scene.patient, *key])
        found.append((instance, check(instance).paint(view, instance, rng)))
    return found
