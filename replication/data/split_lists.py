"""Published split lists: where they come from, how they are checked, and which image goes where.

The project ships none of them. ``configs/splits/<dataset>--<rule>.yaml`` says which files of which commit of
a public repository make a split; ``split_fetch`` puts them into ``splits/<rule>/`` of the raw data set, and
the readers' rule of that name follows them. A commit names its content, so a list cannot change; where a
SHA-256 is on record it is checked, and where none is, that of the list as it was first fetched is kept in
``fetched.json`` and checked from then on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas as pd
from pydantic import Field

from replication.config_files import CONFIGS, Strict, parse, read_yaml
from replication.data.splits import SPLITS, seeded_splits
from replication.data.tables import read_lines
from replication.errors import ConfigError, DataError, nearest
from replication.files import read_json

FOLDER = CONFIGS / "splits"
FETCHED = "fetched.json"


class SplitFile(Strict):
    """One list.

    Attributes:
        path: in the repository; ``null`` where no public copy is known and the file must be given by hand.
        commit: full commit of the repository at which this file is on record.
        split: which split its images are; ``unused`` leaves them out.
        rows: lines without the header. sha256: of the file, where it is on record.
    """

    path: str | None = None
    commit: str | None = Field(None, pattern="^[0-9a-f]{40}$")
    split: Literal["train", "val", "test", "unused"]
    rows: int | None = None
    sha256: str | None = None


class SplitList(Strict):
    """The lists of one split.

    Attributes:
        id: ``<dataset>/<rule>``.
        base: the reader's rule whose images the lists divide.
        repository: on GitHub.
        field: which field of a line names the image (1 is the first); fields end at commas or blanks.
        rest: what images in no list are: an error, left out, or train and val in ``shares`` by patient hash.
        leaks: whether images or patients are in several lists.
        source: what is known of the lists, and what is not.
    """

    id: str
    base: str
    repository: str | None = None
    field: int = Field(1, ge=1)
    rest: Literal["refuse", "leave out", "split"] = "refuse"
    shares: dict[str, float] = Field(default_factory=lambda: {"train": 7 / 8, "val": 1 / 8})
    leaks: bool = False
    source: str
    files: dict[str, SplitFile]

    @property
    def rule(self) -> str:
        """Name of the reader's split rule."""
        return self.id.partition("/")[2]

    @property
    def origin(self) -> str:
        """Repository and commits, or that there is none."""
        commits = sorted({file.commit[:7] for file in self.files.values() if file.commit})
        return f"github.com/{self.repository} at {', '.join(commits)}" if commits else "given by hand"

    def paths(self, source: Path) -> dict[str, Path]:
        """Where the lists lie in a raw data set, by name."""
        return {name: source / "splits" / self.rule / name for name in self.files}

    def require(self, source: Path) -> list[Path]:
        """The lists of a raw data set.

        Raises:
            DataError: one is missing; names the command that fetches it.
        """
        paths = list(self.paths(source).values())
        for path in paths:
            if not path.is_file():
                raise DataError(
                    f"A list of {self.id} is missing.",
                    where=path,
                    remedy=f"run: replicate data splits fetch {self.id} --source {source}",
                )
        return paths


def load_split_list(split_id: str) -> SplitList:
    """The lists of ``<dataset>/<rule>``.

    Raises:
        ConfigError: there are none; names the nearest.
    """
    known = [path.stem.replace("--", "/") for path in FOLDER.glob("*.yaml")]
    if split_id not in known:
        raise ConfigError("No such published split list.", found=split_id, remedy=nearest(split_id, known))
    path = FOLDER / f"{split_id.replace('/', '--')}.yaml"
    return parse(SplitList, read_yaml(path), path)


def all_split_lists() -> list[SplitList]:
    """All lists that can be fetched or given."""
    return [load_split_list(path.stem.replace("--", "/")) for path in sorted(FOLDER.glob("*.yaml"))]


def listed_rule(dataset: str, rule: str) -> SplitList | None:
    """The lists that a reader's rule follows, or ``None`` where the reader itself knows the split."""
    path = FOLDER / f"{dataset}--{rule}.yaml"
    return load_split_list(f"{dataset}/{rule}") if path.is_file() else None


def apply_lists(split: SplitList, records: pd.DataFrame, source: Path) -> pd.DataFrame:
    """Records with the splits of the lists; an image in several lists (a leak) gets a row for each.

    Args:
        records: of the base rule, see ``DatasetReader.records``; images go by the names of their files.

    Raises:
        DataError: a list is missing, changed, or of another length; it names an unknown image; an image is in
            no list, or in several of a split that is not known to leak.
    """
    split.require(source)
    stems = {PurePosixPath(file).stem: row for row, file in enumerate(records["file"])}
    chosen: dict[tuple[int, str], str] = {}
    seen: dict[int, str] = {}
    for name, path in split.paths(source).items():
        for where, stem in _entries(split, name, path):
            row = _row(split, stem, stems, where)
            part = split.files[name].split
            if not split.leaks and seen.setdefault(row, part) != part:
                raise DataError(
                    "An image is in two lists of a split.", where=where, found=stem, allowed="one list each"
                )
            seen[row] = part
            chosen.setdefault((row, part), where)
    chosen.update(_others(split, records, seen))
    return placed(records, [(row, part) for row, part in chosen if part != "unused"])


def placed(records: pd.DataFrame, pairs: Iterable[tuple[int, str]]) -> pd.DataFrame:
    """Records in the splits of (row, split) pairs, in their own order; one in several gets an id for each."""
    kept = sorted({(row, SPLITS.index(part)) for row, part in pairs})
    table = records.iloc[[row for row, _ in kept]].reset_index(drop=True)
    table["split"] = [SPLITS[part] for _, part in kept]
    several = table["sample_id"].duplicated(keep=False)
    table.loc[several, "sample_id"] += "@" + table.loc[several, "split"]
    return table


def _others(split: SplitList, records: pd.DataFrame, seen: Mapping[int, str]) -> dict[tuple[int, str], str]:
    """Splits of the images that no list names."""
    others = [row for row in range(len(records)) if row not in seen]
    if not others or split.rest == "leave out":
        return {}
    if split.rest == "refuse":
        raise DataError(
            f"{len(others)} images are in no list of {split.id}.",
            where=records["origin"].iloc[others[0]],
            found=records["file"].iloc[others[0]],
            allowed="an image of one of the lists",
            remedy="use the data set that the lists were made from, or another split rule",
        )
    parts = seeded_splits(records["patient_id"].iloc[others].tolist(), split.shares)
    return dict.fromkeys(zip(others, parts, strict=True), "")


def _entries(split: SplitList, name: str, path: Path) -> list[tuple[str, str]]:
    """Place and image name of every line of a list; a header is left out."""
    recorded = path.with_name(FETCHED)
    fetched = read_json(recorded).get(name) if recorded.is_file() else None
    check_list(split, name, path.read_bytes(), path, known=split.files[name].sha256 or fetched)
    found = []
    for number, line in enumerate(read_lines(path), 1):
        fields = re.split(r"[,\s]+", line.strip())
        if len(fields) < split.field:
            raise DataError(
                "A line of a list has too few fields.", where=f"{path}, row {number}", found=repr(line)
            )
        found.append((f"{path}, row {number}", _stem(fields[split.field - 1])))
    rows = split.files[name].rows
    if rows is not None and len(found) == rows + 1:
        return found[1:]
    return found


def _stem(field: str) -> str:
    """The name of an image without folder and suffix; a DICOM UID has dots that are no suffix."""
    last = field.rpartition("/")[2]
    return re.sub(r"\.(png|jpg|jpeg|dcm)$", "", last, flags=re.IGNORECASE)


def _row(split: SplitList, stem: str, stems: Mapping[str, int], where: str) -> int:
    if stem in stems:
        return stems[stem]
    raise DataError(
        f"A list of {split.id} names an image that the data set does not have.",
        where=where,
        found=stem,
        allowed=f"one of the {len(stems)} images of rule {split.base}",
        remedy="complete the data set, or use another split rule",
    )


def check_list(split: SplitList, name: str, content: bytes, path: Path, *, known: str | None) -> None:
    """Check the SHA-256 (``known``, if any) and the length of a list.

    Raises:
        DataError: names the file, what was found and what is on record.
    """
    found = hashlib.sha256(content).hexdigest()
    if known is not None and found != known:
        raise DataError(
            f"A list of {split.id} has another content than is on record.",
            where=path,
            found=f"sha256 {found}",
            allowed=f"sha256 {known}",
            remedy="delete it and fetch it again",
        )
    rows = split.files[name].rows
    lines = content.decode("utf-8", errors="replace").rstrip().count("\n") + 1
    if rows is not None and lines not in (rows, rows + 1):
        raise DataError(
            f"A list of {split.id} has not the length that is on record.",
            where=path,
            found=f"{lines} lines",
            allowed=f"{rows}, and a header",
            remedy=f"fetch it again, or give the file of {split.origin} with --file {name}=PATH",
        )
