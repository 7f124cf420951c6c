"""Who comes to be X-rayed: patients, their studies, what they have and what is attached to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replication.errors import ConfigError, nearest
from replication.phantom.findings import SIGNS
from replication.phantom.scene import Certainty, Device, FindingInstance, Scene, Side, View, Zone

STUDIES, IMAGES = 3, 4
"""At most so many studies a patient and images a patient: study and image numbers leave room for them."""

# Syndrome -> (acute, {finding: chance}).
_SYNDROMES: dict[str, tuple[bool, dict[str, float]]] = {
    "heart failure": (True, {"cardiomegaly": 0.85, "edema": 0.75, "effusion": 0.7, "atelectasis": 0.15}),
    "large heart": (False, {"cardiomegaly": 1.0, "effusion": 0.1}),
    "pneumonia": (True, {"pneumonia": 1.0, "consolidation": 0.22, "infiltration": 0.2, "effusion": 0.25}),
    "lobar consolidation": (True, {"consolidation": 1.0, "pneumonia": 0.2, "effusion": 0.15}),
    "infiltrates": (True, {"infiltration": 1.0, "atelectasis": 0.12}),
    "collapse": (True, {"atelectasis": 1.0, "effusion": 0.25}),
    "overload": (True, {"edema": 1.0, "effusion": 0.35}),
    "emphysema": (False, {"emphysema": 1.0, "pneumothorax": 0.12, "nodule": 0.12, "fibrosis": 0.08}),
    "pneumothorax": (True, {"pneumothorax": 1.0, "atelectasis": 0.12, "emphysema": 0.08}),
    "tumour": (False, {"mass": 1.0, "nodule": 0.3, "effusion": 0.2, "atelectasis": 0.12}),
    "nodule": (False, {"nodule": 1.0, "emphysema": 0.06}),
    "fibrosis": (False, {"fibrosis": 1.0, "pleural_thickening": 0.2, "pneumothorax": 0.04}),
    "old pleurisy": (False, {"pleural_thickening": 1.0, "effusion": 0.1}),
    "hiatal hernia": (False, {"hernia": 1.0, "atelectasis": 0.1}),
    "effusion": (True, {"effusion": 1.0, "atelectasis": 0.25}),
}

_WEIGHTS = {
    "heart failure": 0.11,
    "large heart": 0.05,
    "pneumonia": 0.10,
    "lobar consolidation": 0.07,
    "infiltrates": 0.10,
    "collapse": 0.07,
    "overload": 0.03,
    "emphysema": 0.09,
    "pneumothorax": 0.09,
    "tumour": 0.09,
    "nodule": 0.09,
    "fibrosis": 0.09,
    "old pleurisy": 0.08,
    "hiatal hernia": 0.09,
    "effusion": 0.05,
}

_BILATERAL = {
    "atelectasis": 0.2,
    "effusion": 0.35,
    "infiltration": 0.25,
    "pneumonia": 0.2,
    "fibrosis": 0.6,
    "pleural_thickening": 0.3,
}


@dataclass(frozen=True)
class Prevalence:
    """How common things are.

    Attributes:
        normal: share of patients without any finding in any study.
        second: chance that a sick patient has a second, unrelated syndrome.
        syndromes: relative frequency of each syndrome; ``None`` takes the phantom's.
        unseen: share of patients with ``covid``, where that is allowed.
        uncertain: chance that a report hedges a finding.
        ap: share of AP films; the very sick get more of them.
    """

    normal: float = 0.27
    second: float = 0.35
    syndromes: dict[str, float] | None = None
    unseen: float = 0.3
    uncertain: float = 0.08
    ap: float = 0.4


def sample_scenes(
    n_patients: int,
    seed: int,
    *,
    prevalence: Prevalence | None = None,
    allow_unseen: bool = False,
    first_patient: int = 0,
) -> list[Scene]:
    """Draw the scenes of patients ``first_patient`` to ``first_patient + n_patients - 1``.

    Every patient has one to three studies and one to four images in all; the images of a study share its
    findings. Each patient is drawn from an own stream, so it is the same however many are drawn.
    Findings come in syndromes and so co-occur as they do in patients, but each of the 14 is raised to at
    least 5 % of the studies (a hiatal hernia is in about 0.2 % of real ones) so that every one can be
    learnt and tested.

    Args:
        n_patients: how many patients.
        seed: of the data set.
        prevalence: how common things are; the phantom's own by default.
        allow_unseen: whether ``covid`` may occur.
        first_patient: number of the first patient.
    """
    how = prevalence or Prevalence()
    scenes: list[Scene] = []
    for patient in range(first_patient, first_patient + n_patients):
        scenes += _patient(patient, np.random.default_rng([seed, patient]), how, allow_unseen)
    return scenes


def _patient(patient: int, rng: np.random.Generator, how: Prevalence, allow_unseen: bool) -> list[Scene]:
    images = int(rng.choice(IMAGES, p=[0.45, 0.3, 0.15, 0.1])) + 1
    studies = int(min(images, 1 + rng.choice(STUDIES, p=[0.6, 0.28, 0.12])))
    unseen = bool(rng.random() < how.unseen) and allow_unseen
    normal = bool(rng.random() < how.normal)
    names, weights = _weights(how)
    chronic: dict[str, FindingInstance] = {}
    syndromes: list[str] = []
    if not normal and not unseen:
        count = min(len(names), 1 + int(rng.random() < how.second))
        syndromes = [names[i] for i in rng.choice(len(names), count, replace=False, p=weights)]
    scenes: list[Scene] = []
    owner = np.sort(np.concatenate([np.arange(studies), rng.integers(0, studies, images - studies)]))
    for s in range(studies):
        if unseen:
            found = _unseen(rng, how)
        elif s > 0 and syndromes and rng.random() < 0.35:
            found = _study([n for n in syndromes if not _SYNDROMES[n][0]], chronic, rng, how)
        else:
            found = _study(syndromes, chronic, rng, how)
        burden = sum(instance.severity for instance in found)
        view: View = "AP" if rng.random() < how.ap * min(1.6, 0.65 + 0.35 * burden) else "PA"
        devices = _devices(found, view, rng)
        for i in np.flatnonzero(owner == s):
            scenes.append(
                Scene(patient, patient * STUDIES + s, patient * IMAGES + int(i), view, found, devices)
            )
    return scenes


def _weights(how: Prevalence) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the syndromes and their probabilities; raises ``ConfigError`` for an unknown name."""
    chosen = _WEIGHTS if how.syndromes is None else how.syndromes
    for name in chosen:
        if name not in _SYNDROMES:
            raise ConfigError("unknown syndrome", found=name, remedy=nearest(name, _SYNDROMES))
    weights = np.array(list(chosen.values()), np.float64)
    return list(chosen), weights / weights.sum()


def _severity(rng: np.random.Generator) -> float:
    return round(float(0.15 + 0.85 * rng.beta(1.5, 1.7)), 3)


def _certainty(rng: np.random.Generator, how: Prevalence) -> Certainty:
    return "uncertain" if rng.random() < how.uncertain else "present"


def _study(
    syndromes: list[str], chronic: dict[str, FindingInstance], rng: np.random.Generator, how: Prevalence
) -> tuple[FindingInstance, ...]:
    found: dict[str, FindingInstance] = {}
    for name in syndromes:
        acute, chances = _SYNDROMES[name]
        side: Side = "left" if rng.random() < 0.5 else "right"
        for finding, chance in chances.items():
            if rng.random() >= chance or finding in found:
                continue
            if not acute and finding in chronic:
                old = chronic[finding]
                severity = float(np.clip(old.severity + rng.normal(0, 0.08), 0.12, 1.0))
                found[finding] = FindingInstance(
                    finding, old.side, old.zone, round(severity, 3), _certainty(rng, how)
                )
                continue
            found[finding] = _instance(finding, side, name, rng, how)
            if not acute:
                chronic[finding] = found[finding]
    return tuple(found.values())


def _instance(
    finding: str, side: Side, syndrome: str, rng: np.random.Generator, how: Prevalence
) -> FindingInstance:
    sites = SIGNS[finding].sites
    both = _BILATERAL.get(finding, 0.0)
    if finding == "effusion" and syndrome in ("heart failure", "overload"):
        both = 0.6
    if "midline" in sites:
        side = "midline"
    elif "left" not in sites or ("bilateral" in sites and rng.random() < both):
        side = "bilateral"
    zones = sites[side]
    zone: Zone = zones[int(rng.integers(len(zones)))]
    return FindingInstance(finding, side, zone, _severity(rng), _certainty(rng, how))


def _unseen(rng: np.random.Generator, how: Prevalence) -> tuple[FindingInstance, ...]:
    zones = SIGNS["covid"].sites["bilateral"]
    zone = zones[int(rng.integers(len(zones)))]
    found = [FindingInstance("covid", "bilateral", zone, _severity(rng), _certainty(rng, how))]
    if rng.random() < 0.12:
        found.append(
            FindingInstance("cardiomegaly", "midline", "cardiac", _severity(rng), _certainty(rng, how))
        )
    return tuple(found)


def _devices(found: tuple[FindingInstance, ...], view: View, rng: np.random.Generator) -> tuple[Device, ...]:
    names = {instance.finding: instance for instance in found}
    draw = rng.random(6)
    side: Side = "left" if draw[5] < 0.35 else "right"
    sick = view == "AP"
    devices: list[Device] = []
    if draw[0] < (0.22 if sick else 0.01):
        devices.append(Device("tube", "midline"))
    drained = names.get("pneumothorax") or names.get("effusion")
    if drained is not None and drained.side in ("left", "right") and draw[1] < 0.15:
        devices.append(Device("tube", drained.side))
    elif draw[1] < 0.03:
        devices.append(Device("tube", side))
    if draw[2] < (0.4 if sick else 0.06):
        devices.append(Device("line", side))
    if draw[3] < (0.16 if "cardiomegaly" in names else 0.04):
        devices.append(Device("pacemaker", "left" if draw[5] < 0.8 else "right"))
    if draw[4] < (0.16 if "cardiomegaly" in names else 0.05):
        devices.append(Device("wire", "midline"))
    elif draw[4] > 0.95:
        devices.append(Device("clip", side))
    return tuple(devices)
