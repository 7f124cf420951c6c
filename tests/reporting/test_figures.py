"""The look of figures and the bytes of their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from replication.reporting.figures import (
    COLOURS,
    DPI,
    Caption,
    new_figure,
    palette,
    registered_methods,
    save_figure,
    style,
)

CAPTION = Caption("Title", "What it shows.", "It is a phantom.")
PROVENANCE = {"tier": "phantom", "code_versions": ["abc"], "seeds": [0, 1]}


def draw() -> Figure:
    with style():
        figure = new_figure(3, 2)
        axes = figure.subplots()
        axes.plot([0, 1], [1, 0], label="ü ± ×")
        figure.legend(loc="outside upper center")
    return figure


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        with style():
            save_figure(draw(), tmp_path / folder, "f", PROVENANCE, CAPTION)
    for suffix in ("png", "pdf", "json"):
        first, second = ((tmp_path / folder / f"f.{suffix}").read_bytes() for folder in ("a", "b"))
        assert first == second
        assert b"CreationDate" not in first


def test_a_figure_says_what_it_is(tmp_path: Path) -> None:
    figure = draw()
    with style():
        png, _ = save_figure(figure, tmp_path, "f", PROVENANCE, CAPTION)
    with Image.open(png) as image:
        assert round(image.info["dpi"][0]) == DPI
        assert "It is a phantom." in image.info["Description"]
        assert "abc" in image.info["Description"]
    printed = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert "It is a phantom." in printed
    assert "code abc" in printed
    assert json.loads((tmp_path / "f.json").read_text())["provenance"] == PROVENANCE


def test_the_footer_stays_off_the_axes(tmp_path: Path) -> None:
    figure = draw()
    long = Caption("t", "c", "A sentence about the data that needs several lines. " * 4)
    with style():
        save_figure(figure, tmp_path, "f", PROVENANCE, long)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    footer = figure.texts[-1].get_window_extent(renderer)
    axes = figure.axes[0].get_tightbbox(renderer)
    assert axes is not None
    assert footer.y0 >= 0
    assert footer.y1 <= axes.y0
    assert footer.x1 <= figure.bbox.x1


def test_a_method_keeps_its_mark_whatever_is_shown() -> None:
    registered = [f"m{i}" for i in range(16)]
    everything = palette(registered, registered)
    assert palette(["m9", "m3"], registered) == {"m9": everything["m9"], "m3": everything["m3"]}
    assert palette(["m3", "other"], registered)["m3"] == everything["m3"]
    assert len({(mark.colour, mark.marker) for mark in everything.values()}) == 16
    assert len(set(COLOURS)) == len(COLOURS)


def test_registered_methods_are_known_without_importing_them() -> None:
    assert list(registered_methods()) == sorted(registered_methods())
    assert {"medslip", "medklip", "convirt", "supervised"} <= set(registered_methods())
