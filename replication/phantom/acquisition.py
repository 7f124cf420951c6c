"""How the films of each data set's hospital are taken and displayed."""

from __future__ import annotations

from dataclasses import dataclass

from replication.errors import ConfigError, nearest

Range = tuple[float, float]


@dataclass(frozen=True)
class Acquisition:
    """How a hospital takes and displays its films.

    Ranges are drawn from uniformly, once an image.

    Attributes:
        gamma: exponent of the display curve; below 1 brightens the mid-tones.
        contrast: steepness of the display curve around its middle (0: straight).
        window: percentiles of the film shown as black and white.
        toe: how far below the darkest percentile black lies, as a share of the window.
        noise: relative quantum noise behind an average chest.
        blur: unsharpness, cm.
        scatter: scattered over primary radiation.
        scale: magnification.
        rotation: degrees, either way.
        shift: cm, either way.
        collimation: chance of a visible collimated border.
        marker: chance of a lead side marker.
        ap: share of AP films a population of this hospital should be sampled with.
    """

    gamma: Range = (0.85, 1.15)
    contrast: Range = (0.4, 1.1)
    window: tuple[Range, Range] = ((0.5, 3.0), (98.0, 100.0))
    toe: Range = (0.0, 0.2)
    noise: Range = (0.01, 0.022)
    blur: Range = (0.05, 0.12)
    scatter: Range = (0.4, 0.8)
    scale: Range = (0.98, 1.12)
    rotation: float = 2.5
    shift: float = 0.9
    collimation: float = 0.15
    marker: float = 0.6
    ap: float = 0.4


ACQUISITIONS: dict[str, Acquisition] = {
    "mimic-cxr": Acquisition(),
    "nih-cxr14": Acquisition(
        gamma=(0.7, 1.0), contrast=(1.0, 1.8), window=((1.0, 6.0), (94.0, 98.5)), noise=(0.02, 0.045),
        scale=(1.02, 1.18), rotation=3.5, shift=1.2, collimation=0.05, marker=0.8, ap=0.4,
    ),
    "rsna-pneumonia": Acquisition(
        gamma=(0.9, 1.35), contrast=(0.2, 1.2), noise=(0.02, 0.05), blur=(0.08, 0.18), scatter=(0.35, 0.75),
        scale=(0.98, 1.16), rotation=5.0, shift=1.4, collimation=0.25, marker=0.8, ap=0.55,
    ),
    "siim-acr": Acquisition(
        gamma=(0.65, 0.95), contrast=(0.8, 1.6), noise=(0.015, 0.04), blur=(0.04, 0.10),
        scale=(0.94, 1.08), rotation=4.0, shift=1.4, collimation=0.2, marker=0.7, ap=0.5,
    ),
    "covidx-cxr4": Acquisition(
        gamma=(0.6, 1.5), contrast=(0.0, 2.2), window=((0.0, 8.0), (92.0, 100.0)), noise=(0.01, 0.06),
        blur=(0.05, 0.25), scatter=(0.2, 0.9), scale=(0.9, 1.15), rotation=6.0, shift=1.6,
        collimation=0.3, marker=0.5, ap=0.7,
    ),
}  # fmt: skip
"""The acquisition of each data set's hospital; ``mimic-cxr`` is the reference, the others are shifted."""


def resolve(acquisition: Acquisition | str) -> Acquisition:
    """The acquisition of a name; raises ``ConfigError`` for an unknown one."""
    if isinstance(acquisition, Acquisition):
        return acquisition
    if acquisition not in ACQUISITIONS:
        raise ConfigError("unknown acquisition", found=acquisition, remedy=nearest(acquisition, ACQUISITIONS))
    return ACQUISITIONS[acquisition]
