"""Means over seeds, their intervals, and the words for both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reporting_doubles import CLASSIFICATION, GROUNDING, RELATIONS, TIER, Folders, make_results
from sklearn.metrics import roc_auc_score

from replication.protocol_config import load_protocol
from replication.records import read_predictions
from replication.reporting.draws import bootstrap_draws
from replication.reporting.report import Entry, Report
from replication.reporting.summary import Summariser, mean_notes

NIH = "nih-cxr14/phantom/v1"


@pytest.fixture(scope="module")
def report(folders: Folders) -> Report:
    found = Report.open(TIER, folders.results, folders.work)
    return replace(found, tier=found.tier.model_copy(update={"bootstrap": 60}))


def entry(report: Report, label: str) -> Entry:
    return next(entry for entry in report.entries() if entry.label == label)


def test_the_mean_over_seeds_is_that_of_the_predictions(report: Report) -> None:
    summariser = Summariser(report)
    cell = summariser.cell(entry(report, "medklip"), CLASSIFICATION, NIH, "mass", "auc")
    frames = [
        f[f["finding"] == "mass"]
        for f in summariser.predictions(entry(report, "medklip"), CLASSIFICATION, NIH)
    ]
    values = [roc_auc_score(frame["label"], frame["score"]) for frame in frames]
    assert cell.n_seeds == len(values) == 3
    assert cell.value == pytest.approx(np.mean(values), abs=1e-12)
    assert cell.spread == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert len(set(cell.runs)) == 3
    assert cell.lower is not None
    assert cell.upper is not None
    assert cell.lower < cell.value < cell.upper  # type: ignore[operator]
    assert "hierarchical" in summariser.error_bars()


def test_a_single_seed_keeps_the_interval_of_its_row(report: Report) -> None:
    rows = report.rows[report.rows["seed"] == 0]
    summariser = Summariser(replace(report, rows=rows))
    cell = summariser.cell(entry(report, "convirt"), CLASSIFICATION, NIH, None, "auc")
    row = rows[(rows["label"] == "convirt") & (rows["protocol"] == NIH) & (rows["task"] == CLASSIFICATION)]
    row = row[(row["finding"] == "mean") & (row["metric"] == "auc")]
    ends = row[["value", "lower", "upper"]].to_numpy().tolist()
    assert ends == [[cell.value, cell.lower, cell.upper]]
    assert cell.spread is None
    assert "does not cover the choice of the seed" in summariser.error_bars()


def test_without_predictions_there_is_a_spread_and_no_interval(report: Report, tmp_path: Path) -> None:
    summariser = Summariser(replace(report, results=tmp_path))
    cell = summariser.cell(entry(report, "medslip"), CLASSIFICATION, NIH, None, "auc")
    assert (cell.lower, cell.upper) == (None, None)
    assert cell.spread is not None
    assert "no interval" in summariser.error_bars()


def test_every_reason_for_a_missing_number_is_told(report: Report) -> None:
    medslip = entry(report, "medslip")
    summariser = Summariser(report)
    unknown = Entry((9,), "gloria", "matched", "")
    assert "no run" in summariser.cell(unknown, CLASSIFICATION, NIH, None, "auc").missing
    assert "no such row" in summariser.cell(medslip, CLASSIFICATION, NIH, None, "brier").missing
    rows = report.rows.copy()
    rows.loc[(rows["finding"] == "hernia") & (rows["metric"] == "auc"), "value"] = np.nan
    blind = Summariser(replace(report, rows=rows))
    assert "undefined" in blind.cell(medslip, CLASSIFICATION, NIH, "hernia", "auc").missing
    notes = mean_notes(blind, CLASSIFICATION, [load_protocol(NIH)], "auc")
    assert "13 of 14" in notes[0]
    assert "hernia" in notes[0]
    assert mean_notes(summariser, CLASSIFICATION, [load_protocol(NIH)], "auc") == ()


@pytest.mark.parametrize(
    ("task", "protocol", "metric"),
    [
        (CLASSIFICATION, NIH, "f1"),
        (GROUNDING, "rsna-pneumonia/patient-seeded/v1", "pointing_game"),
        (RELATIONS, "mimic-cxr/relations/v1", "laterality_auc"),
    ],
)
def test_draws_of_every_task_surround_the_rows_value(
    report: Report, task: str, protocol: str, metric: str
) -> None:
    rows = report.select(task=task, protocol=protocol, metric=metric, label="medklip", seed=1)
    path = report.results / "predictions" / rows["run_id"].iloc[0]
    path /= f"{task}.{protocol.replace('/', '--')}.parquet"
    draws = bootstrap_draws(path, task, load_protocol(protocol), 60)
    for row in rows.itertuples():
        drawn = draws[str(row.finding), metric]
        assert drawn.shape == (60,)
        assert drawn.min() - 1e-9 <= row.value <= drawn.max() + 1e-9


def test_draws_are_paired_over_runs(report: Report) -> None:
    protocol = load_protocol("siim-acr/patient-seeded/v1")
    paths = sorted((report.results / "predictions").glob(f"*/{CLASSIFICATION}.{protocol.slug}.parquet"))[:2]
    frames = [read_predictions(path) for path in paths]
    assert not np.allclose(frames[0]["score"], frames[1]["score"])
    copied = frames[0].assign(score=frames[0]["score"] * 2)
    assert copied["patient"].tolist() == frames[1]["patient"].tolist()
    one = bootstrap_draws(paths[0], CLASSIFICATION, protocol, 60)
    again = bootstrap_draws(paths[0], CLASSIFICATION, protocol, 60)
    assert all(np.array_equal(one[key], again[key], equal_nan=True) for key in one)


def test_fewer_seeds_are_visible(tmp_path: Path) -> None:
    folders = make_results(tmp_path, methods=("convirt",), seeds=(0, 1))
    found = Report.open(TIER, folders.results, folders.work)
    cell = Summariser(found).cell(entry(found, "convirt"), CLASSIFICATION, NIH, None, "auc")
    assert cell.n_seeds == 2
