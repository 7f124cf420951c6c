"""Numbers written into the README and the documents are those of the committed results."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from replication.records import read_rows

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "results" / "phantom" / "tables"
COLUMNS = {
    "NIH, mean AUC of 14": ("zero_shot_classification", "NIH ChestX-ray14 (mean of 14)", "AUC"),
    "RSNA AUC": ("zero_shot_classification", "RSNA Pneumonia", "AUC"),
    "laterality AUC": ("zero_shot_relations", "MIMIC-CXR", "Laterality AUC"),
    "pointing game, RSNA": ("zero_shot_grounding", "RSNA Pneumonia (boxes)", "Pointing"),
}
"""Heading -> table, data set (a group of columns or of lines), column."""


MEASURES = {
    "NIH, mean AUC of 14": ("zero_shot_classification", "nih-cxr14", "auc"),
    "RSNA AUC": ("zero_shot_classification", "rsna-pneumonia", "auc"),
    "SIIM-ACR AUC": ("zero_shot_classification", "siim-acr", "auc"),
    "COVIDx AUC": ("zero_shot_classification", "covidx-cxr4", "auc"),
    "laterality AUC": ("zero_shot_relations", "mimic-cxr", "laterality_auc"),
    "pointing game, RSNA": ("zero_shot_grounding", "rsna-pneumonia", "pointing_game"),
}
"""Heading -> task, data set, metric."""


def table_after(path: str, text: str) -> list[dict[str, str]]:
    """The first table after some text, a dictionary per line."""
    rest = (ROOT / path).read_text(encoding="utf-8").split(text)[1]
    table = next(part for part in rest.split("\n\n") if part.startswith("|"))
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
    table = table_after("README.md", "## Zero-shot results on the phantom")
    methods = [line["method"].split("`")[1] for line in table]
    assert sorted(methods) == sorted(expected)
    unlike = {
        m: line[heading] for m, line in zip(methods, table, strict=True) if line[heading] not in expected[m]
    }
    assert not unlike


@pytest.mark.parametrize("heading", MEASURES)
def test_the_table_of_five_seeds_is_that_of_the_rows(heading: str) -> None:
    task, dataset, metric = MEASURES[heading]
    rows = read_rows(ROOT / "results" / "phantom-h100" / "rows.parquet")
    rows = rows[(rows["variant"] == "default") & (rows["task"] == task)]
    rows = rows[(rows["dataset"] == dataset) & (rows["metric"] == metric)]
    values = rows.groupby("method")["value"]
    assert (values.count() == 5).all()
    expected = {name: f"{mean:.3f} ± {values.std()[name]:.3f}" for name, mean in values.mean().items()}
    table = table_after("docs/phantom-results.md", "Five seeds on the H100")
    assert {line[""].strip("`"): line[heading] for line in table} == expected
