"""Predictions of several runs are compared line by line, so they must be of the same images and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from replication.errors import DataError

KEYS = ["finding", "sample"]
FACTS = ["patient", "split", "label"]


def check_same_lines(sheet: pd.DataFrame, sheet_path: Path, frame: pd.DataFrame, path: Path) -> None:
    """Refuse predictions that are not of the same images, findings and labels.

    Args:
        sheet: lines of the first run, sorted by finding and sample; the index counts lines of its file.
        frame: lines of another run, sorted and indexed likewise.

    Raises:
        DataError: names the files and the first line that only one of them has, or that they do not agree on.
    """
    columns = [*KEYS, *FACTS]
    same = len(sheet) == len(frame) and all(
        np.array_equal(sheet[column].to_numpy(), frame[column].to_numpy()) for column in columns
    )
    if same:
        return
    lines = [part[columns].assign(line=part.index) for part in (sheet, frame)]
    both = lines[0].merge(lines[1], on=KEYS, how="outer", suffixes=("", "_here"), indicator=True)
    differs = both["_merge"] != "both"
    for column in FACTS:
        differs |= both[column] != both[f"{column}_here"]
    first = both[differs].iloc[0]
    remedy = "evaluate both methods on the same prepared data; delete the older predictions first"
    named = {key: first[key] for key in KEYS}
    if first["_merge"] == "left_only":
        raise DataError(
            f"{int((both['_merge'] == 'left_only').sum())} lines are missing from predictions to compare.",
            where=path,
            found=f"first missing: {named}",
            allowed=f"the lines of {sheet_path}, where this one is line {int(first['line'])}",
            remedy=remedy,
        )
    if first["_merge"] == "right_only":
        raise DataError(
            "Predictions to compare have a line that the others lack.",
            where=f"{path}, line {int(first['line_here'])}",
            found=named,
            allowed=f"the lines of {sheet_path}",
            remedy=remedy,
        )
    raise DataError(
        "Predictions to compare do not agree on an image.",
        where=f"{path}, line {int(first['line_here'])}",
        found={**named, **{fact: first[f"{fact}_here"] for fact in FACTS}},
        allowed={fact: first[fact] for fact in FACTS} | {"as in": f"{sheet_path}, line {int(first['line'])}"},
        remedy=remedy,
    )
