"""Claims: contrasts come from data, verdicts from rows by one rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from reporting_doubles import TIER
from variant_doubles import variant_report

from replication.errors import ConfigError
from replication.reporting.claims import Claims, claims_table, examine, load_claims
from replication.reporting.paired import Comparer
from replication.reporting.report import Report

NIH = {"task": "zero_shot_classification", "dataset": "nih-cxr14", "metric": "auc"}
RSNA = {"task": "zero_shot_classification", "dataset": "rsna-pneumonia", "metric": "auc"}
PROBE = {"task": "linear_probe", "dataset": "nih-cxr14", "metric": "auc", "label_fraction": 0.1}


def asked(*claims: dict[str, object], baselines: tuple[str, ...] = ("medslip/no-protocl",)) -> Claims:
    made = [{"id": f"C{i}", "text": "It is better.", "abstract": "v1", **c} for i, c in enumerate(claims)]
    return Claims.model_validate({"method": "medslip", "baselines": baselines, "claims": made})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The method is better than without ProtoCL, equal to without ICL, and worse than without the gate."""
    shifts = {"": 0.0, "no-protocl": -0.8, "no-icl": 0.0, "no-gate": 0.8}
    return variant_report(tmp_path_factory.mktemp("claims"), shifts)


@pytest.mark.parametrize(
    ("against", "measures", "verdict"),
    [
        (["no-protocl"], [NIH], "supported"),
        (["no-protocl"], [NIH, RSNA], "supported"),
        (["no-icl"], [NIH], "not supported"),
        (["no-gate"], [NIH], "not supported"),
        (["no-protocl", "no-gate"], [NIH], "not supported"),
        (["no-protocl"], [NIH, PROBE], "not testable here"),
        (["no-protocl", "alpha-2"], [NIH], "not testable here"),
        (["no-icl", "alpha-2"], [NIH, PROBE], "not supported"),
        (["alpha-2"], [NIH], "not testable here"),
    ],
)
def test_the_rule(
    report: Report, against: list[str], measures: list[dict[str, object]], verdict: str
) -> None:
    claims = asked({"against": [f"medslip/{name}" for name in against], "measures": measures})
    (evidence,) = examine(report, Comparer(report), claims)
    assert evidence.verdict == verdict


def test_a_claim_has_competitors_or_is_about_zero() -> None:
    with pytest.raises(ValueError, match="has no competitors"):
        asked({"against": ["medslip/no-icl"], "measures": [NIH], "above_zero": True})


def test_a_part_of_the_method_helps_if_the_method_trained_as_long_is_better(tmp_path: Path) -> None:
    shifts = {"": 0.0, "reference": -0.8, "no-protocl": -0.8, "medklip": -0.8}
    report = variant_report(tmp_path, shifts, variant_training={"epochs": 4})
    claims = asked(
        {"against": ["medslip/no-protocl"], "measures": [NIH]}, {"measures": [NIH]}, baselines=("medklip",)
    )
    part, whole = examine(report, Comparer(report), claims)
    assert (part.verdict, whole.verdict) == ("not supported", "supported")
    assert part.contrasts[0].a.label == "medslip/reference"


def test_the_closest_competitor_is_shown_and_p_is_adjusted_over_the_claim(report: Report) -> None:
    labels = [f"medslip/{name}" for name in ("no-protocl", "no-icl", "no-gate", "alpha-2")]
    claims = asked({"against": labels, "measures": [NIH, PROBE]})
    (evidence,) = found = examine(report, Comparer(report), claims)
    table = claims_table(report, claims, found)
    measured, missing = table.rows
    assert measured.labels[2:] == (
        *("not supported", "NIH ChestX-ray14 (mean of 14), AUC", "1 / 3 / 4", "medslip/no-gate"),
    )
    means = report.select(finding="mean", metric="auc").groupby("label")["value"].mean()
    difference, p_value = measured.cells
    assert difference.value == pytest.approx(means["medslip"] - means["medslip/no-gate"])
    assert difference.upper is not None and difference.upper < 0
    raw = next(one.found for one in evidence.contrasts if one.b.label == "medslip/no-gate")
    assert not isinstance(raw, str)
    assert raw.widest.p_value < p_value.value <= 3 * raw.widest.p_value + 1e-12
    assert missing.labels[4:] == ("0 / 0 / 4", "none measured")
    assert "Never compared, because nothing of them was measured here: medslip/alpha-2." in table.notes


def test_a_tier_without_any_run_can_test_nothing(tmp_path: Path) -> None:
    empty = Report.open(TIER, tmp_path, tmp_path, rows_needed=False)
    claims = load_claims()
    found = examine(empty, Comparer(empty), claims)
    table = claims_table(empty, claims, found)
    assert {evidence.verdict for evidence in found} == {"not testable here"}
    assert table.notes[0] == "11 claims: 0 supported, 0 not supported, 11 not testable here."
    assert table.missing() == ("Missing for all rows: all columns (no run of it has been evaluated).",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("against: [medslp]", "Unknown method.*did you mean 'medslip'"),
        ("against: [medslip/no-protcl]", "Unknown variant.*did you mean 'no-protocl'"),
        ("verdict: supported", "Unknown configuration key"),
    ],
)
def test_unknown_competitors_and_written_verdicts_are_refused(
    tmp_path: Path, line: str, problem: str
) -> None:
    (tmp_path / "medslip.yaml").write_text(
        "method: medslip\nbaselines: [medklip]\nclaims:\n"
        "  - id: C1\n    text: It is better.\n    abstract: version 1\n"
        "    measures: [{task: zero_shot_classification, dataset: nih-cxr14, metric: auc}]\n"
        f"    {line}\n"
    )
    with pytest.raises(ConfigError, match=f"(?s){problem}"):
        load_claims(folder=tmp_path)


def test_a_claim_is_there_once(tmp_path: Path) -> None:
    claim = "  - {id: C1, text: a, abstract: b, measures: [{task: t, dataset: d, metric: auc}]}\n"
    (tmp_path / "medslip.yaml").write_text(f"method: medslip\nbaselines: [medklip]\nclaims:\n{claim}{claim}")
    with pytest.raises(ConfigError, match="twice"):
        load_claims(folder=tmp_path)
