"""Tests against one method and ranks of all, on synthetic results."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting_doubles import CLASSIFICATION, GROUNDING, RELATIONS, SKILL, TIER, Folders, make_results
from statsmodels.stats.multitest import multipletests

from replication.errors import DataError
from replication.protocol_config import load_protocol
from replication.records import read_predictions, write_predictions
from replication.reporting import classification, ranks, significance
from replication.reporting.figures import STYLE, style
from replication.reporting.paired import Comparer, NothingToCompare, Question, questions
from replication.reporting.report import Report
from replication.reporting.same_lines import check_same_lines
from replication.reporting.tables import Table, printed
from replication.reporting.writers import as_latex, as_markdown, write_table

NIH = "nih-cxr14/phantom/v1"
ZERO_SHOT, WHERE = significance.FAMILIES[:2]


def opened(folders: Folders) -> Report:
    """Results of a tier that asks for the methods of the doubles alone."""
    found = Report.open(TIER, folders.results, folders.work)
    asked = {"bootstrap": 60, "methods": tuple(SKILL), "variants": (), "seeds": (0, 1, 2)}
    return replace(found, tier=found.tier.model_copy(update=asked))


def cut(report: Report, *methods: str, seeds: tuple[int, ...] = (0, 1, 2)) -> Report:
    rows = report.rows[report.rows["label"].isin(methods) & report.rows["seed"].isin(seeds)]
    return replace(
        report, rows=rows, tier=report.tier.model_copy(update={"methods": methods, "seeds": seeds})
    )


def copies(report: Report, count: int) -> Report:
    """As many methods, most of them medklip or convirt under another name, with the same runs."""
    names = [f"own-{number:02d}" for number in range(count - 3)]
    rows = [report.rows]  # the bound is among them
    for number, name in enumerate(names):
        part = report.rows[report.rows["label"] == ("medklip", "convirt")[number % 2]]
        rows.append(part.assign(label=name, method=name))
    tier = report.tier.model_copy(update={"methods": ("medslip", "medklip", "convirt", *names)})
    return replace(report, rows=pd.concat(rows), tier=tier)


@pytest.fixture(scope="module")
def report(folders: Folders) -> Report:
    return opened(folders)


@pytest.fixture(scope="module")
def table(report: Report) -> Table:
    return significance.significance_table(report, Comparer(report), ZERO_SHOT)


def test_every_method_is_compared_with_one(report: Report, table: Table) -> None:
    assert table.name == "significance"
    assert [row.labels[0] for row in table.rows] == ["medklip", "convirt", "supervised"]
    assert [row.reference for row in table.rows] == [False, False, True]
    assert [column.name for column in table.columns] == ["Difference", "p Holm", "p DeLong"] * 4
    assert not table.best()
    means = {row.labels[0]: row.cells for row in classification.zero_shot_table(report).rows}
    for row in table.rows:
        for group in range(4):
            difference = row.cells[3 * group].value or 0
            expected = (means[row.labels[0]][3 * group].value or 0) - (means["medslip"][3 * group].value or 0)
            assert difference == pytest.approx(expected)


def test_the_header_says_what_was_tested_and_how_often(table: Table) -> None:
    said = table.header.error_bars
    assert "training seeds and of test patients" in said
    assert "over the 3 comparisons of a column; the 4 columns" in said
    assert "Obuchowski" in said
    assert table.header.thresholds == ""
    assert "14 findings" in table.header.protocols
    assert len(table.notes) == 4
    assert "medslip 0." in table.notes[0]
    assert "above it: medklip, supervised" in table.notes[0]


def test_p_values_are_adjusted_over_the_methods(report: Report, table: Table) -> None:
    comparer = Comparer(report)
    against, others = significance.competitors(report)
    question = questions(report, tasks=[CLASSIFICATION])[0]
    assert question.protocol.id == NIH
    found = [comparer.compare(entry, against, question) for entry in others]
    adjusted = multipletests([one.widest.p_value for one in found], method="holm")[1]
    assert [row.cells[1].value for row in table.rows] == pytest.approx(adjusted.tolist())
    assert [row.cells[2].value for row in table.rows] == [one.delong.p_value for one in found if one.delong]
    for one in found:
        assert one.delong is not None
        assert one.delong.value == pytest.approx(one.patients.value)
        assert one.seeds is not None
        assert one.seeds.upper - one.seeds.lower >= 0.9 * (one.patients.upper - one.patients.lower)


def test_a_tiny_p_is_printed_as_such(table: Table) -> None:
    column, cell = table.columns[2], table.rows[2].cells[2]
    assert (cell.value or 1) < 1e-3
    assert printed(cell, column) == ("<0.001", "")
    assert "<0.001" in as_markdown(table)
    assert r"\textless{}0.001" in as_latex(table)


def test_one_seed_covers_patients_only(report: Report) -> None:
    single = cut(report, "medslip", "medklip", "convirt", seeds=(1,))
    table = significance.significance_table(single, Comparer(single), ZERO_SHOT)
    said = table.header.error_bars
    assert "test patients alone, because there is one seed" in said
    assert "training seeds" not in said
    assert f"no p is below {2 / 61:.2g}" in said
    values = [cell.value for row in table.rows for cell in row.cells]
    assert all(value is not None for value in values)
    against, others = significance.competitors(single)
    one = Comparer(single).compare(others[0], against, questions(single)[0])
    assert one.seeds is None
    assert one.widest == one.patients


def test_a_method_with_one_seed_is_not_compared_with_one_that_has_three(report: Report) -> None:
    rows = report.rows[(report.rows["label"] != "convirt") | (report.rows["seed"] == 0)]
    some = replace(report, rows=rows)
    table = significance.significance_table(some, Comparer(some), ZERO_SHOT)
    found = {row.labels[0]: row.cells for row in table.rows}
    assert all(cell.missing == "convirt rests on one seed and the other on 3" for cell in found["convirt"])
    assert all(cell.value is not None for cell in found["medklip"])
    assert "training seeds" in table.header.error_bars


def test_a_method_with_two_of_three_seeds_is_named(report: Report) -> None:
    rows = report.rows[(report.rows["label"] != "convirt") | (report.rows["seed"] < 2)]
    some = replace(report, rows=rows)
    table = significance.significance_table(some, Comparer(some), ZERO_SHOT)
    assert any("convirt" in line and "2 of 3 seeds" in line for line in table.fewer_seeds())


@pytest.mark.parametrize("count", [2, 20])
def test_two_to_twenty_methods(report: Report, count: int, tmp_path: Path) -> None:
    several = cut(report, "medslip", "convirt", seeds=(0, 1)) if count == 2 else copies(report, count)
    for family in (ZERO_SHOT, WHERE):
        table = significance.significance_table(several, Comparer(several), family)
        assert len(table.rows) == count - 1 + (count > 2)
        assert all(cell.value is not None for row in table.rows for cell in row.cells)
        assert len(write_table(table, tmp_path)) == 4
        assert Table.from_json(tmp_path / f"{table.name}.json") == table
    with style():
        figure, caption = ranks.critical_difference_figure(several)
        several = replace(several, results=tmp_path)
        picture = several.save_figure(figure, "critical_difference", "Average ranks", caption, several.rows)
    assert picture.stat().st_size > 5000
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(shown) == count
    assert all(
        text.get_fontsize() >= 6 for axes in figure.axes for text in [axes.title, *axes.get_yticklabels()]
    )
    assert min(size for name, size in STYLE.items() if name.endswith("labelsize")) >= 7


def test_a_single_method_is_no_comparison(report: Report) -> None:
    single = cut(report, "medslip")
    with pytest.raises(DataError, match="two methods"):
        significance.significance_table(single, Comparer(single), ZERO_SHOT)


def test_without_medslip_the_first_method_is_compared_with(report: Report) -> None:
    others = cut(report, "convirt", "medklip")
    assert significance.competitors(others)[0].label == "convirt"


def test_what_cannot_be_compared_says_why(folders: Folders, report: Report, tmp_path: Path) -> None:
    rows = report.rows[(report.rows["label"] != "convirt") | (report.rows["task"] != RELATIONS)]
    moved = replace(report, rows=rows[rows["label"] != "supervised"], results=tmp_path)
    table = significance.significance_table(moved, Comparer(moved), WHERE)
    reasons = " ".join(table.missing())
    assert "no run of it has been evaluated" in reasons
    assert "its predictions are not in the results folder" in reasons
    assert any("no method could be compared" in note for note in table.notes)
    assert "p Holm" not in table.header.error_bars


def test_tables_follow_what_was_measured(report: Report) -> None:
    assert [family.suffix for family in significance.families(report)] == ["", "_where"]
    nothing = replace(report, rows=report.rows.iloc[:0])
    assert [family.suffix for family in significance.families(nothing)] == [""]
    table = significance.significance_table(nothing, Comparer(nothing), ZERO_SHOT)
    assert not table.rows
    probed = report.rows[report.rows["task"] == CLASSIFICATION].assign(
        task="linear_probe", label_fraction=0.1
    )
    both = replace(report, rows=pd.concat([report.rows, probed]))
    assert "_linear_probe" in [family.suffix for family in significance.families(both)]
    asked = questions(both, tasks=["linear_probe"])
    assert {one.label_fraction for one in asked} == {0.1}
    assert "10 % of the labels" in significance.name_of(asked[0])


def test_tasks_with_labels_are_compared_at_every_fraction(report: Report, tmp_path: Path) -> None:
    """Predictions of the zero-shot task under the names of another."""
    rows = report.rows[report.rows["task"] == CLASSIFICATION]
    probed = [rows.assign(task="linear_probe", label_fraction=share) for share in (0.01, 1.0)]
    for run in rows["run_id"].unique():
        for path in (report.results / "predictions" / run).glob(f"{CLASSIFICATION}.*.parquet"):
            for share in ("0.01", "1"):
                name = path.name.replace(CLASSIFICATION, "linear_probe").replace(
                    ".parquet", f".f{share}.parquet"
                )
                target = tmp_path / "predictions" / run / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
    found = replace(report, rows=pd.concat(probed), results=tmp_path)
    family = next(one for one in significance.FAMILIES if one.suffix == "_linear_probe")
    table = significance.significance_table(found, Comparer(found), family)
    assert len(table.columns) == 4 * 2 * 2
    assert table.columns[0].group == "NIH ChestX-ray14 (mean of 14), AUC, 1 % of the labels"
    assert len({column.group for column in table.columns}) == 8
    plain = significance.significance_table(report, Comparer(report), ZERO_SHOT)
    assert [row.cells[0].value for row in table.rows] == [row.cells[0].value for row in plain.rows]


def test_ranks_are_those_of_the_rows(report: Report) -> None:
    panel = ranks.ranked_panel(report, CLASSIFICATION, "auc", "Classification")
    assert set(panel.labels) == {"medslip", "medklip", "convirt"}
    assert panel.ranking is not None
    assert panel.ranking.blocks == 14 + 3
    rows = report.select(task=CLASSIFICATION, metric="auc", label=list(panel.labels))
    means = (
        rows[rows["finding"] != "mean"].groupby(["protocol", "finding", "label"])["value"].mean().unstack()
    )
    expected = means.rank(axis=1, ascending=False).mean()
    assert dict(zip(panel.labels, panel.ranking.ranks, strict=True)) == pytest.approx(expected.to_dict())


def test_incomplete_methods_are_not_ranked(report: Report) -> None:
    lacking = (report.rows["label"] == "convirt") & (report.rows["finding"] == "edema")
    nobody = report.rows["finding"] == "mass"
    rows = report.rows[~lacking].assign(value=report.rows["value"].where(~nobody, math.nan))
    panel = ranks.ranked_panel(replace(report, rows=rows), CLASSIFICATION, "auc", "Classification")
    assert set(panel.labels) == {"medslip", "medklip"}
    assert panel.left_out == ("convirt",)
    assert panel.ranking is not None
    assert panel.ranking.blocks == 16
    with style():
        _, caption = ranks.critical_difference_figure(replace(report, rows=rows))
    assert "not ranked: Classification: convirt" in caption


def test_with_nothing_to_rank_the_figure_says_so(report: Report) -> None:
    with style():
        figure, _ = ranks.critical_difference_figure(replace(report, rows=report.rows.iloc[:0]))
    assert all("fewer than two methods" in axes.texts[0].get_text() for axes in figure.axes)


def test_bars_have_the_width_of_the_critical_difference(report: Report) -> None:
    panel = ranks.ranked_panel(report, GROUNDING, "pointing_game", "Grounding")
    with style():
        figure, _ = ranks.critical_difference_figure(report)
    bars = [line for line in figure.axes[1].lines if len(np.asarray(line.get_xdata())) == 2]
    assert panel.ranking is not None
    assert len(bars) == 3
    for bar in bars:
        assert np.ptp(np.asarray(bar.get_xdata())) == pytest.approx(panel.ranking.critical_difference)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Report, list[Path]]:
    """Two methods with one seed, and the files of their NIH predictions."""
    found = opened(make_results(tmp_path, ("medslip", "convirt"), (0,)))
    comparer, question = Comparer(found), questions(found)[0]
    entries = [entry for entry in found.entries() if entry.label in {"medslip", "convirt"}]
    return found, [comparer.paths(comparer.side(entry, question), question)[0] for entry in entries]


def attempt(report: Report) -> None:
    against, others = significance.competitors(report)
    chosen = next(entry for entry in others if entry.label == "convirt")
    Comparer(report).compare(chosen, against, questions(report)[0])


def test_a_missing_image_is_named_with_its_file_and_line(pair: tuple[Report, list[Path]]) -> None:
    report, (first, second) = pair
    frame = read_predictions(first)
    write_predictions(frame[frame["sample"] != "s0007"], first, {})
    with pytest.raises(DataError, match="14 lines are missing") as found:
        attempt(report)
    assert found.value.where == str(first)
    assert "s0007" in str(found.value.found)
    assert f"{second}, where this one is line 7" in str(found.value.allowed)


def test_a_further_image_is_named(pair: tuple[Report, list[Path]]) -> None:
    report, (first, second) = pair
    frame = read_predictions(second)
    write_predictions(frame[frame["sample"] != "s0150"], second, {})
    with pytest.raises(DataError, match="the others lack") as found:
        attempt(report)
    assert found.value.where == f"{first}, line 150"
    assert "s0150" in str(found.value.found)


@pytest.mark.parametrize(("column", "value"), [("label", 0), ("patient", "p999"), ("split", "val")])
def test_images_that_are_not_the_same_are_named(
    pair: tuple[Report, list[Path]], column: str, value: object
) -> None:
    report, (_, second) = pair
    frame = read_predictions(second)
    sample = frame.loc[(frame["split"] == "test") & (frame["label"] == 1), "sample"].iloc[0]
    frame.loc[frame["sample"] == sample, column] = value
    write_predictions(frame.astype({"label": np.int8}), second, {})
    with pytest.raises(DataError, match="do not agree") as found:
        attempt(report)
    assert sample in str(found.value)
    assert f"{second}, line" in str(found.value)


def test_doubled_lines_are_found_before_anything_is_computed(
    pair: tuple[Report, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    report, (_, second) = pair
    frame = read_predictions(second)
    twice = pd.concat([frame, frame.iloc[[3]]], ignore_index=True)
    monkeypatch.setattr("replication.records.check_predictions", lambda *_, **__: None)
    write_predictions(twice, second, {})
    monkeypatch.undo()
    monkeypatch.setattr("replication.reporting.paired.bootstrap_draws", lambda *_: pytest.fail("computed"))
    with pytest.raises(DataError, match=f"line {len(frame)}"):
        attempt(report)


def test_the_order_of_lines_does_not_matter(pair: tuple[Report, list[Path]]) -> None:
    report, (_, second) = pair
    against, others = significance.competitors(report)
    chosen = next(entry for entry in others if entry.label == "convirt")
    question = questions(report)[0]
    before = Comparer(report).compare(chosen, against, question)
    frame = read_predictions(second)
    write_predictions(frame.sample(frac=1, random_state=0).reset_index(drop=True), second, {})
    after = Comparer(report).compare(chosen, against, question)
    assert after.delong == pytest.approx(before.delong)
    assert after.patients == pytest.approx(before.patients)


def test_equal_lines_pass(pair: tuple[Report, list[Path]]) -> None:
    _, (first, second) = pair
    frame = read_predictions(first).sort_values(["finding", "sample"])
    check_same_lines(frame, first, frame, second)


def test_a_metric_without_a_mean_is_refused(report: Report) -> None:
    rows = report.rows[report.rows["finding"] != "mean"]
    found = replace(report, rows=rows)
    question = Question(CLASSIFICATION, load_protocol(NIH), "auc")
    with pytest.raises(NothingToCompare, match="no mean"):
        Comparer(found).side(significance.competitors(found)[0], question)
