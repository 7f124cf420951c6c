"""The figure ``phantom_atlas``: every finding of the phantom with its mask outlined and its report."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray

from replication.phantom.population import sample_scenes
from replication.phantom.rendering import render
from replication.phantom.reports import write_report
from replication.phantom.scene import FINDINGS, UNSEEN_FINDING, FindingInstance, Scene
from replication.reporting.figures import COLOURS, new_figure

PATIENTS = 1500
"""Patients that the examples are looked for among."""

MODERATE = 0.6
"""Severity that an example should come closest to: neither subtle nor gross."""

CAPTION = (
    "Every finding of the phantom with its true region outlined, above the report of its study. Examples are "
    "chosen by rule: fewest other findings and devices, severity closest to moderate. The patient's left is "
    "on the right of the image."
)

_PANELS_A_ROW = 4
_SIDE, _LINE, _FONT = 1.2, 40, 5.6


@dataclass(frozen=True)
class Plate:
    """One picture of the atlas.

    Attributes:
        title: the finding. image: uint8 [S, S]. mask: bool [S, S], ``None`` for the normal chest.
        report: text of the study's report.
    """

    title: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    report: str


def example(scenes: list[Scene], finding: str | None) -> Scene:
    """The scene that stands for a finding, by rule.

    PA films before AP films, without devices before with, as few other findings as possible, then the
    severity closest to ``MODERATE``, then the lowest image number. ``None``: a chest without findings.

    Raises:
        ValueError: no scene shows it.
    """
    if finding is None:
        candidates = [scene for scene in scenes if not scene.findings]
    else:
        candidates = [scene for scene in scenes if scene.has(finding)]
    if not candidates:
        raise ValueError(f"None of {len(scenes)} scenes shows {finding}.")

    def rank(scene: Scene) -> tuple[bool, int, int, float, int]:
        off = [abs(i.severity - MODERATE) for i in scene.findings if i.finding == finding]
        doubtful = any(i.certainty == "uncertain" for i in scene.findings)
        others = len(scene.findings) - len(off) + int(doubtful)
        return scene.view != "PA", len(scene.devices), others, min(off, default=0.0), scene.image

    return min(candidates, key=rank)


def plates(seed: int, size: int = 320) -> list[Plate]:
    """A normal chest, then every finding, rendered at ``size`` pixels with the reference acquisition."""
    scenes = sample_scenes(PATIENTS, seed, allow_unseen=True)
    wanted = [None, *FINDINGS]
    chosen = [example(scenes, finding) for finding in wanted]
    rendered = render(chosen, size, seed=seed)
    made = []
    for i, (finding, scene) in enumerate(zip(wanted, chosen, strict=True)):
        mask = None
        if finding is not None:
            parts = [part for (name, _), part in rendered.masks[i].items() if name == finding]
            mask = np.logical_or.reduce(parts)
        made.append(Plate(_title(finding, scene), rendered.images[i], mask, _report(scene, seed)))
    return made


def _title(finding: str | None, scene: Scene) -> str:
    if finding is None:
        return "normal chest"
    others = sorted({i.finding for i in scene.findings} - {finding})
    sides = sorted({i.side for i in scene.findings if i.finding == finding})
    where = "" if sides == ["midline"] else f", {' and '.join(sides)}"
    also = f" (also {', '.join(others)})" if others else ""
    return f"{finding}{where}{also}".replace("_", " ")


def _report(scene: Scene, seed: int) -> str:
    if scene.has(UNSEEN_FINDING):
        return "No report: this disease never occurs in the pre-training set."
    findings: tuple[FindingInstance, ...] = scene.findings
    rng = np.random.default_rng([seed, scene.study])
    sections = write_report(findings, scene.devices, rng).text.split("\n \n")
    return "\n".join(" ".join(section.split()) for section in sections)


def atlas_figure(pictures: list[Plate]) -> Figure:
    """Pictures in rows of four, each above its report; the mask is outlined."""
    texts = [
        [line for section in plate.report.splitlines() for line in textwrap.wrap(section, _LINE)]
        for plate in pictures
    ]
    lines = -(-len(pictures) // _PANELS_A_ROW)
    line_height = _FONT * 1.22 / 72
    heights = [
        max(len(text) for text in texts[k * _PANELS_A_ROW : (k + 1) * _PANELS_A_ROW]) * line_height + 0.02
        for k in range(lines)
    ]
    title = 0.22
    height = lines * (_SIDE + title) + sum(heights)
    figure = new_figure(7.6, height)
    figure.set_layout_engine("none")
    ratios = [part for text in heights for part in (title, _SIDE, text)]
    grid = GridSpec(
        len(ratios),
        _PANELS_A_ROW,
        figure,
        height_ratios=ratios,
        hspace=0,
        wspace=0.04,
        left=0.01,
        right=0.99,
        top=1.0,
        bottom=0.0,
    )
    for number, (plate, text) in enumerate(zip(pictures, texts, strict=True)):
        row, column = divmod(number, _PANELS_A_ROW)
        axes = figure.add_subplot(grid[3 * row + 1, column])
        axes.imshow(plate.image, cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
        if plate.mask is not None:
            axes.contour(plate.mask.astype(float), [0.5], colors=[COLOURS[4]], linewidths=0.8)
        axes.set_axis_off()
        # Left of its column, above its text, which is wider.
        axes.set_anchor("W")
        axes.set_title("\n".join(textwrap.wrap(plate.title, 34)), fontsize=7, pad=2, loc="left")
        below = figure.add_subplot(grid[3 * row + 2, column])
        below.set_axis_off()
        below.text(
            0, 0.97, "\n".join(text), fontsize=_FONT, va="top", linespacing=1.15, transform=below.transAxes
        )
    return figure
