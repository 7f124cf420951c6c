"""What may be wrong with raw files: how it is brought about, and what a user is told about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import raw

Spoil = Callable[[Path], object]


class Form(NamedTuple):
    """A form of raw files: the data set, how it is split, and what writes it."""

    dataset: str
    write: Callable[[Path], Path]
    split: str | None = None


FORMS: dict[str, Form] = {
    "MIMIC": Form("mimic-cxr", raw.write_mimic),
    "MIMIC, exact labels": Form("mimic-cxr", lambda source: raw.write_mimic(source, exact=True)),
    "NIH": Form("nih-cxr14", raw.write_nih),
    "RSNA": Form("rsna-pneumonia", raw.write_rsna),
    "RSNA, released list": Form("rsna-pneumonia", raw.write_rsna_released, "released-list"),
    "SIIM, DICOM": Form("siim-acr", raw.write_siim_dicom),
    "SIIM, PNG": Form("siim-acr", raw.write_siim_png),
    "COVIDx": Form("covidx-cxr4", raw.write_covidx),
    "covid-chestxray": Form("covid-chestxray", raw.write_covid_chestxray),
}


class Damage(NamedTuple):
    """One thing that is wrong with the raw files.

    Attributes:
        kind: in words; several entries may be of one kind.
        form: a key of ``FORMS``.
        file: what is spoilt, relative to the source.
        spoil: spoils the file, given its path.
        words: what the message holds, the file's name among them.
        image: whether it concerns a single image, which ``--quarantine`` leaves out.
        column: which one, where every column of a table is tried.
    """

    kind: str
    form: str
    file: str
    spoil: Spoil
    words: tuple[str, ...]
    image: bool = False
    column: str = ""

    @property
    def id(self) -> str:
        return " ".join(filter(None, (self.kind, self.form, Path(self.file).name, self.column)))


def of(form: str, file: str, *cases: tuple[str, Spoil, str], image: bool = False) -> list[Damage]:
    """Damage of one file: kind, how, and what the message says of it."""
    return [Damage(kind, form, file, spoil, (word, Path(file).stem), image) for kind, spoil, word in cases]


def every_column(form: str, file: str, *columns: str) -> list[Damage]:
    """Each of the columns once under another name."""
    return [
        Damage(
            "column missing",
            form,
            file,
            without_column(name),
            (f"Column {name!r} is missing", file),
            column=name,
        )
        for name in columns
    ]


def replaced(old: str, new: str) -> Spoil:
    """The first occurrence of a text becomes another."""
    return lambda path: raw.edit(path, old, new)


def cut(share: float) -> Spoil:
    """Only a share of the file is there."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def holding(content: bytes) -> Spoil:
    """The file holds something else."""
    return lambda path: path.write_bytes(content)


def removed(path: Path) -> None:
    """The file is not there."""
    path.unlink()


def turned_into_a_folder(path: Path) -> None:
    """A folder has the file's name."""
    path.unlink()
    path.mkdir()


def last_line_repeated(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]]))


def without_column(column: str) -> Spoil:
    """The header calls a column by another name."""

    def spoil(path: Path) -> None:
        header, rest = path.read_text().split("\n", 1)
        names = header.split(",")
        names[[name.strip() for name in names].index(column)] = "something"
        path.write_text("\n".join([",".join(names), rest]))

    return spoil
