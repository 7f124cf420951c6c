"""The 51 anatomies and 75 pathologies that the triplet matrix [51, 75] is indexed by.

The names and their order are those of the released code of MedKLIP, MeDSLIP and MAVL: weights, matrices and
text books of all three only fit together when the order is kept.
"""

from __future__ import annotations

from replication.errors import ConfigError, nearest

ANATOMIES: tuple[str, ...] = (
    "trachea",
    "left_hilar",
    "right_hilar",
    "hilar_unspec",
    "left_pleural",
    "right_pleural",
    "pleural_unspec",
    "heart_size",
    "heart_border",
    "left_diaphragm",
    "right_diaphragm",
    "diaphragm_unspec",
    "retrocardiac",
    "lower_left_lobe",
    "upper_left_lobe",
    "lower_right_lobe",
    "middle_right_lobe",
    "upper_right_lobe",
    "left_lower_lung",
    "left_mid_lung",
    "left_upper_lung",
    "left_apical_lung",
    "left_lung_unspec",
    "right_lower_lung",
    "right_mid_lung",
    "right_upper_lung",
    "right_apical_lung",
    "right_lung_unspec",
    "lung_apices",
    "lung_bases",
    "left_costophrenic",
    "right_costophrenic",
    "costophrenic_unspec",
    "cardiophrenic_sulcus",
    "mediastinal",
    "spine",
    "clavicle",
    "rib",
    "stomach",
    "right_atrium",
    "right_ventricle",
    "aorta",
    "svc",
    "interstitium",
    "parenchymal",
    "cavoatrial_junction",
    "cardiopulmonary",
    "pulmonary",
    "lung_volumes",
    "unspecified",
    "other",
)
"""Axis 0 of the triplet matrix."""

NORMAL_PATHOLOGIES: tuple[str, ...] = (
    "normal",
    "clear",
    "sharp",
    "sharply",
    "unremarkable",
    "intact",
    "stable",
    "free",
)
"""Pathology classes 0 to 7: words that say a structure is as it should be."""

# fmt: off
_ABNORMAL_PATHOLOGIES: tuple[str, ...] = (
    "effusion", "opacity", "pneumothorax", "edema", "atelectasis", "tube", "consolidation", "process",
    "abnormality", "enlarge", "tip", "low", "pneumonia", "line", "congestion", "catheter", "cardiomegaly",
    "fracture", "air", "tortuous", "lead", "disease", "calcification", "prominence", "device",
    "engorgement", "picc", "clip", "elevation", "expand", "nodule", "wire", "fluid", "degenerative",
    "pacemaker", "thicken", "marking", "scar", "hyperinflate", "blunt", "loss", "widen", "collapse",
    "density", "emphysema", "aerate", "mass", "crowd", "infiltrate", "obscure", "deformity", "hernia",
    "drainage", "distention", "shift", "stent", "pressure", "lesion", "finding", "borderline", "hardware",
    "dilation", "chf", "redistribution", "aspiration",
)
# fmt: on

TAIL_PATHOLOGY = "tail_abnorm_obs"
"""Class 73: every lemma that no other class holds (fibrosis, for one)."""

EXCLUDED_PATHOLOGY = "excluded_obs"
"""Class 74: lemmas that describe change, size or history rather than a finding."""

PATHOLOGIES: tuple[str, ...] = (
    *NORMAL_PATHOLOGIES,
    *_ABNORMAL_PATHOLOGIES,
    TAIL_PATHOLOGY,
    EXCLUDED_PATHOLOGY,
)
"""Axis 1 of the triplet matrix."""

# fmt: off
EXCLUDED_LEMMAS: frozenset[str] = frozenset((
    "none", "unchanged", "change", "great", "similar", "large", "small", "moderate", "mild", "median",
    "decrease", "bad", "more", "constant", "worsen", "new", "improve", "status", "position", "sternotomy",
    "cabg", "replacement", "postoperative", "assessment", "patient",
))
# fmt: on
"""The lemmas that fall into ``EXCLUDED_PATHOLOGY``."""

ANATOMY_PHRASES: dict[str, str] = {
    "trachea": "trachea",
    "left_hilar": "left hilum",
    "right_hilar": "right hilum",
    "hilar_unspec": "hila",
    "left_pleural": "left pleural space",
    "right_pleural": "right pleural space",
    "pleural_unspec": "pleural space",
    "heart_size": "heart",
    "heart_border": "heart border",
    "left_diaphragm": "left hemidiaphragm",
    "right_diaphragm": "right hemidiaphragm",
    "diaphragm_unspec": "diaphragm",
    "retrocardiac": "retrocardiac region",
    "lower_left_lobe": "left lower lobe",
    "upper_left_lobe": "left upper lobe",
    "lower_right_lobe": "right lower lobe",
    "middle_right_lobe": "right middle lobe",
    "upper_right_lobe": "right upper lobe",
    "left_lower_lung": "left lower lung",
    "left_mid_lung": "left mid lung",
    "left_upper_lung": "left upper lung",
    "left_apical_lung": "left lung apex",
    "left_lung_unspec": "left lung",
    "right_lower_lung": "right lower lung",
    "right_mid_lung": "right mid lung",
    "right_upper_lung": "right upper lung",
    "right_apical_lung": "right lung apex",
    "right_lung_unspec": "right lung",
    "lung_apices": "lung apices",
    "lung_bases": "lung bases",
    "left_costophrenic": "left costophrenic angle",
    "right_costophrenic": "right costophrenic angle",
    "costophrenic_unspec": "costophrenic angles",
    "cardiophrenic_sulcus": "cardiophrenic angle",
    "mediastinal": "mediastinum",
    "spine": "spine",
    "clavicle": "clavicle",
    "rib": "ribs",
    "stomach": "stomach",
    "right_atrium": "right atrium",
    "right_ventricle": "right ventricle",
    "aorta": "aorta",
    "svc": "superior vena cava",
    "interstitium": "interstitium of the lungs",
    "parenchymal": "lung parenchyma",
    "cavoatrial_junction": "cavoatrial junction",
    "cardiopulmonary": "heart and lungs",
    "pulmonary": "lungs",
    "lung_volumes": "lungs",
    "unspecified": "chest",
    "other": "chest",
}

_ANATOMY_INDEX = {name: index for index, name in enumerate(ANATOMIES)}
_PATHOLOGY_INDEX = {name: index for index, name in enumerate(PATHOLOGIES)}


def _parts(anatomy: str) -> list[str]:
    return anatomy.split("_")


def _swapped(anatomy: str) -> str:
    other = {"left": "right", "right": "left"}
    return "_".join(other.get(part, part) for part in _parts(anatomy))


LATERAL_ANATOMIES: tuple[str, ...] = tuple(
    name for name in ANATOMIES if "left" in _parts(name) or "right" in _parts(name)
)
"""The 25 anatomies that name a side of the patient."""


def anatomy_index(name: str) -> int:
    """Position on axis 0 of the triplet matrix; raises ``ConfigError`` naming the nearest anatomy."""
    return _index(name, _ANATOMY_INDEX, "anatomy")


def pathology_index(name: str) -> int:
    """Position on axis 1 of the triplet matrix; raises ``ConfigError`` naming the nearest pathology."""
    return _index(name, _PATHOLOGY_INDEX, "pathology")


def _index(name: str, known: dict[str, int], kind: str) -> int:
    if name not in known:
        raise ConfigError(
            f"unknown {kind}",
            found=name,
            allowed=f"one of the {len(known)} {kind} names of replication.knowledge.vocabulary",
            remedy=nearest(name, known),
        )
    return known[name]


def mirrored(anatomy: str) -> str | None:
    """The anatomy that a left-right flip turns this one into.

    Anatomies without a side map to themselves. ``middle_right_lobe``, ``right_atrium`` and
    ``right_ventricle`` have no left partner: ``None``.
    """
    anatomy_index(anatomy)
    partner = _swapped(anatomy)
    return partner if partner in _ANATOMY_INDEX else None


def anatomy_phrase(anatomy: str) -> str:
    """The anatomy in the words of a report, e.g. ``left pleural space`` for ``left_pleural``."""
    return ANATOMY_PHRASES[ANATOMIES[anatomy_index(anatomy)]]
