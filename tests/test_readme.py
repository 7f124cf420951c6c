"""The README's numbers are those of the committed tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "results" / "phantom" / "tables"
COLUMNS = {
    "NIH, mean AUC of 14": ("zero_shot_classification", "NIH ChestX-ray14 (mean of 14)", "AUC"),
    "RSNA AUC": ("zero_shot_classification", "RSNA Pneumonia", "AUC"),
    "laterality AUC": ("zero_shot_relations", "MIMIC-CXR", "Laterality AUC"),
    "pointing game, RSNA": ("zero_shot_grounding", "RSNA Pneumonia (boxes)", "Pointing"),
}
"""Heading -> table, data set (a group of columns or of lines), column."""


def readme_table() -> list[dict[str, str]]:
    """The README's table of zero-shot results, a line per method."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Zero-shot results on the phantom")[1]
    table = next(part for part in section.split("\n\n") if part.startswith("|"))
    names, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    return [dict(zip(names, line, strict=True)) for line in lines]


def printed(name: str, data: str, column: str) -> dict[str, tuple[str, str]]:
    """Method -> what a committed table prints, with and without its interval."""
    found = {}
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        for cell in csv.DictReader(file):
            if cell["column"] == column and data in (cell["group"], cell.get("data")):
                estimate = cell["printed"]
                found[cell["method"]] = (estimate, f"{estimate} {cell['printed_interval']}")
    return found


@pytest.mark.parametrize("heading", COLUMNS)
def test_the_table_of_the_readme_is_that_of_the_results(heading: str) -> None:
    expected = printed(*COLUMNS[heading])
    table = readme_table()
    methods = [line["method"].split("`")[1] for line in table]
    assert sorted(methods) == sorted(expected)
    unlike = {
        m: line[heading] for m, line in zip(methods, table, strict=True) if line[heading] not in expected[m]
    }
    assert not unlike
