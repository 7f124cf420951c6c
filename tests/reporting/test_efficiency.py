"""Costs of methods, from the runs' own records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from reporting_doubles import TIER, row, run_config

from replication.errors import ConfigError
from replication.records import write_rows
from replication.reporting.efficiency import efficiency_table, read_costs
from replication.reporting.report import Report

SPEEDS = {"convirt": (100.0, 80.0), "medslip": (40.0, 50.0), "supervised": (0.0,)}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Two seeds of two methods, one run without training, and one whose folder is gone."""
    rows = []
    for method, speeds in (*SPEEDS.items(), ("medklip", (1.0,))):
        for seed, speed in enumerate(speeds):
            config = run_config(method, seed)
            nih = "nih-cxr14/phantom/v1"
            rows.append(row(config, "zero_shot_classification", nih, "mean", "auc", 0.7))
            if method == "medklip":
                continue
            folder = tmp_path / "runs" / f"{method}.matched.seed{seed}"
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(config.model_dump_json())
            done = {
                "parameters": 2_500_000,
                "trainable_parameters": 500_000,
                "images": int(1000 * bool(speed)),
                "images_per_second": speed,
                "wall_seconds": 60.0 * (seed + 1),
                "device": "cpu",
                "threads": 1,
                "processes": 1,
                "precision": "bf16",
                "torch": "2.0",
                "steps": 7,
            }
            (folder / "done.json").write_text(json.dumps(done))
    write_rows(rows, tmp_path / "rows.parquet")
    found = Report.open(TIER, tmp_path, tmp_path)
    asked = {"methods": ("medslip", "medklip", "convirt", "supervised", "random")}
    return replace(found, tier=found.tier.model_copy(update=asked))


def test_cost_is_relative_to_the_fastest_seed_of_the_unit(report: Report) -> None:
    table = efficiency_table(report, read_costs(report))
    cells = {one.labels[0]: one.cells for one in table.rows}
    assert [cell.value for cell in cells["medslip"]] == [2.5, 0.5, 50, 40, 1.5, 2.0]
    assert cells["convirt"][5].value == 1
    assert cells["medslip"][4].spread == pytest.approx(0.5**0.5)
    assert cells["supervised"][0].value == 2.5
    assert cells["supervised"][2].missing == "nothing is trained"
    assert cells["medklip"][0].missing == "its runs are not in the work folder"
    assert cells["random"][0].missing == "no run of it has been evaluated"
    assert "128 px; cpu, 1 thread, bf16, torch 2.0" in table.header.protocols


def test_without_the_unit_there_is_no_relative_cost(report: Report) -> None:
    found = [one for one in read_costs(report) if one.entry.label != "convirt"]
    cells = {one.labels[0]: one.cells for one in efficiency_table(report, found).rows}
    assert cells["medslip"][2].value == 50
    assert cells["medslip"][5].missing == "no finished run of convirt to compare with"


def test_a_record_that_lacks_a_key_is_named(report: Report) -> None:
    path = report.work / "runs" / "medslip.matched.seed0" / "done.json"
    path.write_text(json.dumps({"parameters": 1}))
    with pytest.raises(ConfigError, match="trainable_parameters") as caught:
        read_costs(report)
    assert caught.value.where == str(path)
