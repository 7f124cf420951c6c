"""The released label tensor of MeDSLIP and MedKLIP: 220,736 studies x 51 anatomies x 75 observations.

``landmark_observation_adj_mtx.npy`` holds it as float64 (6.75 GB), -1 not mentioned, 0 absent, 1 present.
Its rows are named by ``landmark_observation_sids.npy`` where the tensor was made with the released code, or
by the released lists ``train.json``, ``valid.json`` and ``test.json``, whose items map an image path to
``labels_id``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replication.errors import DataError
from replication.files import read_json
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES

MATRIX = "landmark_observation_adj_mtx.npy"
STUDIES = "landmark_observation_sids.npy"
LISTS = ("train.json", "valid.json", "test.json")

_BLOCK = 1024
_STUDY = re.compile(r"/s(\d+)(?:/|\.txt$)")


def read_released_triplets(source: Path) -> tuple[tuple[str, ...], NDArray[np.int8]]:
    """Study ids and matrix ``[n, 51, 75]`` int8 of the released files in a folder.

    The file is memory-mapped and converted block by block; an eighth of it is ever in memory. Rows that no
    list names are left out.

    Raises:
        DataError: a file is missing or damaged, of another shape, or holds other values than -1, 0 and 1; or
            a row has two studies.
    """
    path = source / MATRIX
    matrix = _load(path)
    shape = (len(ANATOMIES), len(PATHOLOGIES))
    if matrix.ndim != 3 or matrix.shape[1:] != shape or matrix.dtype.kind not in "fi":
        raise DataError(
            "The label tensor has another shape.",
            where=path,
            found=f"{matrix.shape}, {matrix.dtype}",
            allowed=f"(studies, {shape[0]}, {shape[1]}), numbers",
        )
    names = _studies(source, len(matrix))
    rows = sorted(names)
    result = np.empty((len(rows), *shape), np.int8)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        values = np.asarray(matrix[block])
        if not np.isin(values, (-1, 0, 1)).all():
            raise DataError(
                "The label tensor holds another value.",
                where=f"{path}, rows {block[0]} to {block[-1]}",
                found=sorted(set(np.unique(values).tolist()) - {-1, 0, 1})[:3],
                allowed="-1, 0, 1",
            )
        result[start : start + len(block)] = values
    return tuple(names[row] for row in rows), result


def _studies(source: Path, count: int) -> dict[int, str]:
    """Study of every row that is named."""
    path = source / STUDIES
    if path.is_file():
        studies = _load(path)
        if len(studies) != count:
            raise DataError(
                "The studies are not those of the label tensor.",
                where=path,
                found=len(studies),
                allowed=count,
            )
        return {row: str(study).removeprefix("s") for row, study in enumerate(studies.tolist())}
    names: dict[int, str] = {}
    for name in LISTS:
        listed = source / name
        if not listed.is_file():
            raise DataError(
                "Nothing names the rows of the label tensor.",
                where=listed,
                allowed=f"{STUDIES}, or all of {', '.join(LISTS)}",
                remedy="put the files of the release beside the tensor",
            )
        for image, item in read_json(listed).items():
            study = _STUDY.search(image)
            row = item.get("labels_id") if isinstance(item, dict) else None
            if study is None or not isinstance(row, int) or not 0 <= row < count:
                raise DataError(
                    "An item of a released list cannot be read.",
                    where=f"{listed}, {image}",
                    found=item if study else "no study in the path",
                    allowed=f"a path with /s<study>/ and labels_id from 0 to {count - 1}",
                )
            if names.setdefault(row, study[1]) != study[1]:
                raise DataError(
                    "A row of the label tensor has two studies.",
                    where=f"{listed}, {image}",
                    found=f"row {row}: {names[row]} and {study[1]}",
                )
    return names


def _load(path: Path) -> NDArray[np.generic]:
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            "A released array cannot be read.",
            where=path,
            found=error,
            allowed="an .npy file without pickled objects",
            remedy="fetch it again",
        ) from error
