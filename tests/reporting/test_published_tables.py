"""Published numbers beside ours: only where the protocols agree, and every other with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from reporting_doubles import CLASSIFICATION, TIER, row, run_config

from replication.records import write_rows
from replication.reporting.published import Ledger, read_ledger
from replication.reporting.published_tables import (
    NOT_ON_RECORD,
    ON_A_PHANTOM,
    not_comparable_table,
    published_vs_measured_table,
)
from replication.reporting.report import Report
from replication.reporting.writers import as_csv, as_latex, as_markdown

NIH = "nih-cxr14/official-25596/v1"


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return read_ledger()


@pytest.fixture
def phantom(tmp_path: Path) -> Report:
    return Report.open(TIER, tmp_path, tmp_path, rows_needed=False)


@pytest.fixture
def real(phantom: Report, tmp_path: Path) -> Report:
    """A tier on radiographs of patients that measured the official NIH list, MedKLIP alone."""
    config = run_config("medklip", 0)
    rows = [
        row(config, CLASSIFICATION, NIH, "mean", "auc", 0.75, lower=0.74, upper=0.76),
        row(config, CLASSIFICATION, NIH, "hernia", "auc", 0.80, lower=0.70, upper=0.90),
    ]
    write_rows(rows, tmp_path / "rows.parquet")
    found = Report.open(TIER, tmp_path, tmp_path)
    protocols = (NIH, "rsna-pneumonia/patient-seeded/v1")
    return replace(found, tier=found.tier.model_copy(update={"phantom": None, "protocols": protocols}))


def test_nothing_stands_beside_a_published_number_on_a_phantom(phantom: Report, ledger: Ledger) -> None:
    table = published_vs_measured_table(phantom, ledger)
    published = sorted(cell.value for r in table.rows if (cell := r.cells[0]).value is not None)
    assert published == sorted(number.value for number in ledger.with_protocol)
    assert {r.cells[1].missing for r in table.rows} == {ON_A_PHANTOM}
    assert {r.cells[2].missing for r in table.rows} == {ON_A_PHANTOM}
    assert "none of its numbers stands beside a published one" in table.header.data
    assert any(ON_A_PHANTOM in remark for remark in table.remarks())
    assert not table.best()


def test_medslip_has_lines_and_no_published_number(phantom: Report, ledger: Ledger) -> None:
    lines = [r for r in published_vs_measured_table(phantom, ledger).rows if r.labels[0] == "medslip"]
    assert {r.labels[-1] for r in lines} == {NIH, "rsna-pneumonia/released-5337/v1"}
    assert {r.cells[0].missing for r in lines} == {NOT_ON_RECORD}


def test_ours_stands_beside_a_number_of_the_same_protocol(real: Report, ledger: Ledger) -> None:
    table = published_vs_measured_table(real, ledger)
    lines = {(r.labels[0], r.labels[2].split(", ")[-1], r.labels[3]): r for r in table.rows}
    beside = [r for (name, what, _), r in lines.items() if (name, what) == ("medklip", "mean of 14")]
    assert len(beside) == 3
    for line in beside:
        published, ours, difference, lowest, highest = line.cells
        assert (published.value, ours.value) == (0.7233, 0.75)
        assert difference.value == pytest.approx(0.0267)
        assert (difference.lower, difference.upper) == (pytest.approx(0.0167), pytest.approx(0.0367))
        assert (lowest.value, highest.value) == (0.687, 0.7676)
    (hernia,) = [r for (name, what, _), r in lines.items() if (name, what) == ("medklip", "hernia")]
    assert (hernia.cells[0].value, hernia.cells[1].value) == (0.7725, 0.80)
    assert table.header.data == ""
    assert not any(cell.missing for line in beside for cell in line.cells)


def test_what_this_tier_measures_otherwise_is_named(real: Report, ledger: Ledger) -> None:
    table = published_vs_measured_table(real, ledger)
    rsna = [r for r in table.rows if r.labels[-1].startswith("rsna")]
    assert {r.cells[1].missing for r in rsna} == {
        "not comparable: other protocol; this tier measures rsna-pneumonia/patient-seeded/v1"
    }
    convirt = next(r for r in table.rows if r.labels[0] == "convirt")
    assert convirt.cells[1].missing == "no run of it has been evaluated"
    outside = next(r for r in table.rows if r.labels[0] == "BioViL-T")
    assert outside.cells[1].missing == "the method is not in this tier"


def test_the_rest_is_listed_with_its_reason(phantom: Report, ledger: Ledger) -> None:
    table = not_comparable_table(phantom, ledger)
    shown = [
        n for n in ledger.without_protocol if n.method and not {"other-dataset", "other-task"} & {*n.caveats}
    ]
    assert sum(int(r.cells[0].value or 0) for r in table.rows) == len(shown)
    assert all(r.labels[3] for r in table.rows)
    text = " ".join(r.labels[4] for r in table.rows)
    assert all(f"{number.name} {number.value:.3f}" in text for number in shown)
    (line,) = [r for r in table.rows if r.labels[4] == "MedKLIP 0.768"]
    assert "random NIH split" in line.labels[3]
    bench = next(r for r in table.rows if "Table 1" in r.labels[1] and "NIH" in r.labels[0])
    assert bench.labels[4].startswith("1 %: ")
    assert "10 %: " in bench.labels[4]
    (lowest, highest) = (cell.value for cell in bench.cells[1:])
    assert (lowest, highest) == (0.665, 0.844)


def test_both_tables_print(phantom: Report, ledger: Ledger) -> None:
    for made in (published_vs_measured_table(phantom, ledger), not_comparable_table(phantom, ledger)):
        assert as_markdown(made).count("\n| ") == len(made.rows) + 1
        assert as_csv(made).count("\n") == 1 + len(made.rows) * len(made.columns)
        latex = as_latex(made)
        assert latex.count(r"\begin{table}") > 1
        assert latex.count(r"\label{") == 1


def test_an_empty_frame_of_rows_is_enough(phantom: Report, ledger: Ledger) -> None:
    assert isinstance(phantom.rows, pd.DataFrame)
    assert published_vs_measured_table(phantom, ledger).header.error_bars == ""
