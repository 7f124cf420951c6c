"""Long tables and long texts in LaTeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from replication.reporting.tables import Cell, Column, Header, Row, Table
from replication.reporting.writers import LATEX_LINES, as_latex

HEADER = Header("a/b/v1: 10 images", "last epoch", "from val", "none", "")


def table(count: int, *, text: str = "short", notes: tuple[str, ...] = (), interval: bool = False) -> Table:
    ends = (0.4, 0.6) if interval else (None, None)
    rows = tuple(Row((f"m{i:03d}", text), (Cell(0.5, *ends, n_seeds=1),)) for i in range(count))
    return Table("t", "Title", "Caption.", ("Method", "Text"), (Column("AUC"),), rows, HEADER, notes)


def pages(latex: str) -> list[str]:
    return re.findall(r"\\begin\{table\}.*?\\end\{table\}", latex, flags=re.DOTALL)


def names(latex: str) -> list[str]:
    return re.findall(r"^(m\d{3}) &", latex, flags=re.MULTILINE)


def test_a_short_table_is_one() -> None:
    assert len(pages(as_latex(table(20)))) == 1


def test_a_long_table_is_continued_and_loses_no_row() -> None:
    made = as_latex(table(3 * LATEX_LINES))
    parts = pages(made)
    assert len(parts) >= 3
    assert names(made) == [f"m{i:03d}" for i in range(3 * LATEX_LINES)]
    assert made.count(r"\label{tab:t}") == 1
    assert made.count(r"\addtocounter{table}{-1}") == len(parts) - 1
    assert [part.count("Title (continued)") for part in parts] == [0] + [1] * (len(parts) - 1)
    assert "last epoch" in parts[0]
    assert "last epoch" not in parts[-1]
    assert all(len(names(part)) <= LATEX_LINES for part in parts)


def test_intervals_take_a_second_line() -> None:
    assert len(pages(as_latex(table(40)))) == 1
    assert len(pages(as_latex(table(40, interval=True)))) == 2


def test_remarks_that_do_not_fit_get_a_page() -> None:
    made = pages(as_latex(table(LATEX_LINES + 30, notes=("word " * 1500,))))
    assert names(made[-1]) == []
    assert "word word" in made[-1]
    assert r"\toprule" not in made[-1]
    assert "word word" not in made[-2]


def test_long_texts_are_set_as_paragraphs() -> None:
    made = as_latex(table(3, text="a long text with 5 % and_more " * 5))
    assert made.count(r"\parbox[t]{") == 3
    assert r"5 \% and\_\allowbreak{}more" in made
    assert r"\parbox" not in as_latex(table(3, text="x" * 40))
    # Eight lines of print each: a third of the rows fit.
    assert len(pages(as_latex(table(24, text="word " * 60)))) > 1


PAPER = r"""\documentclass{article}
\usepackage[a4paper,margin=2.5cm]{geometry}\usepackage{booktabs,graphicx}
\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}
\begin{document}\input{table}\end{document}
"""


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("columns", [1, 3, 8, 20])
@pytest.mark.parametrize("rows", [3, 17, 60])
@pytest.mark.parametrize("spread", [None, 0.123])
def test_no_page_is_larger_than_the_paper(
    columns: int, rows: int, spread: float | None, tmp_path: Path
) -> None:
    header = Header(
        "a/b/v1: 10 images; " * 8, "last epoch " * 12, "from val", "none " * 40, "It is a phantom."
    )
    cells = tuple(Cell(0.5, 0.412, 0.634, spread, n_seeds=1) for _ in range(columns))
    made = Table(
        "t",
        "Title",
        "What the table shows. " * 20,
        ("Method", "Recipe", "What"),
        tuple(Column("AUC", f"Set {j // 2}") for j in range(columns)),
        tuple(
            Row((f"m{i:03d}/variant", "matched", "a text " * (1 + 9 * (i % 3))), cells) for i in range(rows)
        ),
        header,
        ("A remark of some length. " * 12,) * 3,
    )
    (tmp_path / "table.tex").write_text(as_latex(made))
    (tmp_path / "paper.tex").write_text(PAPER)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=60,
    )
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert done.returncode == 0, log[-500:]
    assert "Float too large" not in log
    assert "Overfull" not in log
