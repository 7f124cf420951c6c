"""The figure ``grounding_maps``: example images with the true region and the heat map of each method."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from replication.data.batches import PreparedData
from replication.data.privacy import is_credentialed
from replication.protocol_config import Protocol
from replication.reporting.draws import load_predictions
from replication.reporting.figures import COLOURS, new_figure
from replication.reporting.grounding import GROUNDING
from replication.reporting.report import Entry, Report, titled
from replication.reporting.summary import Summariser
from replication.tasks.zero_shot_grounding import upsample

PER_PROTOCOL = 2
"""Examples of each protocol, at most."""

OUTLINE = COLOURS[5]
_WIDTH = 7.0
_ABREAST, _LINES = 8, 8
"""Most maps beside each other, so that each is 2 cm wide on paper; most lines of a page."""


@dataclass(frozen=True)
class Example:
    """One image and the maps of the methods.

    Attributes:
        title: data set and finding. sample: id of the image.
        image: uint8 [S, S]. truth: bool [S, S]. maps: label of a method -> [h, w] on its own grid.
    """

    title: str
    sample: str
    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    maps: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Stored:
    """Test lines with a region, and their maps and regions in the same order."""

    lines: pd.DataFrame
    heat: NDArray[np.float32]
    truth: NDArray[np.uint8]
    size: int

    def place(self, finding: str, sample: str) -> int | None:
        hit = (self.lines["finding"] == finding) & (self.lines["sample"] == sample)
        return int(np.flatnonzero(hit)[0]) if hit.any() else None


def maps_figure(report: Report) -> tuple[Figure, str, list[str]]:
    """The examples of every grounding protocol.

    Returns:
        The figure, its caption, and the ids of the images, ``dataset/sample``.
    """
    found = [examples for p in report.protocols(GROUNDING) if (examples := examples_of(report, p))]
    labels = list(dict.fromkeys(label for examples in found for one in examples for label in one.maps))
    labels.sort(key=[entry.label for entry in _entries(report)].index)
    lines = max(1, math.ceil(len(labels) / _ABREAST))
    abreast = math.ceil(len(labels) / lines)
    each = max(1, min(PER_PROTOCOL, _LINES // (lines * max(1, len(found)))))
    examples = [example for of_protocol in found for example in of_protocol[:each]]
    side = min(1.5, _WIDTH / (1 + max(1, abreast)))
    height = max(1, len(examples) * lines)
    figure = new_figure(side * (1 + max(1, abreast)), (side + 0.14) * height + 0.2 * lines)
    panels = figure.subplots(height, 1 + max(1, abreast), squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for number, example in enumerate(examples):
        block = panels[number * lines : (number + 1) * lines]
        _draw_image(block[0, 0], example, _font(6.5, side))
        for place, label in enumerate(labels):
            axes = block[place // abreast, 1 + place % abreast]
            _draw_map(axes, example, label)
            if number == 0 or lines > 1:
                axes.set_title(label, fontsize=_font(7.5, side), pad=2)
    if not examples:
        panels[0, 0].text(0, 0.5, "no heat maps are stored for images that may be shown")
    caption = (
        f"The first {'images' if each > 1 else 'image'} with a region of each protocol's test set, by "
        "finding and then by image id; nothing is chosen by hand. The true region is outlined. Maps run from "
        "their lowest value (transparent) to their highest (bright); the cross marks the centre of the "
        "highest cell, which the pointing game asks for. Methods are shown with their lowest seed."
    )
    ids = [f"{example.title.partition(':')[0]}/{example.sample}" for example in examples]
    return figure, caption, ids


def examples_of(report: Report, protocol: Protocol) -> list[Example]:
    """Examples of one protocol; none where the images may not leave their data set or no map is stored."""
    folder = report.work / "prepared" / protocol.dataset
    if not (folder / "prepare.json").is_file():
        return []
    data = PreparedData.open(folder)
    if is_credentialed(data):
        return []
    summariser = Summariser(report)
    stored = {
        entry.label: found
        for entry in _entries(report)
        if (found := _stored(summariser, entry, protocol)) is not None
    }
    if not stored:
        return []
    rows = pd.Series(np.arange(len(data.manifest)), index=data.manifest["sample_id"])
    first = next(iter(stored.values()))
    examples = []
    for finding, sample in choose(first.lines, protocol):
        place = first.place(finding, sample)
        assert place is not None
        size = first.size
        maps = {
            label: one.heat[at]
            for label, one in stored.items()
            if (at := one.place(finding, sample)) is not None
        }
        cache_row = int(data.manifest["cache_row"].iloc[int(rows[sample])])
        examples.append(
            Example(
                f"{titled(protocol.dataset)}: {finding.replace('_', ' ')}",
                sample,
                np.asarray(data.images[cache_row]),
                np.unpackbits(first.truth[place], count=size * size).reshape(size, size).astype(bool),
                maps,
            )
        )
    return examples


def choose(lines: pd.DataFrame, protocol: Protocol) -> list[tuple[str, str]]:
    """(finding, sample) pairs: going round the findings in the protocol's order, images by id."""
    queues = {f.name: sorted(lines.loc[lines["finding"] == f.name, "sample"]) for f in protocol.findings}
    chosen: list[tuple[str, str]] = []
    for turn in range(PER_PROTOCOL):
        for finding, samples in queues.items():
            if turn < len(samples) and len(chosen) < PER_PROTOCOL:
                chosen.append((finding, samples[turn]))
    return chosen


def _entries(report: Report) -> list[Entry]:
    return [entry for entry in report.entries() if entry.recipe == report.tier.recipe]


def _stored(summariser: Summariser, entry: Entry, protocol: Protocol) -> _Stored | None:
    for path in summariser.paths(entry, GROUNDING, protocol.id):
        loaded = load_predictions(path)
        if "heat" not in loaded.arrays:
            continue
        lines = loaded.frame[loaded.frame["label"] == 1].reset_index(drop=True)
        test = (lines["split"] == "test").to_numpy()
        arrays = loaded.arrays
        return _Stored(
            lines[test].reset_index(drop=True),
            arrays["heat"][test],
            arrays["truth"][test],
            int(arrays["size"]),
        )
    return None


def _font(points: float, side: float) -> float:
    """Smaller where a panel is narrower than 0.8 inches, so that names do not run into each other."""
    return points * min(1.0, side / 0.8)


def _draw_image(axes: Axes, example: Example, fontsize: float) -> None:
    axes.imshow(example.image, cmap="gray", vmin=0, vmax=255)
    axes.contour(example.truth, [0.5], colors=[OUTLINE], linewidths=0.9)
    dataset, _, finding = example.title.partition(": ")
    axes.set_title(f"{dataset}\n{finding}", fontsize=fontsize, pad=2, loc="left", linespacing=1.05)


def _draw_map(axes: Axes, example: Example, label: str) -> None:
    axes.imshow(example.image, cmap="gray", vmin=0, vmax=255)
    if label not in example.maps:
        axes.text(0.5, 0.5, "no map", transform=axes.transAxes, ha="center", color="white", fontsize=7)
        return
    heat = example.maps[label]
    size = example.image.shape[0]
    pixels = upsample(heat[None], size, "bilinear")[0]
    span = float(pixels.max() - pixels.min())
    scaled = (pixels - pixels.min()) / span if span > 0 else np.zeros_like(pixels)
    overlay = colormaps["inferno"](scaled)
    overlay[..., 3] = 0.7 * scaled
    axes.imshow(overlay)
    axes.contour(example.truth, [0.5], colors=[OUTLINE], linewidths=0.9)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    centre = ((column + 0.5) * size / heat.shape[1] - 0.5, (row + 0.5) * size / heat.shape[0] - 0.5)
    axes.plot(*centre, "x", color="white", ms=3.5, mew=0.9)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
