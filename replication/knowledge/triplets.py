"""Tuples -> the matrix [n, 51, 75] of what reports say, and the labels that follow from it.

The matrix is that of the released preprocessing (adj_matrix.py), the labels those of the released data set
class (dataset.py): -1 not mentioned, 0 absent, 1 present.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replication.errors import ConfigError
from replication.knowledge.landmarks import anatomy_class
from replication.knowledge.lemmas import pathology_class
from replication.knowledge.radgraph import FAITHFUL, ParsedTuple, RadGraphSettings, itemise, parse_tuples
from replication.knowledge.radgraph_documents import Document, iter_documents
from replication.knowledge.vocabulary import (
    ANATOMIES,
    EXCLUDED_PATHOLOGY,
    NORMAL_PATHOLOGIES,
    PATHOLOGIES,
    anatomy_index,
    pathology_index,
)

NOT_MENTIONED, ABSENT, PRESENT, UNCERTAIN = -1, 0, 1, 2

_STRENGTH = {ABSENT: 0, UNCERTAIN: 1, PRESENT: 2}


class Triplets(NamedTuple):
    """``matrix`` [n, 51, 75] int8 (-1 not mentioned, 0 absent, 1 present); row i is ``study_ids[i]``."""

    study_ids: tuple[str, ...]
    matrix: NDArray[np.int8]


@lru_cache(maxsize=65536)
def _cell(anatomy: str, lemma: str) -> tuple[int, int]:
    return anatomy_index(anatomy_class(anatomy)), pathology_index(pathology_class(lemma))


def study_cells(
    tuples: Iterable[ParsedTuple], settings: RadGraphSettings = FAITHFUL
) -> dict[tuple[int, int], int]:
    """The cells (anatomy index, pathology index) that one study fills, with their values (adj_matrix.py).

    Present wins over uncertain (kept only if ``settings.uncertain`` is ``2``), uncertain over absent.
    """
    values = {"OBS-DP": PRESENT, "OBS-DA": ABSENT}
    if settings.uncertain == "2":
        values["OBS-U"] = UNCERTAIN
    cells: dict[tuple[int, int], int] = {}
    for item in tuples:
        if item.label is None or item.label not in values:
            continue
        cell, value = _cell(item.anatomy, item.obs_lemma), values[item.label]
        if cell not in cells or _STRENGTH[value] > _STRENGTH[cells[cell]]:
            cells[cell] = value
    return cells


def triplet_matrix(
    documents: Iterable[Document],
    settings: RadGraphSettings = FAITHFUL,
    progress: Callable[[int], None] | None = None,
) -> Triplets:
    """The matrix of a stream of documents, of which only the filled cells are held until its end.

    Documents without entities have no row, as in the released code.

    Args:
        progress: called with the number of documents done, every thousand and at the end.
    """
    study_ids: list[str] = []
    entries: list[tuple[int, int, int, int]] = []
    done = 0
    for done, document in enumerate(documents, 1):
        rows = itemise(document, settings)
        if rows:
            cells = study_cells(parse_tuples(rows, settings), settings)
            entries += [(len(study_ids), *cell, value) for cell, value in cells.items()]
            study_ids.append(document.study_id)
        if progress is not None and done % 1000 == 0:
            progress(done)
    if progress is not None:
        progress(done)
    matrix = np.full((len(study_ids), len(ANATOMIES), len(PATHOLOGIES)), NOT_MENTIONED, dtype=np.int8)
    if entries:
        study, anatomy, pathology, values = np.array(entries).T
        matrix[study, anatomy, pathology] = values
    return Triplets(tuple(study_ids), matrix)


def read_triplets(
    path: Path, settings: RadGraphSettings = FAITHFUL, progress: Callable[[int], None] | None = None
) -> Triplets:
    """The matrix of a RadGraph file, streamed.

    Raises:
        DataError: as ``iter_documents`` and ``itemise`` do; nothing has been written then.
    """
    return triplet_matrix(iter_documents(path), settings, progress)


Array = TypeVar("Array", NDArray[Any], Tensor)

_NORMAL_OR_EXCLUDED = [pathology_index(name) for name in (*NORMAL_PATHOLOGIES, EXCLUDED_PATHOLOGY)]
_NORMAL = [pathology_index(name) for name in NORMAL_PATHOLOGIES]


def pathology_labels(matrix: Array) -> Array:
    """Labels of the pathologies: [..., 51, 75] -> [..., 75] of the same type.

    1 if the pathology is present in some anatomy, else 0 if absent in some, else -1 (2 between 1 and 0 where
    the matrix has uncertain cells).
    """
    return _strongest(matrix, -2)


def anatomy_labels(matrix: Array, positive: Literal["any", "abnormal_only"] = "any") -> Array:
    """Labels of the anatomies: [..., 51, 75] -> [..., 51] of the same type.

    Args:
        positive: ``any`` (released code): 1 if anything is present there, be it ``clear``, else 0 if
            something is absent. ``abnormal_only`` (audit P19): 1 only for an abnormal pathology; a normal
            one that is present counts as 0; what falls into ``excluded_obs`` says nothing.
    """
    if positive == "any":
        return _strongest(matrix, -1)
    if positive != "abnormal_only":
        raise ConfigError(
            "unknown rule", where="anatomy_label.positive", found=positive, allowed="any, abnormal_only"
        )
    healthy = (matrix[..., _NORMAL] == PRESENT).any(-1)
    if isinstance(matrix, Tensor):
        abnormal = matrix.clone()
        abnormal[..., _NORMAL_OR_EXCLUDED] = NOT_MENTIONED
        labels = _strongest(abnormal, -1)
        return torch.where((labels == NOT_MENTIONED) & healthy, ABSENT, labels).to(matrix.dtype)
    array = matrix.copy()
    array[..., _NORMAL_OR_EXCLUDED] = NOT_MENTIONED
    found = _strongest(array, -1)
    return np.where((found == NOT_MENTIONED) & healthy, ABSENT, found).astype(matrix.dtype)


def _strongest(matrix: Array, axis: int) -> Array:
    """The value that wins along an axis: 1, then 2, then 0, then -1."""
    where: Any = torch.where if isinstance(matrix, Tensor) else np.where
    labels: Any = NOT_MENTIONED
    for value in sorted(_STRENGTH, key=_STRENGTH.__getitem__):
        labels = where((matrix == value).any(axis), value, labels)
    result: Array = labels.to(matrix.dtype) if isinstance(matrix, Tensor) else labels.astype(matrix.dtype)
    return result
