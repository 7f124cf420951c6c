"""Cells, tables and the formats they are written in."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import DataError
from replication.reporting.tables import MISSING, Cell, Column, Header, Row, Table, fixed
from replication.reporting.writers import (
    LATEX_COLUMNS,
    as_csv,
    as_latex,
    as_markdown,
    escape_latex,
    escape_markdown,
    write_table,
)

NASTY = r"50% of {a_b} & $c$ #1 ~x^2 \ <i> | [d] ± ↑"


ROWS = ("run1/probe.a--b--v1.f0.01/mean/auc", "run2/probe.a--b--v1.f0.01/mean/auc")


def cell(value: float, spread: float | None = None) -> Cell:
    return Cell(value, value - 0.0123456, value + 0.0123456, spread, 3, ROWS, ("run1", "run2"), True)


def table(**changes: object) -> Table:
    columns = (
        Column("AUC", "Set A", True, protocol="a/b/v1"),
        Column("ECE", "Set A", False),
        Column("share", "Set B", None, unit="%", decimals=1),
    )
    rows = (
        Row((NASTY, "matched"), (cell(0.81249, 0.01), cell(0.30), cell(12.34))),
        Row(("second_method", "matched"), (cell(0.81251), Cell.absent("no run"), cell(12.34))),
        Row(("bound", "matched"), (cell(0.99), cell(0.01), cell(12.34)), reference=True),
    )
    header = Header("a/b/v1: 10 images", "last epoch", "from val", "95 % over patients", "It is a phantom.")
    given_ = Table("t_name", "Title_1", "Caption & more", ("Method", "Recipe"), columns, rows, header)
    return dataclasses.replace(given_, **changes)  # type: ignore[arg-type]


def numbers_of_csv(text: str) -> list[str]:
    lines = csv.DictReader(io.StringIO(text))
    return [number for line in lines for number in (line["printed"], line["printed_interval"]) if number]


def plain_latex(text: str) -> list[str]:
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    body = body.replace(r"$\pm$", "±").replace("{[}", "[").replace("{]}", "]").replace("--", MISSING)
    return re.findall(r"\d+\.\d+ ± \d+\.\d+|\[\S+, \S+\]|(?<![\d.,\[ ])\d+\.\d+|" + MISSING, body)


def plain_markdown(text: str) -> list[str]:
    body = "\n".join(line for line in text.splitlines() if line.startswith("|")).split(":|\n", 1)[1]
    return re.findall(
        r"\d+\.\d+ ± \d+\.\d+|\[\S+, \S+\]|(?<![\d.,\[ ])\d+\.\d+|" + MISSING, body.replace("| ", "|")
    )


def test_the_formats_print_the_same_numbers() -> None:
    # A label full of special characters would hide a number of the label among those of the cells.
    plain = dataclasses.replace(table().rows[0], labels=("first", "matched"))
    made = table(rows=(plain, *table().rows[1:]))
    expected = numbers_of_csv(as_csv(made))
    assert len(expected) == 17
    assert plain_markdown(as_markdown(made)) == expected
    assert plain_latex(as_latex(made)) == expected


def test_the_csv_holds_full_precision_and_origin() -> None:
    line = next(csv.DictReader(io.StringIO(as_csv(table()))))
    assert float(line["value"]) == 0.81249
    assert float(line["lower"]) == 0.81249 - 0.0123456
    assert (line["runs"], line["rows"], line["n_seeds"]) == ("run1;run2", ";".join(ROWS), "3")
    assert line["protocol"] == "a/b/v1"
    assert line["measured_on"] == "It is a phantom."
    assert line["method"] == NASTY


def test_equal_printed_values_are_equally_best_and_bounds_do_not_compete() -> None:
    made = table()
    assert fixed(0.81249, 3) != fixed(0.81251, 3)
    assert made.best() == {(1, 0)}
    coarse = (dataclasses.replace(made.columns[0], decimals=2), *made.columns[1:])
    worse = Row(("worse", ""), (cell(0.7), cell(0.3), cell(1.0)))
    rounder = table(columns=coarse, rows=(*made.rows, worse))
    assert rounder.best() == {(0, 0), (1, 0)}
    # Where all are equal, none is better than another.
    assert table(columns=coarse).best() == frozenset()
    assert r"\textbf{0.81}" in as_latex(rounder)
    assert as_markdown(rounder).count("**0.81") == 2


def test_lower_is_better_and_rows_can_be_the_contest() -> None:
    rows = (
        Row(("a", ""), (cell(0.5), cell(0.2), cell(1.0))),
        Row(("b", ""), (cell(0.4), cell(0.1), cell(2.0))),
    )
    assert table(rows=rows).best() == {(0, 0), (1, 1)}
    columns = tuple(Column(name) for name in "xyz")
    assert table(rows=rows, columns=columns, best_of="row").best() == {(0, 2), (1, 2)}
    bounded = (*columns[:2], Column("z", reference=True))
    assert table(rows=rows, columns=bounded, best_of="row").best() == {(0, 0), (1, 0)}


def test_blocks_are_compared_within_themselves() -> None:
    rows = tuple(
        Row((name, ""), (cell(value), cell(value), cell(value)), block=block)
        for name, value, block in (("a", 0.9, "x"), ("b", 0.8, "x"), ("c", 0.2, "y"), ("d", 0.1, "y"))
    )
    best = table(rows=rows).best()
    assert {(0, 0), (2, 0)} <= best
    assert (1, 0) not in best
    assert as_latex(table(rows=rows)).count(r"\midrule") == 2


def test_what_is_missing_is_said_and_never_filled() -> None:
    made = table()
    assert "Missing for second_method, matched: Set A ECE (no run)." in made.missing()
    for text in (as_markdown(made), as_latex(made)):
        assert "no run" in text
    empty = table(rows=())
    assert any("no rows" in remark for remark in empty.remarks())
    assert as_latex(empty).count(r"\begin{tabular}") == 1


def test_fewer_seeds_are_said() -> None:
    one = dataclasses.replace(cell(0.5), n_seeds=1)
    rows = (Row(("a", ""), (cell(0.5),) * 3), Row(("b", ""), (one, cell(0.5), one)))
    assert table(rows=rows).fewer_seeds() == ["b rests on 1 of 3 seeds."]


def test_a_cell_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        Cell(float("nan"))
    with pytest.raises(ValueError, match="why"):
        Cell(None)
    with pytest.raises(ValueError, match="columns"):
        table(rows=(Row(("a", "b"), ()),))


def test_the_header_is_in_every_format() -> None:
    made = table()
    for text in (as_markdown(made), as_latex(made), made.to_json()):
        for fact in ("It is a phantom.", "last epoch", "from val", "a/b/v1: 10 images"):
            assert fact in text


def balanced(latex: str) -> bool:
    depth = 0
    for token in re.findall(r"\\.|[{}]", latex, flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return False
    return depth == 0


def test_latex_is_well_formed() -> None:
    made = as_latex(table())
    assert balanced(made)
    for name in ("table", "tabular", "minipage"):
        assert made.count(rf"\begin{{{name}}}") == made.count(rf"\end{{{name}}}")
    inner = re.sub(r"\\begin\{tabular\}\[c\].*?\\end\{tabular\}", "X", made)
    body = inner.split(r"\toprule")[1].split(r"\bottomrule")[0]
    for line in body.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == 4


def test_a_wide_table_is_broken_between_groups() -> None:
    columns = tuple(Column(name, f"G{g}") for g in range(4) for name in "abc")
    rows = (Row(("m", "r"), (cell(0.5),) * 12),)
    made = as_latex(table(columns=columns, rows=rows))
    assert made.count(r"\toprule") == 2
    assert balanced(made)
    assert all(len(re.findall("r", spec)) <= LATEX_COLUMNS for spec in re.findall(r"\{ll(r+)\}", made))


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])))
def test_latex_escapes_leave_no_active_character(text: str) -> None:
    made = escape_latex(text)
    assert balanced(made)
    bare = re.sub(r"\\[&%$#_{}]|\\[a-z]+(\{\})?|\$(\\[a-z]+|-)\$|\{\[\}|\{\]\}", "", made)
    assert not set(bare) & set("&%$#_{}~^\\")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])))
def test_markdown_escapes_keep_a_cell_in_its_column(text: str) -> None:
    made = escape_markdown(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", made)
    assert "<" not in made


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    paths = write_table(table(), tmp_path)
    assert sorted(path.suffix for path in paths) == [".csv", ".json", ".md", ".tex"]
    assert Table.from_json(tmp_path / "t_name.json") == table()
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_table(table(), tmp_path)] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(DataError, match=r"x\.json"):
        Table.from_json(tmp_path / "x.json")


@pytest.mark.parametrize(("value", "printed"), [(-0.0004, "0.000"), (0.0005, "0.001"), (-1.5, "-1.500")])
def test_numbers_are_printed_without_negative_zero(value: float, printed: str) -> None:
    assert fixed(value, 3) == printed
