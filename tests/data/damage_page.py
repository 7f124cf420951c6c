"""The page of the documentation that lists all damage; `python -m tests.data.damage_page` writes it."""

from __future__ import annotations

from pathlib import Path

from .damage import Damage
from .damage_images import IMAGES
from .damage_tables import TABLES

DAMAGES = [*TABLES, *IMAGES]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "damage.md"

HEAD = """# Kinds of damage

What `replicate data prepare` says to raw files that are damaged, contradict each other or are hostile. Every
row is tried in `tests/data/test_damage.py`, which also keeps this page complete; no case leaves a folder.
Damage of a single *image* is an error too, unless `--quarantine SHARE` allows it: the image is then left out
and listed in `quarantine.csv`. All other damage is always an error.

| damage | of | file | message | |
| --- | --- | --- | --- | --- |
"""


def markdown() -> str:
    """One row per kind, form and file."""
    rows: dict[tuple[str, str, str], list[Damage]] = {}
    for damage in DAMAGES:
        rows.setdefault((damage.kind, damage.form, damage.file), []).append(damage)
    text = HEAD
    for (kind, form, file), some in rows.items():
        columns = ", ".join(f"`{damage.column}`" for damage in some if damage.column)
        message = "Column ... is missing" if columns else f"... {some[0].words[0]} ..."
        what = f"{kind}: {columns}" if columns else kind
        image = "image" if some[0].image else ""
        text += f"| {what} | {form} | `{Path(file).name}` | {message} | {image} |\n"
    return text + f"\n{len(rows)} rows, {len({row[0] for row in rows})} kinds, {len(DAMAGES)} cases.\n"


if __name__ == "__main__":
    PAGE.write_text(markdown(), encoding="utf-8")
