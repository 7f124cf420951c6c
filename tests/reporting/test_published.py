"""The ledger of published numbers: what it refuses, and what is in it."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replication.errors import ConfigError, DataError
from replication.reporting.published import COLUMNS, LEDGER, UNKNOWN, Ledger, read_ledger

GOOD = {
    "method": "medklip",
    "name": "MedKLIP",
    "task": "zero_shot_classification",
    "dataset": "nih-cxr14",
    "protocol": "nih-cxr14/official-25596/v1",
    "source_protocol": "shipped test list",
    "finding": "mean",
    "label_fraction": "0",
    "metric": "auc",
    "value": "0.7233",
    "printed": "72.33",
    "unit": "percent",
    "spread": "",
    "caveats": "",
    "source": "a paper, Table 1",
}
WITHOUT = {**GOOD, "protocol": UNKNOWN, "caveats": "random-split"}
REASONS = """
version: 1
reasons: {random-split: {short: random split, text: A random split.}}
remarks: []
left_out: []
"""


def write(folder: Path, *lines: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "comparability.yaml").write_text(REASONS)
    with (folder / "papers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([line[name] for name in columns] for line in lines)
    return folder


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return read_ledger()


def test_a_line_becomes_a_number(tmp_path: Path) -> None:
    made = read_ledger(write(tmp_path, {**GOOD, "spread": "0.001"}, {**WITHOUT, "label_fraction": ""}))
    (number,), (other,) = made.with_protocol, made.without_protocol
    assert (number.value, number.printed, number.unit, number.spread) == (0.7233, "72.33", "percent", 0.001)
    assert number.file == "papers"
    assert other.label_fraction is None
    assert made.why(other) == "random split"


@pytest.mark.parametrize(
    ("column", "value", "allowed"),
    [
        ("source", "", "a text"),
        ("name", " ", "a text"),
        ("metric", "aurocc", "auc"),
        ("task", "zero_shot", "zero_shot_classification"),
        ("unit", "permille", "percent"),
        ("method", "medklipp", "medklip"),
        ("protocol", "nih-cxr14/official/v1", "nih-cxr14/official-25596/v1"),
        ("value", "72.33", "0 to 1"),
        ("value", "-0.1", "0 to 1"),
        ("value", "nan", "0 to 1"),
        ("value", "high", "0 to 1"),
        ("value", "0.7234", "0.7233"),
        ("printed", "n/a", "as printed"),
        ("spread", "1.5", "0 to 1"),
        ("label_fraction", "0.01", "0"),
        ("label_fraction", "10", "0 to 1"),
        ("dataset", "rsna-pneumonia", "nih-cxr14"),
        ("task", "zero_shot_relations", "zero_shot_classification"),
        ("finding", "covid", "effusion"),
        ("caveats", "random-split", "nothing"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(
    tmp_path: Path, column: str, value: str, allowed: str
) -> None:
    folder = write(tmp_path, {**GOOD, "source": "another paper"}, {**GOOD, column: value})
    with pytest.raises(DataError) as caught:
        read_ledger(folder)
    error = caught.value
    assert error.where == f"{folder / 'papers.csv'}, row 3, column {column}"
    assert repr(value.strip()) in str(error.found)
    assert allowed in str(error.allowed)
    assert error.remedy


@pytest.mark.parametrize(("caveats", "problem"), [("", "says why"), ("random-spli", "Unknown caveats")])
def test_a_number_without_protocol_names_known_reasons(tmp_path: Path, caveats: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_ledger(write(tmp_path, {**WITHOUT, "caveats": caveats}))


def test_the_same_number_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice") as caught:
        read_ledger(write(tmp_path, GOOD, {**GOOD, "value": "0.5", "printed": "50"}))
    assert "papers.csv, row 2" in str(caught.value.found)
    assert "row 3" in str(caught.value.where)


def test_columns_and_fields_are_counted(tmp_path: Path) -> None:
    swapped = (*COLUMNS[:-2], COLUMNS[-1], COLUMNS[-2])
    with pytest.raises(DataError, match="columns") as caught:
        read_ledger(write(tmp_path, GOOD, columns=swapped))
    assert "row 1" in str(caught.value.where)
    path = write(tmp_path, GOOD) / "papers.csv"
    path.write_text(path.read_text().replace('"a paper, Table 1"', "a paper, Table 1"))
    with pytest.raises(DataError, match="fields") as caught:
        read_ledger(tmp_path)
    assert (caught.value.found, caught.value.allowed) == (16, 15)


def test_an_empty_folder_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such"):
        read_ledger(tmp_path)
    (tmp_path / "comparability.yaml").write_text(REASONS)
    with pytest.raises(DataError, match="empty"):
        read_ledger(tmp_path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hundredths=st.integers(0, 10_000), off=st.integers(-3, 3))
def test_value_and_printed_value_must_agree(tmp_path: Path, hundredths: int, off: int) -> None:
    value = (hundredths + off) / 10_000
    line = {**GOOD, "printed": f"{hundredths / 100:.2f}", "value": f"{value:.4f}"}
    folder = write(tmp_path, line)
    if off == 0:
        assert read_ledger(folder).numbers[0].value == pytest.approx(hundredths / 10_000)
    else:
        with pytest.raises(DataError, match=r"printed one|out of range"):
            read_ledger(folder)


def test_what_the_suite_ships(ledger: Ledger) -> None:
    assert Counter(number.file for number in ledger.numbers) == {
        "papers": 490,
        "benchx": 350,
        "repositories": 319,
        "users": 40,
    }
    used = {key for number in ledger.numbers for key in number.caveats}
    assert used == set(ledger.comparability.reasons)
    # No result of MeDSLIP has been read in a source.
    assert not [number for number in ledger.numbers if "medslip" in (number.name + number.method).lower()]


def test_numbers_with_a_protocol_are_aucs_on_its_very_list(ledger: Ledger) -> None:
    numbers = ledger.with_protocol
    assert len(numbers) == 33
    assert {(n.metric, n.task) for n in numbers} == {("auc", "zero_shot_classification")}
    assert {n.protocol for n in numbers} == {"nih-cxr14/official-25596/v1", "rsna-pneumonia/released-5337/v1"}
    medklip = {
        n.value for n in numbers if (n.method, n.dataset, n.finding) == ("medklip", "nih-cxr14", "mean")
    }
    assert medklip == {0.7233}


def test_the_ledger_holds_what_was_reported(shared: Path, ledger: Ledger) -> None:
    """Every reported number is there once, as it was printed, but those that are left out on purpose."""
    reported: Counter[tuple[str, str]] = Counter()
    with (shared / "reported" / "published.csv").open() as file:
        for line in csv.DictReader(file):
            if not line["method"].startswith("MeDSLIP-dev") and not line["source"].startswith("BenchX"):
                reported[line["method"], line["value"]] += 1
    spreads: Counter[str] = Counter()
    with (shared / "reported" / "benchx.csv").open() as file:
        for line in csv.DictReader(file):
            if line["metric"].endswith("_std"):
                spreads[line["value"]] += 1
            elif "Table 7" not in line["source"]:
                reported[line["method"], line["value"]] += 1
    assert Counter((number.name, number.printed) for number in ledger.numbers) == reported
    assert sum(number.spread is not None for number in ledger.numbers) == spreads.total()


def test_the_files_are_package_data() -> None:
    pyproject = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert '"published/*"' in pyproject
    assert '"audit/*.yaml"' in pyproject
    assert sorted(path.suffix for path in LEDGER.iterdir()) == [".csv"] * 4 + [".yaml"]
