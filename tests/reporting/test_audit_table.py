"""The audit's table: sides measured on the same images, and a reason where there is no number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting_doubles import CLASSIFICATION, TIER, Folders, classification_rows, predictions, run_config
from sklearn.metrics import f1_score, precision_recall_curve

from replication.config import RunConfig
from replication.protocol_config import load_protocol
from replication.records import write_predictions, write_rows
from replication.reporting.audit import Audit, load_audit
from replication.reporting.audit_table import audit_table, with_labels_by_position
from replication.reporting.report import Report
from replication.reporting.tables import Row, Table

NIH = "nih-cxr14/phantom/v1"


@pytest.fixture(scope="module")
def audit() -> Audit:
    return load_audit()


def few_draws(report: Report, **changes: object) -> Report:
    """With fewer draws, and variants trained like the method unless told otherwise."""
    changes = {"bootstrap": 40, "variant_training": {}, "variants_in_full": (), **changes}
    return replace(report, tier=report.tier.model_copy(update=changes))


@pytest.fixture(scope="module")
def table(folders: Folders, audit: Audit) -> Table:
    """Of runs of the method itself, without any variant."""
    return audit_table(few_draws(Report.open(TIER, folders.results, folders.work)), audit)


def line(made: Table, name: str, metric: str = "") -> Row:
    return next(row for row in made.rows if row.labels[0] == name and row.labels[4].startswith(metric))


def test_an_empty_tier_lists_every_place_and_what_is_missing(tmp_path: Path, audit: Audit) -> None:
    made = audit_table(few_draws(Report.open(TIER, tmp_path, tmp_path, rows_needed=False)), audit)
    assert list(dict.fromkeys(row.labels[0] for row in made.rows)) == [entry.id for entry in audit.entries]
    assert not [cell for row in made.rows for cell in row.cells if cell.value is not None]
    assert line(made, "P1").cells[0].missing == "medslip/shared-norm: no run of it has been evaluated"
    assert "Missing for G7; Z8; P16" in " ".join(made.missing())
    assert "0 of these have a difference here" in made.notes[0]
    assert made.header.error_bars == ""


def test_stored_predictions_suffice_for_rules_of_scoring(table: Table, audit: Audit) -> None:
    for place in audit.entries:
        if any(measure.needs == "predictions" for measure in place.measured):
            cells = line(table, place.id).cells
            assert all(cell.value is not None and cell.n_seeds == 3 for cell in cells), place.id
    faithful, corrected, difference = line(table, "G6").cells
    assert difference.value == pytest.approx(faithful.value - corrected.value)
    assert difference.value > 0
    # Attention is positive nearly everywhere, so the mask is the image and Dice is low.
    assert line(table, "G4").cells[2].value < 0


def test_a_threshold_from_test_labels_flatters(table: Table, folders: Folders) -> None:
    """Z4 beside scikit-learn: the highest F1 on the test set of each finding."""
    faithful, corrected, _ = line(table, "Z4", "F1").cells
    assert faithful.value > corrected.value
    expected = []
    for run in faithful.runs:
        path = folders.results / "predictions" / run / f"{CLASSIFICATION}.{load_protocol(NIH).slug}.parquet"
        frame = pd.read_parquet(path)
        per_finding = []
        for _, one in frame[frame["split"] == "test"].groupby("finding"):
            precision, recall, thresholds = precision_recall_curve(one["label"], one["score"])
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            threshold = thresholds[np.argmax(f1[:-1])]
            # The released rule leaves the threshold itself out.
            per_finding.append(f1_score(one["label"], one["score"] > threshold))
        expected.append(np.mean(per_finding))
    assert faithful.value == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize(("method", "has_runs"), [("medklip", True), ("mavl", False), ("kad", False)])
def test_rules_of_scoring_of_the_baselines_are_measured_and_the_rest_says_why_not(
    folders: Folders, method: str, has_runs: bool
) -> None:
    audit = load_audit(method)
    made = audit_table(few_draws(Report.open(TIER, folders.results, folders.work)), audit)
    assert made.name == f"audit_{method}"
    free = {place.id for place in audit.entries if any(one.needs == "predictions" for one in place.measured)}
    shown = {row.labels[0] for row in made.rows if row.cells[2].value is not None}
    assert shown == (free if has_runs else set())
    assert all(cell.value is not None or cell.missing for row in made.rows for cell in row.cells)


def test_labels_read_by_position_are_those_of_other_findings(table: Table) -> None:
    faithful, corrected, _ = line(table, "Z1").cells
    assert abs(faithful.value - 0.5) < 0.1 < corrected.value - 0.5
    frame = pd.DataFrame(
        {"sample": ["s0", "s1"] * 2, "finding": ["b", "b", "a", "a"], "score": 0.0, "label": [0, 1, 1, 1]}
    )
    assert with_labels_by_position(frame, ["b", "a"])["label"].tolist() == [1, 1, 0, 1]
    assert with_labels_by_position(frame, ["a", "b"]).equals(frame)


def test_a_side_without_runs_is_named_and_the_other_shown(table: Table) -> None:
    faithful, corrected, difference = line(table, "P1").cells
    assert faithful.missing == difference.missing == "medslip/shared-norm: no run of it has been evaluated"
    assert corrected.value is not None
    crashed = line(table, "F1")
    assert {cell.missing for cell in crashed.cells} == {
        "not measured; the released script stops before it gives a number"
    }
    assert crashed.labels[4] == "concerns missing lines"
    assert table.best() == frozenset()


def with_variant(root: Path, variant: str, seeds: tuple[int, ...], shift: float, own: int = 3) -> Report:
    """Runs of the method, and of a variant whose scores of images with a finding are higher by ``shift``."""
    rows = []
    names = [finding.name for finding in load_protocol(NIH).findings]
    made: list[tuple[RunConfig, pd.DataFrame]] = []
    for seed in range(own):
        config = run_config("medslip", seed)
        frame = predictions(config, names, NIH)
        made.append((config, frame))
        if seed in seeds:
            moved = frame.assign(score=frame["score"] + np.float32(shift) * frame["label"])
            made.append((config.model_copy(update={"variant": variant}), moved.astype({"score": np.float32})))
    for config, frame in made:
        path = root / "predictions" / config.run_id / f"{CLASSIFICATION}.{load_protocol(NIH).slug}.parquet"
        write_predictions(frame, path, {})
        rows += classification_rows(config, NIH, frame)
    write_rows(rows, root / "rows.parquet")
    return few_draws(Report.open(TIER, root, root))


def test_sides_with_the_same_weights_are_shown_but_no_measurement(tmp_path: Path, audit: Audit) -> None:
    made = audit_table(with_variant(tmp_path, "shared-norm", (0, 1, 2), 0.0), audit)
    faithful, corrected, difference = line(made, "P1").cells
    assert faithful.value == corrected.value
    assert faithful.value is not None
    assert difference.value is None
    assert "same weights" in difference.missing


def test_a_side_that_is_trained_is_compared_with_the_method_trained_like_it(
    tmp_path: Path, audit: Audit
) -> None:
    report = few_draws(with_variant(tmp_path, "reference", (0, 1, 2), 0.5), variant_training={"epochs": 4})
    made = audit_table(report, audit)
    _, corrected, _ = line(made, "P1").cells
    expected = report.select(finding="mean", metric="auc", label="medslip/reference")["value"]
    assert corrected.value == pytest.approx(expected.mean())
    assert "medslip/shared-norm against medslip/reference" in line(made, "P1").labels[4]
    assert "medslip/reference" not in line(made, "Z2").labels[4]


def test_the_difference_is_paired_by_seed(tmp_path: Path, audit: Audit) -> None:
    report = with_variant(tmp_path, "shared-norm", (0, 2), 0.5)
    made = audit_table(report, audit)
    faithful, corrected, difference = line(made, "P1").cells
    assert (faithful.n_seeds, corrected.n_seeds, difference.n_seeds) == (2, 3, 2)
    by_seed = report.select(finding="mean", metric="auc").pivot(index="seed", columns="label", values="value")
    expected = (by_seed["medslip/shared-norm"] - by_seed["medslip"]).dropna()
    assert difference.value == pytest.approx(expected.mean())
    assert difference.spread == pytest.approx(expected.std(ddof=1))
    assert difference.lower is not None and 0 < difference.lower < difference.value
    assert set(difference.runs) > set(faithful.runs)
    assert "paired by seed and by test patient" in made.header.error_bars


def test_one_seed_has_an_interval_over_patients(tmp_path: Path, audit: Audit) -> None:
    made = audit_table(with_variant(tmp_path, "shared-norm", (0,), 0.5, own=1), audit)
    difference = line(made, "P1").cells[2]
    assert difference.spread is None
    assert difference.lower is not None and difference.lower < difference.value < difference.upper
    assert "one seed" in made.header.error_bars
    assert "over seeds" not in made.header.error_bars


def test_sides_without_a_common_seed_are_not_compared(tmp_path: Path, audit: Audit) -> None:
    report = with_variant(tmp_path, "shared-norm", (0, 1, 2), 0.5)
    rows = report.rows
    apart = rows[(rows["label"] == "medslip") != (rows["seed"] == 0)]
    made = audit_table(replace(report, rows=apart), audit)
    assert line(made, "P1").cells[2].missing == "the two sides have no seed in common"


def test_a_single_finding_can_be_asked_for(tmp_path: Path, audit: Audit) -> None:
    """Z2 is about fibrosis alone."""
    report = with_variant(tmp_path, "fibrosis-own-prompt", (0, 1, 2), 0.5)
    faithful, corrected, _ = line(audit_table(report, audit), "Z2").cells
    rows = report.select(finding="fibrosis", metric="auc", label="medslip")
    assert faithful.value == pytest.approx(rows["value"].mean())
    assert corrected.value > faithful.value
