"""Tables and figure of the tasks that learn from labels, on synthetic results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting_doubles import TIER, predictions, row, run_config
from sklearn.metrics import roc_auc_score

from replication.protocol_config import load_protocol
from replication.records import read_predictions, result_name, write_predictions, write_rows
from replication.reporting import transfer
from replication.reporting.figures import style
from replication.reporting.report import Report
from replication.tasks import finetune_segmentation, zero_shot_classification
from replication.tasks.common import Predictions
from replication.tasks.finetune_segmentation import THRESHOLDS
from replication.transfer_config import TransferConfig

METHODS, SEEDS, SHARES = ("medslip", "supervised"), (0, 1), (0.1, 1.0)
NIH, SIIM = "nih-cxr14/phantom/v1", "siim-acr/patient-seeded/v1"
TRANSFER = TransferConfig(fractions=SHARES)
SELECTION = "best_val; step of highest mean {} on val"


def segmented(skill: float, seed: int) -> Predictions:
    """Pixel counts of 40 images, half of them with a region."""
    rng = np.random.default_rng([7, seed])
    names = [f"image{i:02d}" for i in range(40)]
    frame = pd.DataFrame({"sample": names, "patient": names, "split": ["val", "test"] * 20})
    frame = frame.assign(finding="pneumothorax", score=np.float32(0.9), label=np.int8(np.arange(40) % 4 < 2))
    true = 100 * frame["label"].to_numpy().astype(np.int32)
    share = np.clip(skill + 0.1 * rng.standard_normal(40), 0, 1)
    hit = (true * share).astype(np.int32)[:, None].repeat(len(THRESHOLDS), axis=1)
    return Predictions(frame, {"found": hit + 10, "hit": hit, "true": true, "thresholds": THRESHOLDS})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    results = tmp_path_factory.mktemp("transfer")
    rows = []
    for method in METHODS:
        for seed in SEEDS:
            config = run_config(method, seed)
            for share in SHARES:
                for task in ("linear_probe", "finetune_classification"):
                    protocol = load_protocol(NIH)
                    frame = predictions(config, [f.name for f in protocol.findings], NIH)
                    frame["score"] *= np.float32(1 + share)
                    frame.loc[frame["sample"].str.endswith("3"), "score"] *= np.float32(share)
                    path = results / "predictions" / config.run_id / result_name(task, NIH, share)
                    write_predictions(frame, path, {})
                    measured = zero_shot_classification.measure(Predictions(frame), protocol, draws=20)
                    about = {"label_fraction": share, "selection": SELECTION.format("AUC")}
                    rows += [row(config, task, NIH, **vars(one), **about) for one in measured]
                for task, encoder in transfer.ENCODERS.items():
                    made = segmented(0.4 + 0.3 * share, seed)
                    path = results / "predictions" / config.run_id / result_name(task, SIIM, share)
                    write_predictions(made.frame, path, {})
                    np.savez(path.with_suffix(".npz"), **made.arrays)
                    measured = finetune_segmentation.measure(made, load_protocol(SIIM), draws=20)
                    chosen = f"{SELECTION.format('Dice')}, encoder {encoder}, decoder unet"
                    about = {"label_fraction": share, "selection": chosen}
                    rows += [row(config, task, SIIM, **vars(one), **about) for one in measured]
    write_rows(rows, results / "rows.parquet")
    found = Report.open(TIER, results, results / "work")
    changes = {"bootstrap": 40, "transfer": TRANSFER, "protocols": (NIH, SIIM), "methods": METHODS}
    return replace(found, tier=found.tier.model_copy(update=changes))


def test_a_cell_is_the_mean_over_seeds_of_its_share(report: Report) -> None:
    table = transfer.classification_table(report, "finetune_classification")
    assert [(c.group, c.name) for c in table.columns[:2]] == [
        ("NIH ChestX-ray14 (mean of 14), AUC", "10 %"),
        ("NIH ChestX-ray14 (mean of 14), AUC", "100 %"),
    ]
    assert [r.labels[0] for r in table.rows] == list(METHODS)
    assert [r.reference for r in table.rows] == [False, True]
    for column, share in enumerate(SHARES):
        cell = table.rows[0].cells[column]
        expected = []
        for seed in SEEDS:
            name = result_name("finetune_classification", NIH, share)
            frame = read_predictions(
                report.results / "predictions" / run_config("medslip", seed).run_id / name
            )
            test = frame[(frame["split"] == "test") & (frame["label"] >= 0)]
            aucs = [roc_auc_score(g["label"], g["score"]) for _, g in test.groupby("finding")]
            expected.append(np.mean(aucs))
        assert cell.value == pytest.approx(np.mean(expected))
        assert cell.n_seeds == 2
        assert cell.lower <= cell.value <= cell.upper
    assert table.rows[0].cells[0].value != table.rows[0].cells[1].value


def test_the_header_says_what_was_chosen_and_on_what(report: Report) -> None:
    header = transfer.classification_table(report, "linear_probe").header
    assert header.selection.startswith("epoch of lowest validation loss")
    assert header.selection.endswith("then step of highest mean AUC on val")
    header = transfer.segmentation_table(report).header
    assert header.selection.endswith("then step of highest mean Dice on val")
    assert "20 test images with a region" not in header.protocols
    assert "10 test images with a region" in header.protocols
    assert "images with a region" in header.thresholds


def test_both_encoder_settings_are_blocks_of_one_table(report: Report) -> None:
    table = transfer.segmentation_table(report)
    assert [r.block for r in table.rows] == ["updated"] * 2 + ["frozen"] * 2
    assert [c.name for c in table.columns] == ["10 %", "100 %"] * 2
    values = [cell.value for cell in table.rows[0].cells]
    assert values[0] < values[1]
    assert values[2] < values[0]


def test_what_was_not_measured_is_said(report: Report) -> None:
    rows = report.rows[report.rows["label_fraction"] == 1.0]
    table = transfer.classification_table(replace(report, rows=rows), "linear_probe")
    assert table.rows[0].cells[0].missing == "it has no such row under this protocol"
    assert table.rows[0].cells[1].value is not None
    run = run_config("medslip", 0).run_id
    path = report.results / "rows" / run / result_name("linear_probe", NIH, 0.1)
    write_rows([], path, {"nothing": "The method has no image trunk to adapt.\n  where: medslip"})
    table = transfer.classification_table(replace(report, rows=rows), "linear_probe")
    path.unlink()
    assert table.rows[0].cells[0].missing == "The method has no image trunk to adapt; where: medslip"


def test_the_figure_draws_the_numbers_of_the_tables(report: Report) -> None:
    with style():
        figure, _ = transfer.efficiency_figure(report)
    panels = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title() for axes in panels]
    assert sum("linear probe" in title for title in titles) == 2
    assert sum("encoder" in title for title in titles) == 2
    table = transfer.classification_table(report, "linear_probe")
    nih = next(a for a in panels if a.get_title() == "NIH ChestX-ray14\nlinear probe")
    line = nih.get_lines()[0]
    assert list(line.get_xdata()) == list(SHARES)
    assert list(line.get_ydata()) == [table.rows[0].cells[j].value for j in range(2)]


def test_a_tier_without_transfer_still_makes_its_tables(tmp_path: Path) -> None:
    empty = Report.open(TIER, tmp_path, tmp_path, rows_needed=False)
    empty = replace(empty, tier=empty.tier.model_copy(update={"transfer": None}))
    for table in (transfer.classification_table(empty, "linear_probe"), transfer.segmentation_table(empty)):
        assert table.missing()
        assert not any(cell.value for r in table.rows for cell in r.cells)
    with style():
        transfer.efficiency_figure(empty)


def test_shares_are_printed_as_percentages() -> None:
    assert [transfer.percent(share) for share in (0.01, 0.125, 1.0)] == ["1 %", "12.5 %", "100 %"]


def test_other_data_are_in_tables_of_their_own(report: Report) -> None:
    """Protocols that were measured but are none of the tier's."""
    tier = report.tier.model_copy(update={"protocols": (NIH,)})
    other = replace(report, tier=tier)
    assert transfer.segmentation_table(other).columns == ()
    table = transfer.segmentation_table(other, further=True)
    assert table.name == "finetune_segmentation_further"
    assert {column.protocol for column in table.columns} == {SIIM}
    assert table.rows[0].cells[0].value == transfer.segmentation_table(report).rows[0].cells[0].value
    assert not transfer.protocols(other, ["linear_probe"], further=True)
