"""Ablations: what belongs to which table is data; differences to the full model are measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from reporting_doubles import TIER
from variant_doubles import variant_report

from replication.comparison import hierarchical_difference_by_seed
from replication.config import load_recipes
from replication.errors import ConfigError
from replication.reporting import ablations
from replication.reporting.ablations import Effects, load_ablations
from replication.reporting.classification import zero_shot_table
from replication.reporting.figures import style
from replication.reporting.paired import Comparer, Comparison
from replication.reporting.report import Report
from replication.reporting.tables import Table

SHIFTS = {"": 0.0, "no-protocl": -0.8, "no-icl": 0.0, "alpha-2": 0.6}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return variant_report(tmp_path_factory.mktemp("variants"), SHIFTS)


@pytest.fixture(scope="module")
def comparer(report: Report) -> Comparer:
    return Comparer(report)


def made(report: Report, comparer: Comparer, suffix: str) -> tuple[Effects, Table]:
    found = ablations.effects(report, comparer, load_ablations(), suffix)
    return found, ablations.ablation_table(report, comparer, found)


def test_every_variant_of_the_ablations_is_one_of_the_recipe() -> None:
    found = load_ablations()
    assert list(found.families) == ["components", "loss_weights", "text"]
    assert set(found.variants) <= {f"medslip/{name}" for name in load_recipes("medslip").variants}


def test_an_unknown_variant_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "medslip.yaml").write_text(
        "method: medslip\n"
        "measures: [{task: zero_shot_classification, dataset: nih-cxr14, metric: auc}]\n"
        "families: {components: {title: components, variants: {no-protcl: typing error}}}\n"
    )
    with pytest.raises(ConfigError, match=r"did you mean 'no-protocl'") as caught:
        load_ablations(folder=tmp_path)
    assert "families.components.variants" in str(caught.value.where)


def test_the_table_begins_with_the_full_model_and_says_what_was_not_run(
    report: Report, comparer: Comparer
) -> None:
    found, table = made(report, comparer, "loss_weights")
    assert table.rows[0].labels[0] == "medslip"
    assert [row.labels[0] for row in table.rows[1:]] == list(found.family.variants)
    assert all(cell.value is not None for cell in table.rows[0].cells)
    by_name = {row.labels[0]: row.cells for row in table.rows}
    value, difference, p_value = by_name["no-protocl"][:3]
    assert difference.value == pytest.approx(value.value - table.rows[0].cells[0].value)
    assert difference.upper is not None and difference.upper < 0
    assert p_value.value is not None and p_value.value < 0.05
    assert by_name["alpha-2"][1].lower is not None and by_name["alpha-2"][1].lower > 0
    same = by_name["no-icl"]
    assert (same[1].value, same[2].value) == (0, 1)
    assert "Missing for alpha-0.5; beta-0.5; beta-2: all columns" in " ".join(table.missing())


def test_p_values_are_adjusted_over_the_variants_of_a_column(report: Report, comparer: Comparer) -> None:
    found, _ = made(report, comparer, "loss_weights")
    p_values = {name: line[0] for name, line in found.lines.items()}
    raw = p_values["no-protocl"].found
    assert not isinstance(raw, str)
    three_tested = 3
    assert p_values["no-protocl"].p_value <= three_tested * raw.widest.p_value + 1e-12
    assert p_values["no-protocl"].p_value >= raw.widest.p_value


def test_variants_that_are_trained_shorter_are_compared_with_the_model_trained_like_them(
    tmp_path: Path,
) -> None:
    shifts = {"": 0.0, "reference": -0.8, "no-protocl": -0.8, "fibrosis-own-prompt": 0.0}
    report = variant_report(tmp_path, shifts, seeds=(0,), variant_training={"epochs": 4})
    comparer = Comparer(report)
    _, table = made(report, comparer, "loss_weights")
    by_name = {row.labels[0]: row.cells for row in table.rows}
    assert list(by_name)[:2] == ["medslip/reference", "no-protocl"]
    assert by_name["no-protocl"][1].value == 0
    assert "epochs 4" in table.caption
    _, text = made(report, comparer, "text")
    assert list(dict.fromkeys(row.block for row in text.rows)) == ["medslip/reference", "medslip"]
    weights_of_the_method = {row.labels[0]: row.cells for row in text.rows}["fibrosis-own-prompt"]
    assert weights_of_the_method[1].value == 0


def test_a_variant_that_is_trained_in_full_is_compared_with_the_method(tmp_path: Path) -> None:
    shifts = {"": 0.0, "reference": -0.8, "no-protocl": 0.0, "alpha-2": -0.8}
    report = variant_report(
        tmp_path,
        shifts,
        seeds=(0,),
        variant_training={"epochs": 4},
        in_full=["medslip/no-protocl", "medslip/no-icl"],
    )
    _, table = made(report, Comparer(report), "loss_weights")
    by_name = {row.labels[0]: row.cells for row in table.rows}
    assert list(by_name)[:2] == ["medslip", "no-protocl"]
    assert by_name["no-protocl"][1].value == by_name["alpha-2"][1].value == 0
    assert "medslip/reference: alpha-0.5, alpha-2, beta-0.5, beta-2;" in table.caption


def test_two_variants_are_compared_by_seed_wherever_they_are_compared(
    report: Report, comparer: Comparer
) -> None:
    one = made(report, comparer, "loss_weights")[0].lines["no-protocl"][0]
    assert isinstance(one.found, Comparison)
    assert one.found.by_seed
    alone = Comparer(report).compare(one.a, one.b, one.found.question)
    assert alone.widest == one.found.widest
    pairs = [np.stack(list(comparer._drawn(side, one.found.question))) for side in (alone.a, alone.b)]
    expected = hierarchical_difference_by_seed(alone.a.values, pairs[0], alone.b.values, pairs[1])
    assert alone.widest == expected


def test_models_that_are_trained_alike_are_a_block_with_a_best_of_its_own(tmp_path: Path) -> None:
    shifts = {"": 0.0, "reference": -0.8, "no-protocl": -0.4, "alpha-2": -1.2}
    in_full = ["medslip/no-protocl", "medslip/no-icl"]
    report = variant_report(tmp_path, shifts, seeds=(0,), variant_training={"epochs": 4}, in_full=in_full)
    _, table = made(report, Comparer(report), "loss_weights")
    blocks = {row.labels[0]: row.block for row in table.rows}
    assert blocks["no-protocl"] == "medslip"
    assert blocks["alpha-2"] == "medslip/reference"
    assert [key for key, _ in groupby(blocks.values())] == ["medslip", "medslip/reference"]
    best = [table.rows[i].labels[0] for i, j in sorted(table.best()) if j == 0]
    assert best == ["medslip", "medslip/reference"]


def test_a_table_names_the_runs_behind_its_cells_alone(report: Report) -> None:
    variants = report.rows["variant"] != "default"
    rows = report.rows.assign(selection=report.rows["selection"].mask(variants, "last"))
    changed = replace(report, rows=rows)
    table = changed.save_table(zero_shot_table(changed))
    assert "last epoch" not in table.header.selection
    assert table.provenance["runs"] == sorted(set(rows.loc[~variants, "run_id"]))


def test_variants_that_the_tier_trains_anyway_are_no_ablation(report: Report, comparer: Comparer) -> None:
    found, table = made(report, comparer, "components")
    assert set(found.same) == {"sigmoid-gate", "two-decoder-layers", "no-flip"}
    assert not set(found.same) & {row.labels[0] for row in table.rows}
    assert "sigmoid-gate" in table.notes[0]


def test_the_figure_has_a_panel_per_measure_and_a_line_per_variant_that_was_run(
    report: Report, comparer: Comparer
) -> None:
    found = [
        ablations.effects(report, comparer, load_ablations(), name) for name in load_ablations().families
    ]
    with style():
        figure, caption = ablations.effects_figure(report, found)
    assert len(figure.axes) == 5
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["no-protocl", "no-icl", "no-protocl", "alpha-2", "no-icl"]
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False, False, True]
    assert "Not run, and not shown: shared-streams" in caption


def test_a_tier_without_any_run_still_has_its_tables_and_figure(tmp_path: Path) -> None:
    empty = Report.open(TIER, tmp_path, tmp_path, rows_needed=False)
    comparer = Comparer(empty)
    found = []
    for suffix in load_ablations().families:
        effect, table = made(empty, comparer, suffix)
        found.append(effect)
        assert table.missing() == ("Missing for all rows: all columns (no run of it has been evaluated).",)
        assert table.header.error_bars == ""
    with style():
        figure, caption = ablations.effects_figure(empty, found)
    assert "no variant of the tier has been run" in figure.texts[0].get_text()
    assert "Not run" in caption
