"""Writes a table as CSV (long form, full precision), Markdown, booktabs LaTeX and JSON."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from replication.reporting.provenance import footer
from replication.reporting.tables import Row, Table, printed, write_atomically

CSV_COLUMNS = (
    "group",
    "column",
    "unit",
    "higher_is_better",
    "protocol",
    "printed",
    "printed_interval",
    "best",
    "value",
    "lower",
    "upper",
    "spread_over_seeds",
    "n_seeds",
    "reference",
    "missing",
    "data",
    "rows",
    "runs",
)
"""Columns of the CSV after the table's own label columns; one line per cell."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": r"$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "—": "---",
    "’": "'",
    "…": r"\dots{}",
    "\n": " ",
}


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write ``<name>.csv``, ``.md``, ``.tex`` and ``.json`` into the folder; returns their paths."""
    formats = {
        "csv": as_csv(table),
        "md": as_markdown(table),
        "tex": as_latex(table),
        "json": table.to_json(),
    }
    return [
        write_atomically(folder / f"{table.name}.{suffix}", content) for suffix, content in formats.items()
    ]


def as_csv(table: Table) -> str:
    """One line per cell: printed text, full precision, and the rows and runs it was made from."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*(name.lower().replace(" ", "_") for name in table.label_names), *CSV_COLUMNS])
    best = table.best()
    for i, row in enumerate(table.rows):
        for j, (column, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
            estimate, interval = printed(cell, column)
            numbers = [
                "" if number is None else repr(float(number))
                for number in (cell.value, cell.lower, cell.upper, cell.spread)
            ]
            writer.writerow(
                [
                    *row.labels,
                    column.group,
                    column.name,
                    column.unit,
                    "" if column.higher_is_better is None else str(column.higher_is_better).lower(),
                    column.protocol,
                    estimate,
                    interval,
                    str((i, j) in best).lower(),
                    *numbers,
                    cell.n_seeds,
                    str(row.reference).lower(),
                    cell.missing,
                    table.header.data,
                    ";".join(cell.rows),
                    ";".join(cell.runs),
                ]
            )
    return stream.getvalue()


def as_markdown(table: Table) -> str:
    """A GitHub table below its caption and header; the best value of a column is bold."""
    groups = [group for group, span in table.groups() for _ in range(span)]
    headings = [
        f"{group}<br>{column.heading}" if group else column.heading
        for group, column in zip(groups, table.columns, strict=True)
    ]
    names = [escape_markdown(name) for name in table.label_names]
    best = table.best()
    lines = [
        f"# {escape_markdown(table.title)}",
        "",
        escape_markdown(table.caption),
        "",
        *(f"- **{title}**: {escape_markdown(text)}" for title, text in table.header.lines()),
        "",
        _markdown_line([*names, *(escape_markdown(heading, keep="<br>") for heading in headings)]),
        "|" + "|".join([":---"] * len(names) + ["---:"] * len(headings)) + "|",
    ]
    for i, row in enumerate(table.rows):
        cells = []
        for j, (column, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
            estimate, interval = printed(cell, column)
            estimate = f"**{estimate}**" if (i, j) in best else estimate
            cells.append(f"{estimate}<br>{interval}" if interval else estimate)
        labels = [escape_markdown(label) for label in row.labels]
        lines.append(_markdown_line([*(f"*{x}*" if row.reference and x else x for x in labels), *cells]))
    lines += ["", *(f"- {escape_markdown(remark)}" for remark in _remarks(table))]
    lines += ["", f"<sub>{escape_markdown(footer(table.provenance))}</sub>", ""]
    return "\n".join(lines)


def _markdown_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escape_markdown(text: str, keep: str = "") -> str:
    """Text that Markdown shows as it is, inside and outside of tables; ``keep`` is left alone."""
    if keep and keep in text:
        return keep.join(escape_markdown(part) for part in text.split(keep))
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def as_latex(table: Table) -> str:
    """A ``table`` environment; needs the packages booktabs and graphicx, which its first line names."""
    labels = len(table.label_names)
    spans = table.groups()
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(table.title)}. {escape_latex(table.caption)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        r"\setlength{\tabcolsep}{4pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * len(table.columns)}}}",
        r"\toprule",
    ]
    if any(group for group, _ in spans):
        heads = [rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(group)}}}" for group, span in spans]
        lines.append(" & ".join([""] * labels + heads) + r" \\")
        start = labels + 1
        for group, span in spans:
            if group:
                lines.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
    headings = [*table.label_names, *(column.heading for column in table.columns)]
    lines += [" & ".join(escape_latex(heading) for heading in headings) + r" \\", r"\midrule"]
    best = table.best()
    lines += [_latex_row(table, row, {j for k, j in best if k == i}) for i, row in enumerate(table.rows)]
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip"]
    facts = [rf"\textbf{{{title}:}} {escape_latex(text)}" for title, text in table.header.lines()]
    remarks = [escape_latex(remark) for remark in [*_remarks(table), footer(table.provenance)]]
    lines += [
        r"\begin{minipage}{\linewidth}\footnotesize",
        " \\par\n".join([*facts, *remarks]),
        r"\end{minipage}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _latex_row(table: Table, row: Row, best: set[int]) -> str:
    cells = [rf"\emph{{{escape_latex(x)}}}" if row.reference and x else escape_latex(x) for x in row.labels]
    for j, (column, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
        estimate, interval = (escape_latex(line) for line in printed(cell, column))
        estimate = rf"\textbf{{{estimate}}}" if j in best else estimate
        if interval:
            estimate = (
                rf"\begin{{tabular}}[c]{{@{{}}r@{{}}}}{estimate} \\ {{\scriptsize {interval}}}\end{{tabular}}"
            )
        cells.append(estimate)
    return " & ".join(cells) + r" \\"


def _remarks(table: Table) -> list[str]:
    bold = (
        ["Bold: the best printed value of a column, ties included; rows in italics do not compete."]
        if table.best()
        else []
    )
    return [*bold, *table.remarks()]
