"""The tables and figures of the notebooks, on synthetic results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from reporting_doubles import CLASSIFICATION, GROUNDING, RELATIONS, SIZE, TIER, Folders
from sklearn.metrics import roc_auc_score

from replication.errors import DataError
from replication.phantom.scene import FINDINGS, FindingInstance, Scene
from replication.protocol_config import load_protocol
from replication.reporting import atlas, classification, curves, grounding, grounding_maps
from replication.reporting.figures import palette, style
from replication.reporting.report import PHANTOM_SENTENCE, Report

NIH = "nih-cxr14/phantom/v1"


@pytest.fixture(scope="module")
def report(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Report:
    found = Report.open(TIER, folders.results, folders.work)
    # The methods that the doubles have rows of.
    methods = ("medslip", "medklip", "convirt", "supervised")
    return replace(found, tier=found.tier.model_copy(update={"bootstrap": 40, "methods": methods}))


def test_the_classification_table_holds_every_method_and_protocol(report: Report) -> None:
    table = classification.zero_shot_table(report)
    assert [row.labels[0] for row in table.rows] == ["medslip", "medklip", "convirt", "supervised"]
    assert [row.reference for row in table.rows] == [False, False, False, True]
    assert [column.name for column in table.columns] == ["AUC", "F1", "ACC"] * 4
    assert table.columns[0].group == "NIH ChestX-ray14 (mean of 14)"
    assert all(cell.value is not None and cell.n_seeds == 3 for row in table.rows for cell in row.cells)
    assert table.header.data == PHANTOM_SENTENCE
    assert "14 findings" in table.header.protocols
    assert "lowest validation loss" in table.header.selection
    assert table.header.thresholds
    # Skill of the doubles: medklip is best, and the bound is no competitor.
    assert {i for i, _ in table.best()} == {1}


def test_a_method_without_rows_is_listed_as_missing(report: Report) -> None:
    rows = report.rows[report.rows["label"] != "medslip"]
    table = classification.zero_shot_table(replace(report, rows=rows))
    assert table.rows[-1].labels[0] in {"medslip", "supervised"}
    missing = [sentence for sentence in table.missing() if "medslip" in sentence]
    assert len(missing) == 1
    assert "all columns (no run of it has been evaluated)" in missing[0]


def test_an_empty_tier_still_makes_its_tables(tmp_path: Path) -> None:
    empty = Report.open(TIER, tmp_path, tmp_path, rows_needed=False)
    for table in (classification.zero_shot_table(empty), classification.per_finding_table(empty)):
        assert table.missing()[0].startswith("Missing for all rows")
        assert not any(cell.value for row in table.rows for cell in row.cells)
    with pytest.raises(DataError, match=r"rows\.parquet"):
        Report.open(TIER, tmp_path, tmp_path)


def test_the_bound_is_the_last_column_per_finding(report: Report) -> None:
    table = classification.per_finding_table(report)
    assert len(table.rows) == 15
    assert table.rows[-1].labels == ("mean", "")
    assert table.columns[-1].reference
    assert table.rows[0].labels[1] == "20 of 80"
    assert all(j < len(table.columns) - 1 for _, j in table.best())
    assert {i for i, _ in table.best()} == set(range(15))


def test_rows_under_other_protocols_get_a_table_of_their_own(report: Report) -> None:
    other = "nih-cxr14/patient-seeded/v1"
    moved = report.rows.assign(protocol=report.rows["protocol"].replace({NIH: other}))
    further = replace(report, rows=pd.concat([report.rows, moved[moved["protocol"] == other]]))
    assert [p.id for p in further.protocols(CLASSIFICATION)] == [
        p.id for p in report.protocols(CLASSIFICATION)
    ]
    table = classification.zero_shot_table(further, further=True)
    assert table.name == "zero_shot_classification_further"
    assert {column.protocol for column in table.columns} == {other}
    assert "not part of the tier" in table.header.data


def test_the_mean_roc_keeps_the_area() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 4000)
    score = rng.normal(size=4000) + label
    frame = pd.DataFrame({"finding": "x", "score": score, "label": label})
    curve = classification.mean_roc(frame)
    assert np.trapezoid(curve, np.linspace(0, 1, len(curve))) == pytest.approx(
        roc_auc_score(label, score), abs=2e-3
    )
    unknown = frame.assign(finding="y", label=-1)
    assert np.array_equal(classification.mean_roc(pd.concat([frame, unknown])), curve)


def test_the_roc_figure_has_a_panel_per_protocol_and_a_curve_per_method(report: Report) -> None:
    with style():
        figure, caption = classification.roc_figure(report)
    assert [axes.get_title() for axes in figure.axes][1:] == ["RSNA Pneumonia", "SIIM-ACR", "COVIDx CXR-4"]
    assert all(len(axes.lines) == 1 + 4 for axes in figure.axes)
    assert "averaged" in caption


def test_the_dot_plot_shows_every_number_of_the_table(report: Report) -> None:
    table = classification.per_finding_table(report)
    with style():
        figure = classification.per_finding_figure(table)
    marks = palette([column.name for column in table.columns])
    for axes, row in zip(figure.axes, table.rows, strict=True):
        (dot,) = (line for line in axes.lines if line.get_marker() == marks["medklip"].marker)
        assert np.asarray(dot.get_xdata()).item() == row.cells[1].value
        assert axes.get_title().startswith(row.labels[0])


def test_grounding_has_a_block_per_protocol(report: Report) -> None:
    table = grounding.grounding_table(report)
    assert [row.labels[0] for row in table.rows[::4]] == [
        "NIH ChestX-ray14 (boxes)",
        "RSNA Pneumonia (boxes)",
        "SIIM-ACR (masks)",
    ]
    share, pointing = table.rows[4].cells[:2]
    assert share.value == pytest.approx(0.06, abs=0.02)
    assert pointing.higher_is_better
    assert table.columns[0].higher_is_better is None
    assert any("3 of 14 findings" in note for note in table.notes)
    where = grounding.relations_table(report)
    assert [column.name for column in where.columns] == ["Laterality AUC", "Site AUC", "Relation AUC"]
    assert all(cell.value is not None for row in where.rows for cell in row.cells)
    assert any("Relation AUC: 2" in note for note in where.notes)


def test_maps_show_the_first_images_by_rule(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(folder: Path) -> SimpleNamespace:
        names = [f"{folder.name}-{i:03d}" for i in range(40)]
        manifest = pd.DataFrame({"sample_id": names, "cache_row": range(40)})
        images = np.zeros((40, SIZE, SIZE), np.uint8)
        return SimpleNamespace(images=images, manifest=manifest, provenance={"credentialed": False})

    monkeypatch.setattr(grounding_maps, "PreparedData", SimpleNamespace(open=opened))
    for dataset in ("nih-cxr14", "rsna-pneumonia"):
        folder = report.work / "prepared" / dataset
        folder.mkdir(parents=True)
        (folder / "prepare.json").write_text("{}")
    with style():
        figure, _, images = grounding_maps.maps_figure(report)
    assert images == [
        "NIH ChestX-ray14/nih-cxr14-000",
        "NIH ChestX-ray14/nih-cxr14-000",
        "RSNA Pneumonia/rsna-pneumonia-000",
        "RSNA Pneumonia/rsna-pneumonia-002",
    ]
    assert len(figure.axes) == 4 * 5
    example = grounding_maps.examples_of(report, load_protocol("rsna-pneumonia/patient-seeded/v1"))[0]
    assert set(example.maps) == {"medslip", "medklip", "convirt", "supervised"}
    assert 0.02 < example.truth.mean() < 0.12


def test_images_of_a_credentialed_data_set_are_never_shown(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pixels are not even looked at: the double has none."""
    credentialed = SimpleNamespace(provenance={"credentialed": True})
    monkeypatch.setattr(grounding_maps, "PreparedData", SimpleNamespace(open=lambda _: credentialed))
    folder = report.work / "prepared" / "siim-acr"
    folder.mkdir(parents=True)
    (folder / "prepare.json").write_text("{}")
    assert grounding_maps.examples_of(report, load_protocol("siim-acr/patient-seeded/v1")) == []


def test_the_choice_goes_round_the_findings() -> None:
    protocol = load_protocol(NIH)
    lines = pd.DataFrame(
        [("z", "mass"), ("b", "mass"), ("a", "nodule"), ("c", "nodule")], columns=["sample", "finding"]
    )
    assert grounding_maps.choose(lines, protocol) == [("mass", "b"), ("nodule", "a")]
    assert grounding_maps.choose(lines[lines["finding"] == "mass"], protocol) == [
        ("mass", "b"),
        ("mass", "z"),
    ]


def test_curves_come_from_every_run(report: Report) -> None:
    logs = curves.read_logs(report)
    assert logs["run_id"].nunique() == 12
    assert sorted(set(logs["epoch"])) == [1, 2, 3, 4, 5, 6]
    assert list(dict.fromkeys(logs["label"])) == ["medslip", "medklip", "convirt", "supervised"]
    with style():
        figure = curves.curves_figure(logs)
        assert curves.curves_figure(logs.iloc[:0]).axes[0].texts[0].get_text() == "no training log was found"
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    # A method with a single part shows its total alone.
    assert [title for title in titles if title.endswith("\ntotal")] == [
        f"{label}\ntotal" for label in ("medslip", "medklip", "convirt", "supervised")
    ]
    assert "medslip\nprotocl" in titles
    assert "convirt\ncontrast" not in titles


def test_a_damaged_log_is_named(report: Report, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run = next(iter(report.run_folders().values()))
    copy = work / "runs" / run.name
    copy.mkdir(parents=True)
    (copy / "config.json").write_text((run / "config.json").read_text())
    (copy / "log.jsonl").write_text('{"kind": "epoch", "train": {"total": 1}}\n')
    with pytest.raises(DataError, match=r"log\.jsonl, line 1"):
        curves.read_logs(replace(report, work=work))


def test_the_atlas_shows_every_finding_where_it_is() -> None:
    pictures = atlas.plates(3, size=96)
    assert [plate.title.split(",")[0].split(" (")[0].replace(" ", "_") for plate in pictures[1:]] == list(
        FINDINGS
    )
    assert pictures[0].mask is None
    for plate in pictures[1:]:
        assert plate.mask is not None
        assert plate.mask.any()
    assert all("FINDINGS" in plate.report for plate in pictures[:-1])
    assert "never occurs" in pictures[-1].report
    with style():
        figure = atlas.atlas_figure(pictures)
    assert len(figure.axes) == 2 * len(pictures)


def test_examples_are_chosen_by_rule() -> None:
    def scene(image: int, view: str, *severities: float) -> Scene:
        found = tuple(FindingInstance("mass", "left", "mid", severity) for severity in severities)
        return Scene(image, image, image, view, found)  # type: ignore[arg-type]

    scenes = [scene(1, "AP", 0.6), scene(2, "PA", 0.2), scene(3, "PA", 0.55), scene(4, "PA")]
    assert atlas.example(scenes, "mass").image == 3
    assert atlas.example(scenes, None).image == 4
    with pytest.raises(ValueError, match="hernia"):
        atlas.example(scenes, "hernia")


def test_tasks_have_the_names_of_the_rows(report: Report) -> None:
    assert {GROUNDING, RELATIONS} == set(grounding.TASKS)
    assert classification.TASK == CLASSIFICATION
