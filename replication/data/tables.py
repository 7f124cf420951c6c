"""Reading the tables of a data set as text, with errors that name the file, the row and the column."""

from __future__ import annotations

import gzip
import os
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from replication.errors import DataError, nearest

_UNREADABLE = (
    *(pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError),
    *(UnicodeDecodeError, EOFError, OSError, zlib.error),
)


def origin(path: Path, index: int) -> str:
    """Where a row of a table with a header stands; rows are counted as an editor counts lines."""
    return f"{path}, row {index + 2}"


def find_file(source: Path, names: Sequence[str], what: str) -> Path:
    """The first of several customary names that exists under ``source``.

    Raises:
        DataError: none exists.
    """
    for name in names:
        if (source / name).is_file():
            return source / name
    raise DataError(
        f"{what} is missing.",
        where=source / names[0],
        allowed=f"one of: {', '.join(names)}",
        remedy="put the file there as the data set's publisher names it, or correct --source",
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without the empty ones at its end.

    Raises:
        DataError: the file is no UTF-8 text or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise DataError("The file is no UTF-8 text.", where=path, found=error) from error
    except OSError as error:
        raise DataError("The file cannot be read.", where=path, found=error) from error


def read_table(path: Path, required: Iterable[str]) -> pd.DataFrame:
    """A CSV file (``.gz`` or not): every cell as text, empty ones as ``""``, column names stripped of spaces.

    Raises:
        DataError: the file is missing or damaged, or lacks a required column.
    """
    try:
        with warnings.catch_warnings():
            # Rows longer than the header: pandas would shift or drop cells and go on.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError as error:
        raise DataError(
            "A table is missing.", where=path, remedy="correct --source or fetch the file"
        ) from error
    except _UNREADABLE as error:
        kind = "gzip-compressed CSV" if isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error)) else "CSV"
        raise DataError(
            "A table cannot be read.",
            where=path,
            found=error,
            allowed=kind,
            remedy="the file is damaged or cut short: fetch it again",
        ) from error
    # SIIM-ACR publishes " EncodedPixels" with a leading space.
    table.columns = pd.Index([str(column).strip() for column in table.columns])
    for column in required:
        if column not in table.columns:
            raise DataError(
                f"Column {column!r} is missing.",
                where=f"{path}, header",
                found=", ".join(table.columns),
                allowed=", ".join(required),
                remedy=f"columns are read by name; {nearest(column, table.columns)}",
            )
    return table


def numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series[float]:
    """A column as numbers.

    Raises:
        DataError: names the first row that holds none.
    """
    values = pd.to_numeric(table[column], errors="coerce")
    bad = values.isna()
    if bad.any():
        index = int(bad.to_numpy().argmax())
        raise DataError(
            f"Column {column!r} holds no number.",
            where=origin(path, index),
            found=repr(table[column].iloc[index]),
            allowed="a number",
        )
    return values.astype(float)


def reject_duplicates(keys: pd.Series[str], path: Path) -> None:
    """Raise ``DataError`` naming the first row whose key has come before."""
    repeated = keys.duplicated()
    if repeated.any():
        index = int(repeated.to_numpy().argmax())
        first = int((keys == keys.iloc[index]).to_numpy().argmax())
        raise DataError(
            f"{keys.name} is repeated.",
            where=origin(path, index),
            found=keys.iloc[index],
            allowed=f"one row each; row {first + 2} holds it already",
        )


def files_by_name(source: Path, folders: Iterable[Path], suffixes: Sequence[str]) -> dict[str, str]:
    """File name -> path relative to ``source`` of the files that lie directly in the folders.

    Raises:
        DataError: two folders hold a file of the same name.
    """
    found: dict[str, str] = {}
    for folder in folders:
        below = folder.relative_to(source).as_posix()
        # Names rather than paths: a folder may hold half a million files.
        for name in sorted(os.listdir(folder)):  # noqa: PTH208
            if not name.lower().endswith(tuple(suffixes)):
                continue
            if name in found:
                raise DataError(
                    "Two files of one name.",
                    where=folder / name,
                    found=found[name],
                    allowed="file names that are unique over all image folders",
                    remedy="remove one of them",
                )
            found[name] = f"{below}/{name}"
    return found
