"""Label fractions: which patients' labels a task may learn from.

The training patients of a data set are put into one order, drawn so that every beginning of it holds the
findings in about the shares of the whole. A fraction is such a beginning: fractions are nested by
construction, split by patient, and one more fraction changes none of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from replication.data.batches import PreparedData
from replication.errors import ConfigError, DataError

MAX_COUNTED = 3
"""Patients are also stratified by how many findings they have; this many or more is one stratum."""


def label_order(data: PreparedData, columns: Sequence[str], seed: int) -> list[str]:
    """The patients of the training split in a random order that is stratified by finding.

    A patient has a finding if one of the images has it. Patients with the same findings are interchangeable
    and come in random order; which kind of patient comes next is the one that keeps the counts so far closest
    to their expected values (squared differences over the share of each finding, and of each number of
    findings, so that rare ones weigh as much as common ones).

    Args:
        columns: label columns of the data set to stratify by.
        seed: of the draw.
    """
    rows = data.rows("train")
    patients, unit = np.unique(data.manifest["patient_id"].to_numpy(dtype=str)[rows], return_inverse=True)
    labels = data.labels[rows][:, [data.label_names.index(column) for column in columns]] == 1
    present = np.zeros((len(patients), len(columns)), dtype=bool)
    np.logical_or.at(present, unit, labels)
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    drawn = _stratified(present[shuffled])
    return [str(name) for name in patients[shuffled[drawn]]]


def _stratified(present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """An order of ``[P, F]`` patients whose beginnings have the shares of the whole; ties stay in order."""
    count = np.minimum(present.sum(axis=1), MAX_COUNTED)
    strata = np.concatenate([present, count[:, None] == np.arange(MAX_COUNTED + 1)], axis=1)
    strata = strata[:, strata.any(axis=0)].astype(np.float64)
    kinds, first, kind_of = np.unique(strata, axis=0, return_index=True, return_inverse=True)
    by_appearance = np.argsort(first)
    kinds, kind_of = kinds[by_appearance], np.argsort(by_appearance)[kind_of.reshape(-1)]
    waiting = [list(np.flatnonzero(kind_of == kind)[::-1]) for kind in range(len(kinds))]
    share = strata.mean(axis=0)
    itself = kinds @ (1 / share)
    so_far = np.zeros_like(share)
    order = np.empty(len(present), dtype=np.int64)
    for position in range(len(order)):
        ahead = so_far - (position + 1) * share
        kind = int(np.argmin(itself + kinds @ (2 * ahead / share)))
        order[position] = waiting[kind].pop()
        so_far += kinds[kind]
        if not waiting[kind]:
            itself[kind] = np.inf
    return order


def patients_of(order: Sequence[str], fraction: float) -> Sequence[str]:
    """The patients of a fraction: the first ``fraction`` of the order, rounded up.

    Raises:
        ConfigError: not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ConfigError("Not a fraction of the labels.", found=fraction, allowed="above 0, at most 1")
    # 0.1 * 30 is a little more than 3, which must not become 4 patients.
    return order[: math.ceil(round(fraction * len(order), 6))]


def labelled_rows(data: PreparedData, order: Sequence[str], fraction: float) -> NDArray[np.int64]:
    """Row numbers of the training images of a fraction's patients, ascending."""
    rows = data.rows("train")
    patients = data.manifest["patient_id"].to_numpy(dtype=str)[rows]
    return rows[np.isin(patients, list(patients_of(order, fraction)))]


def check_classes(
    data: PreparedData,
    rows: NDArray[np.int64],
    columns: Sequence[str],
    fraction: float,
    where: str,
    needed: Sequence[str] = ("present", "absent"),
) -> None:
    """The classes of every finding must be among the labelled images, or nothing can be learned.

    Args:
        needed: which classes; segmentation can do without absent ones.

    Raises:
        DataError: names the fraction, the class and the counts.
    """
    labels = data.labels[rows][:, [data.label_names.index(column) for column in columns]]
    everything = data.labels[data.rows("train")]
    patients = data.manifest["patient_id"].iloc[rows].nunique()
    for column, known in zip(columns, labels.T, strict=True):
        counts = {"present": int((known == 1).sum()), "absent": int((known == 0).sum())}
        for state in needed:
            if counts[state]:
                continue
            whole = int((everything[:, data.label_names.index(column)] == int(state == "present")).sum())
            raise DataError(
                f"With {fraction:.4g} of the labels, no image has {column} {state}.",
                where=where,
                found=f"{counts['present']} present, {counts['absent']} absent among {len(rows)} images "
                f"of {patients} patients; {whole} {state} in the whole training split",
                allowed=f"at least one image of each class ({', '.join(needed)}) of every finding",
                remedy="take this fraction out of transfer.fractions, or use more patients",
            )
