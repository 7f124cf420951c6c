"""One look for all figures, one colour and marker per method, and files that are equal byte for byte."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from replication.files import write_whole
from replication.reporting.provenance import footer, write_sidecar

DPI = 200
FOOTER_SIZE = 6.0
"""Points; the smallest text of a figure."""

COLOURS: tuple[str, ...] = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
)
"""Okabe and Ito's palette for colour-blind readers, its yellow replaced by a brown that shows on white."""

MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "figure.dpi": 100,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
    "pdf.compression": 9,
    "image.interpolation": "nearest",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Mark:
    """How a method is drawn everywhere; colour, marker and line differ together, so grey prints read too."""

    colour: str
    marker: str
    line: Any


@dataclass(frozen=True)
class Caption:
    """What a figure says about itself.

    Attributes:
        title: a few words. text: what it shows and how to read it.
        data: the sentence about the phantom, or ``""``.
    """

    title: str
    text: str
    data: str


def registered_methods() -> tuple[str, ...]:
    """Names of the registered methods in registry order, read without importing any of them."""
    return tuple(sorted(entry.name for entry in entry_points(group="medslip_bench.methods")))


def palette(methods: Sequence[str], registered: Sequence[str] | None = None) -> dict[str, Mark]:
    """The mark of each method by its place in the registry, whatever else the figure shows.

    Methods that are not registered (someone else's predictions) come after those that are, by name.

    Args:
        methods: what the figure shows; a variant such as ``medslip/no-icl`` is a method of its own here.
        registered: registry order; the registered methods when ``None``.
    """
    known = list(registered_methods() if registered is None else registered)
    order = [*known, *sorted(set(methods) - set(known))]
    marks = {
        name: Mark(
            COLOURS[i % len(COLOURS)],
            MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
            LINES[(i + i // len(COLOURS)) % len(LINES)],
        )
        for i, name in enumerate(order)
    }
    return {name: marks[name] for name in methods}


@contextmanager
def style() -> Iterator[None]:
    """The common look; figures are made and saved inside it."""
    with mpl.rc_context():
        sns.set_theme(context="paper", style="ticks", rc=STYLE)
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches, outside of any global state, that lays itself out."""
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(
    figure: Figure, folder: Path, name: str, provenance: dict[str, Any], caption: Caption
) -> tuple[Path, Path]:
    """Write ``<name>.png`` (200 dpi, 256 colours), ``<name>.pdf`` and the sidecar ``<name>.json``.

    The sentence about the data and the provenance are printed below the picture and stored in the files'
    metadata; no date is stored, so equal figures are equal files.

    Returns:
        Paths of the PNG and the PDF.
    """
    line = footer(provenance)
    _print_footer(figure, " ".join(part for part in (caption.data, line) if part))
    description = f"{caption.text} {caption.data} {line}"
    paths = []
    for suffix, metadata in (
        ("png", {"Title": caption.title, "Description": description, "Software": None}),
        (
            "pdf",
            {"Title": caption.title, "Subject": description, "CreationDate": None, "ModDate": None},
        ),
    ):
        stream = io.BytesIO()
        figure.savefig(stream, format=suffix, dpi=DPI, metadata=metadata)
        content = with_palette(stream.getvalue()) if suffix == "png" else stream.getvalue()
        paths.append(write_whole(folder / f"{name}.{suffix}", content))
    write_sidecar(
        folder,
        name,
        {
            "name": name,
            "title": caption.title,
            "caption": caption.text,
            "data": caption.data,
            "provenance": provenance,
        },
    )
    return paths[0], paths[1]


def with_palette(png: bytes) -> bytes:
    """A picture in the 256 colours that suit it best, texts kept: a third of the size, alike to the eye."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        texts = PngInfo()
        for key, text in picture.info.items():
            if isinstance(text, str):
                texts.add_itxt(str(key), text)
        palette = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        palette.save(stream, "png", optimize=True, pnginfo=texts, dpi=picture.info.get("dpi"))
    return stream.getvalue()


def _print_footer(figure: Figure, text: str) -> None:
    """Reserve a strip below the axes for the footer, whatever the figure's size."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(text, max(20, int((width - 0.2) * 72 / (0.56 * FOOTER_SIZE))))
    strip = (len(lines) * FOOTER_SIZE * 1.25 + 5) / 72
    figure.set_size_inches(width, height + strip)
    share = strip / (height + strip)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, share, 1, 1 - share))
    else:
        for axes in figure.axes:
            x, y, w, h = axes.get_position().bounds
            axes.set_position((x, share + y * (1 - share), w, h * (1 - share)))
    figure.text(
        0.1 / width,
        2.5 / 72 / (height + strip),
        "\n".join(lines),
        fontsize=FOOTER_SIZE,
        color="0.35",
        ha="left",
        va="bottom",
        linespacing=1.15,
    )
