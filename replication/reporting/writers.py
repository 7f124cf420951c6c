"""Writes a table as CSV (long form, full precision), Markdown, booktabs LaTeX and JSON."""

from __future__ import annotations

import csv
import io
import re
from itertools import groupby
from pathlib import Path

from replication.files import write_whole
from replication.records import protocol_of
from replication.reporting.provenance import footer
from replication.reporting.tables import Row, Table, printed

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
    "measured_on",
    "rows",
    "runs",
)
"""Columns of the CSV after the table's own label columns; one line per cell."""

LATEX_COLUMNS = 8
"""Measured columns that a page has room for."""

LATEX_LINES = 52
"""Lines of print that a page has room for; a longer table is continued on the next."""

_WRAP = 40
"""Longest text, in characters, that a label column prints on one line."""

_LETTERS_PER_CM, _DIGITS_PER_CM, _BETWEEN_CM, _SMALLER = 5.0, 5.4, 0.28, 0.8
_PAGE_CM = 16.0
_CAPTION_CHARACTERS, _SMALL_CHARACTERS = 85, 105
"""A line of a caption, and of the smaller print below a table, has about so many."""

_AGAIN = 3.0
"""Lines of print above a table that is continued."""

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
    return [write_whole(folder / f"{table.name}.{suffix}", content) for suffix, content in formats.items()]


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
                    ";".join(filter(None, dict.fromkeys(map(protocol_of, cell.rows)))) or column.protocol,
                    estimate,
                    interval,
                    str((i, j) in best).lower(),
                    *numbers,
                    cell.n_seeds,
                    str(row.reference or column.reference).lower(),
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
    lines += ["", *(f"- {escape_markdown(remark)}" for remark in table.remarks())]
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
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return f"\\{text}" if text.startswith((">", "#", "-", "+")) else text


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def as_latex(table: Table) -> str:
    """A ``table`` environment; needs the packages booktabs and graphicx, which its first line names.

    A table too wide for a page is broken into panels below each other, between groups of columns. One too
    long is continued in further ``table`` environments; its facts stand below the first, its remarks below
    the last.
    """
    facts = [rf"\textbf{{{title}:}} {escape_latex(text)}" for title, text in table.header.lines()]
    remarks = [escape_latex(remark) for remark in [*table.remarks(), footer(table.provenance)]]
    caption = rf"\caption{{{escape_latex(table.title)}. {escape_latex(table.caption)}}}"
    caption += f"\n\\label{{tab:{table.name.replace('_', '-')}}}"
    below_lines = (
        0.8 * sum(1 + len(text) // _SMALL_CHARACTERS for text in texts) for texts in (facts, remarks)
    )
    pages = _pages(table, 2 + len(caption) / _CAPTION_CHARACTERS, *below_lines)
    again = rf"\addtocounter{{table}}{{-1}}\caption[]{{{escape_latex(table.title)} (continued).}}"
    lines = [r"% \usepackage{booktabs,graphicx}"]
    for number, page in enumerate(pages):
        first, last = number == 0, number == len(pages) - 1
        panels = [_latex_panel(table, columns, page) for columns in _panels(table) if page or first]
        below = [*(facts if first else []), *(remarks if last else [])]
        lines += [
            r"\begin{table}",
            r"\centering",
            caption if first else again,
            r"\setlength{\tabcolsep}{4pt}",
            "\n\\par\\medskip\n".join(panels),
        ]
        if below:
            lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
            lines += [" \\par\n".join(below), r"\end{minipage}"]
        lines += [r"\end{table}", ""]
    return "\n".join(lines)


def _wrapped(table: Table) -> dict[int, float]:
    """Label columns too long for one line -> their width in cm."""
    longest = [
        max((len(row.labels[j]) for row in table.rows), default=0) for j in range(len(table.label_names))
    ]
    return {j: min(7.0, max(3.5, n / 18)) for j, n in enumerate(longest) if n > _WRAP}


def _pages(table: Table, caption: float, facts: float, remarks: float) -> list[range]:
    """Rows of each page; a last page without rows where the remarks do not fit below the others.

    Args:
        caption, facts, remarks: lines of print above the first, below the first and below the last rows.
    """
    panels = _panels(table)
    scales = [_scale(table, columns) for columns in panels]
    heights = [
        sum(scale * _lines(table, row, columns) for scale, columns in zip(scales, panels, strict=True))
        for row in table.rows
    ]
    heading = sum(4 * scale + 0.6 for scale in scales)
    everything = range(len(heights))
    if caption + heading + sum(heights) + facts + remarks <= LATEX_LINES:
        return [everything]
    pages, start, filled = [], 0, caption + heading + facts
    for i, height in enumerate(heights):
        if filled + height > LATEX_LINES and i > start:
            pages.append(everything[start:i])
            start, filled = i, _AGAIN + heading
        filled += height
    pages.append(everything[start:])
    return pages if filled + remarks <= LATEX_LINES else [*pages, everything[:0]]


def _lines(table: Table, row: Row, columns: list[int]) -> int:
    """Lines of print of a row before it is scaled."""
    texts = [-(-len(row.labels[j]) // int(cm * _LETTERS_PER_CM)) for j, cm in _wrapped(table).items()]
    interval = any(printed(row.cells[j], table.columns[j])[1] for j in columns)
    return max([1 + interval, *texts])


def _scale(table: Table, columns: list[int]) -> float:
    """About how much a panel is made smaller to fit the width of a page; 1 is not at all."""
    width = sum(_wrapped(table).values())
    for j, name in enumerate(table.label_names):
        if j not in _wrapped(table):
            width += (
                max(len(text) for text in (name, *(row.labels[j] for row in table.rows))) / _LETTERS_PER_CM
            )
    for j in columns:
        characters: float = len(table.columns[j].heading)
        for row in table.rows:
            estimate, interval = printed(row.cells[j], table.columns[j])
            characters = max(characters, len(estimate), _SMALLER * len(interval))
        width += characters / _DIGITS_PER_CM
    return min(1.0, _PAGE_CM / (width + _BETWEEN_CM * (len(table.label_names) + len(columns))))


def _panels(table: Table) -> list[list[int]]:
    """Columns of each panel: as many whole groups as fit."""
    panels: list[list[int]] = [[]]
    start = 0
    for _, span in table.groups():
        if panels[-1] and len(panels[-1]) + span > LATEX_COLUMNS:
            panels.append([])
        panels[-1] += range(start, start + span)
        start += span
    return panels


def _latex_panel(table: Table, columns: list[int], page: range) -> str:
    labels, wrapped = len(table.label_names), _wrapped(table)
    lines = [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * len(columns)}}}",
        r"\toprule",
    ]
    spans = [(group, len(list(same))) for group, same in groupby(table.columns[j].group for j in columns)]
    if any(group for group, _ in spans):
        heads = [rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(group)}}}" for group, span in spans]
        lines.append(" & ".join([""] * labels + heads) + r" \\")
        start = labels + 1
        for group, span in spans:
            if group:
                lines.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
    headings = [*table.label_names, *(table.columns[j].heading for j in columns)]
    lines += [" & ".join(escape_latex(heading) for heading in headings) + r" \\", r"\midrule"]
    best = table.best()
    for i in page:
        row = table.rows[i]
        if i > page.start and row.block != table.rows[i - 1].block:
            lines.append(r"\midrule")
        cells = [_latex_cell(*printed(row.cells[j], table.columns[j]), (i, j) in best) for j in columns]
        names = [escape_latex(text) for text in row.labels]
        names = [rf"\emph{{{text}}}" if row.reference and text else text for text in names]
        names = [_paragraph(text, wrapped[j]) if j in wrapped else text for j, text in enumerate(names)]
        lines.append(" & ".join([*names, *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}"])


def _paragraph(text: str, cm: float) -> str:
    """A cell of several lines; paths and names may be broken at their separators."""
    text = re.sub(r"/|\\_|:|-|(?<=[a-z])\.(?=[a-z])", r"\g<0>\\allowbreak{}", text)
    return rf"\parbox[t]{{{cm:.1f}cm}}{{\raggedright {text}\strut}}"


def _latex_cell(estimate: str, interval: str, best: bool) -> str:
    text = rf"\textbf{{{escape_latex(estimate)}}}" if best else escape_latex(estimate)
    if not interval:
        return text
    below = rf"{{\scriptsize {escape_latex(interval)}}}"
    return rf"\begin{{tabular}}[c]{{@{{}}r@{{}}}}{text} \\ {below}\end{{tabular}}"
