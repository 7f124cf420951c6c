"""The static page."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_tables import NASTY, table

from replication.errors import DataError
from replication.reporting.figures import Caption, new_figure, save_figure, style
from replication.reporting.provenance import footer
from replication.reporting.site import build_site
from replication.reporting.writers import write_table


class Page(HTMLParser):
    """Text, balance and sources of a page."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.sources, self.ids = "", [], []  # type: tuple[str, list[str], list[str]]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        found = dict(attrs)
        self.sources += [value for key, value in found.items() if key == "src" and value]
        self.ids += [value for key, value in found.items() if key == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def results(root: Path) -> Path:
    evil = dataclasses.replace(table(), title="<script>alert(1)</script> & more", provenance={"tier": "t"})
    write_table(evil, root / "tables")
    with style():
        figure = new_figure(2, 2)
        figure.subplots().plot([0, 1])
        caption = Caption("A <b>figure</b>", "Shows.", "It is a phantom.")
        save_figure(figure, root / "figures", "roc", {"tier": "t"}, caption)
    return root


def test_the_page_is_whole_and_escapes_what_it_shows(tmp_path: Path) -> None:
    path = build_site(results(tmp_path), "smoke<er>")
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert "<script" not in text
    assert "<script>alert(1)</script> & more" in page.text
    assert NASTY in page.text
    assert "0.813" in page.text
    assert {"table-t_name", "figure-roc"} <= set(page.ids)
    assert page.sources
    assert all((path.parent / source).is_file() for source in page.sources)
    assert page.text.count("It is a phantom.") >= 2
    assert "http" not in text.replace("http-equiv", "")


def test_the_page_is_the_same_every_time(tmp_path: Path) -> None:
    path = build_site(results(tmp_path), "smoke")
    before = path.read_bytes()
    assert build_site(tmp_path, "smoke").read_bytes() == before


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to show"):
        build_site(tmp_path, "smoke")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "roc.json").write_text("{}")
    with pytest.raises(DataError, match=r"roc\.json"):
        build_site(tmp_path, "smoke")
    assert not (tmp_path / "site").exists()


def test_the_footer_names_what_is_needed_to_repeat_it() -> None:
    line = footer(
        {
            "tier": "phantom",
            "code_versions": ["0123456789abcdef"],
            "modified": [True],
            "configurations": ["aaaaaaaaaa", "bbbbbbbbbb"],
            "manifests": ["c" * 64],
            "seeds": [0, 1, 2],
        }
    )
    assert line == (
        "Tier phantom; code 0123456789ab (with local changes); 2 configurations (aaaaaaaa, bbbbbbbb); "
        "1 manifest (cccccccc); seeds 0, 1, 2."
    )
