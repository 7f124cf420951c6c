"""What is in a phantom radiograph: the scene that the image, the masks and the report are all made from.

Sides are the patient's: the patient's left lung is on the right half of the image, as on a film.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "bilateral", "midline"]
Zone = Literal[
    "apical", "upper", "mid", "lower", "base", "hilar", "retrocardiac", "pleural", "cardiac", "diffuse"
]
Certainty = Literal["present", "uncertain"]
View = Literal["PA", "AP"]

NIH_FINDINGS: tuple[str, ...] = (
    "atelectasis",
    "cardiomegaly",
    "effusion",
    "infiltration",
    "mass",
    "nodule",
    "pneumonia",
    "pneumothorax",
    "consolidation",
    "edema",
    "emphysema",
    "fibrosis",
    "pleural_thickening",
    "hernia",
)
"""The 14 NIH ChestX-ray14 findings, in the order of its label list."""

UNSEEN_FINDING = "covid"
"""Peripheral, bilateral, lower-zone ground glass; never occurs in the pre-training set."""

FINDINGS: tuple[str, ...] = (*NIH_FINDINGS, UNSEEN_FINDING)


@dataclass(frozen=True)
class FindingInstance:
    """One finding in one place.

    Attributes:
        finding: one of ``FINDINGS``.
        side: the patient's side; ``midline`` for heart and hernia.
        zone: where in the lung or chest it lies.
        severity: extent and density, in (0, 1]; 0.2 is subtle, 1 is gross.
        certainty: how the report speaks of it. The image shows it either way.
    """

    finding: str
    side: Side
    zone: Zone
    severity: float
    certainty: Certainty = "present"


@dataclass(frozen=True)
class Device:
    """A man-made object; a ``tube`` is endotracheal or in the chest, a ``line`` central venous."""

    kind: Literal["tube", "line", "pacemaker", "wire", "clip"]
    side: Side


@dataclass(frozen=True)
class Scene:
    """One radiograph of one study of one patient.

    Attributes:
        patient: patient number; the body habitus derives from it, so all images of a patient share it.
        study: study number, unique over the data set. All images of a study share findings and report.
        image: image number, unique over the data set; pose and noise derive from it.
        view: projection.
        findings: what is wrong; empty for a normal chest.
        devices: what is implanted or attached.
    """

    patient: int
    study: int
    image: int
    view: View
    findings: tuple[FindingInstance, ...] = ()
    devices: tuple[Device, ...] = ()

    def has(self, finding: str) -> bool:
        """Whether the image shows the finding anywhere."""
        return any(instance.finding == finding for instance in self.findings)
