"""Leaks: patients or pictures that are in two splits, within one prepared data set or across two.

Five kinds, each a stronger or weaker reason to believe that two images are one: the same *patient*, the same
*identifier* (name of the file), the same *file* (SHA-256), the same *pixels* in another container, and a
*near-duplicate* (cropped, brightened, compressed again; see ``replication.data.likeness``). An image counts
under every kind that it satisfies. Images that two data sets share in the same split are an overlap, no leak.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.data.batches import PreparedData
from replication.data.likeness import copies
from replication.data.splits import SPLITS
from replication.errors import DataError
from replication.files import atomic, read_json, write_json
from replication.protocol_config import Protocol

KINDS = ("patient", "identifier", "file", "pixels", "near-duplicate")
COLUMNS = (
    *("set_a", "split_a", "set_b", "split_b", "kind"),
    *("shared", "images_a", "images_b", "leak", "example_a", "example_b"),
)

_Rows = NDArray[np.int64]


@dataclass(frozen=True)
class LeakCheck:
    """What two prepared folders share (``b`` is ``a`` within one).

    Attributes:
        table: one row per pair of splits and kind, columns ``COLUMNS``: how many patients, names, files or
            pictures are ``shared``, how many images they concern on each side, whether that is a ``leak``,
            and one pair of images as an example (rows of the manifests, -1 where nothing is shared).
    """

    a: PreparedData
    b: PreparedData
    table: pd.DataFrame

    @property
    def leaks(self) -> pd.DataFrame:
        """The rows of the table that are leaks."""
        return self.table[self.table["leak"]]

    @property
    def record(self) -> dict[str, Any]:
        """Which data were compared and what leaks, for ``refuse_leaks``."""
        found = self.leaks.drop(columns=["example_a", "example_b"])
        return {"a": _facts(self.a), "b": _facts(self.b), "leaks": found.to_dict("records")}

    def write(self, folder: Path | None = None) -> Path:
        """The table as CSV; the record goes beside the prepared folders, where scoring looks for it.

        Args:
            folder: of the table; the folder of the record if left out.
        """
        name = f"{rule_name(self.a)}--{rule_name(self.b)}" if self.b is not self.a else rule_name(self.a)
        places = list(dict.fromkeys(record_folder(data.folder) for data in (self.a, self.b)))
        for place in places:
            write_json(place / f"{name}.json", self.record)
        table = (folder or places[0]) / f"{name}.csv"
        with atomic(table) as temporary:
            self.table.to_csv(temporary, index=False)
        return table


def rule_name(data: PreparedData) -> str:
    """``nih-cxr14.official``: data set and split rule, for file names."""
    return f"{data.name}.{data.provenance['split']}"


def record_folder(prepared: Path) -> Path:
    """Where the checks of a prepared folder are kept: beside it, for the folder itself is never changed."""
    return prepared.resolve().with_name(f"{prepared.resolve().name}.leaks")


def check_leaks(a: PreparedData, b: PreparedData | None = None, *, progress: bool = True) -> LeakCheck:
    """Look for all kinds of leaks between the splits of a data set, or between those of two.

    Equal pixels can only be seen where both were prepared in the same size and reading; near-duplicates
    whatever the two sizes are. Plain numbers identify a patient or file within one data set only.
    """
    other = a if b is None else b
    rows = []
    for kind in KINDS[:4]:
        rows += _by_key(kind, a, other)
    rows += _near_duplicates(a, other, progress)
    return LeakCheck(a, other, pd.DataFrame(rows, columns=list(COLUMNS)))


def refuse_leaks(
    data: PreparedData, protocol: Protocol, *, pretrained_on: str | None = None, allow: bool = False
) -> None:
    """Refuse to score on a protocol that leaks.

    It leaks if it says so itself, if the manifest shows a patient, name or file in two splits, or if a
    recorded check of these very data (``replicate data leaks``) found a leak: within them, or between their
    test images and what ``pretrained_on`` learns from.

    Args:
        pretrained_on: data set of the method's pre-training.
        allow: score all the same.

    Raises:
        DataError: what leaks, and how to score nevertheless.
    """
    if allow:
        return
    remedy = "use a protocol whose splits share nothing, or score all the same with --allow-leaks"
    if protocol.leaks:
        raise DataError(f"Protocol {protocol.id} leaks: {protocol.source}", where=data.folder, remedy=remedy)
    found = [row for kind in KINDS[:3] for row in _by_key(kind, data, data) if row["leak"]]
    found += _recorded(data, pretrained_on)
    if found:
        raise DataError(
            f"Splits of protocol {protocol.id} share patients or pictures.",
            where=data.folder,
            found="; ".join(_sentence(row) for row in found[:3]),
            allowed="nothing shared between images that are learned from and images that are scored",
            remedy=remedy,
        )


def _recorded(data: PreparedData, pretrained_on: str | None) -> list[dict[str, Any]]:
    found = []
    for path in sorted(record_folder(data.folder).glob("*.json")):
        record = read_json(path)
        sides = [record["a"], record["b"]]
        mine = [side for side in sides if side["fingerprint"] == data.fingerprint]
        if len(mine) == 2:
            found += record["leaks"]
        elif mine and any(side["dataset"] == pretrained_on for side in sides if side is not mine[0]):
            scored = "split_a" if mine[0] is sides[0] else "split_b"
            found += [row for row in record["leaks"] if row[scored] == "test"]
    return found


def _sentence(row: dict[str, Any]) -> str:
    return (
        f"{row['set_a']} {row['split_a']} and {row['set_b']} {row['split_b']}: "
        f"{row['shared']} by {row['kind']} ({row['images_b']} images)"
    )


def _facts(data: PreparedData) -> dict[str, str]:
    return {"dataset": data.name, "split": data.provenance["split"], "fingerprint": data.fingerprint}


def _keys(kind: str, data: PreparedData) -> list[str]:
    """What images of one kind of leak have in common; ``""`` where it is unknown."""
    if kind == "patient":
        return [_own(value, value.rpartition("/")[2], data.name) for value in data.manifest["patient_id"]]
    if kind == "identifier":
        return [_own(value, PurePosixPath(value).stem, data.name) for value in data.manifest["file"]]
    if kind == "file":
        return data.manifest["sha256"].tolist()
    return [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in data.images]


def _own(value: str, last: str, dataset: str) -> str:
    """The last part of an identifier, with all else around it where that is a number: others count too."""
    return f"{dataset}/{value}" if last.isdigit() else last


def _splits(a: PreparedData, b: PreparedData) -> Iterator[tuple[str, str]]:
    """Pairs of splits that are compared: different ones within a data set, all across two."""
    for first in SPLITS:
        for second in SPLITS:
            if a is not b or SPLITS.index(first) < SPLITS.index(second):
                yield first, second


def _by_key(kind: str, a: PreparedData, b: PreparedData) -> list[dict[str, Any]]:
    if kind == "pixels" and (a.size, a.provenance["equalize"]) != (b.size, b.provenance["equalize"]):
        return []
    left, right = _groups(kind, a), _groups(kind, b) if b is not a else _groups(kind, a)
    both = left.merge(right, on="key", suffixes=("_a", "_b"))
    rows = []
    for first, second in _splits(a, b):
        hit = both[(both["split_a"] == first) & (both["split_b"] == second)]
        images = (int(hit["images_a"].sum()), int(hit["images_b"].sum()))
        example = (int(hit["row_a"].iloc[0]), int(hit["row_b"].iloc[0])) if len(hit) else (-1, -1)
        rows.append(_row(kind, a, first, b, second, len(hit), images, example))
    return rows


def _groups(kind: str, data: PreparedData) -> pd.DataFrame:
    """Columns key, split, row (the first of them) and images (how many)."""
    keys = _keys(kind, data)
    table = pd.DataFrame({"key": keys, "split": data.manifest["split"].tolist(), "row": range(len(keys))})
    grouped = table[table["key"] != ""].groupby(["key", "split"], sort=False)["row"]
    return grouped.agg(row="first", images="size").reset_index()


def _near_duplicates(a: PreparedData, b: PreparedData, progress: bool) -> list[dict[str, Any]]:
    """Within a data set, test against all else and val against train; across two, all against all."""
    if a is b:
        learned = np.concatenate([a.rows("train"), a.rows("val")])
        tasks = [(a.rows("test"), learned), (a.rows("val"), a.rows("train"))]
    else:
        tasks = [(np.arange(len(a.manifest)), np.arange(len(b.manifest)))]
    found: list[tuple[_Rows, _Rows]] = []
    for mine, others in tasks:
        if a is not b and len(mine) <= len(others):
            pairs = copies(a.images, mine, b.images, others, progress=progress)
            found.append((pairs.queries, pairs.gallery))
        else:
            pairs = copies(b.images, others if a is not b else mine, a.images, mine if a is not b else others,
                           progress=progress)  # fmt: skip
            found.append((pairs.gallery, pairs.queries))
    rows_a = np.concatenate([one for one, _ in found])
    rows_b = np.concatenate([two for _, two in found])
    splits_a = a.manifest["split"].to_numpy()[rows_a]
    splits_b = b.manifest["split"].to_numpy()[rows_b]
    rows = []
    for first, second in _splits(a, b):
        hit = (splits_a == first) & (splits_b == second)
        one, two = rows_a[hit], rows_b[hit]
        example = (int(one[0]), int(two[0])) if len(one) else (-1, -1)
        images = (len(np.unique(one)), len(np.unique(two)))
        rows.append(_row("near-duplicate", a, first, b, second, len(one), images, example))
    return rows


def _row(
    kind: str,
    a: PreparedData,
    first: str,
    b: PreparedData,
    second: str,
    shared: int,
    images: tuple[int, int],
    example: tuple[int, int],
) -> dict[str, Any]:
    leak = shared > 0 and first != second
    values = (rule_name(a), first, rule_name(b), second, kind, shared, *images, leak, *example)
    return dict(zip(COLUMNS, values, strict=True))
