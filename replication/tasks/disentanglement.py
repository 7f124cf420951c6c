"""Disentanglement by image: does each stream know what it is for, and not what the other is for?

Linear probes read three things from the mean patch of each stream: which findings the report states
(``pathology``), and, in images with a single finding, in which anatomies it lies (``anatomy``) and on which
``side``. Patch by patch: ``replication.tasks.disentanglement_patches``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replication.config_files import derived_seed
from replication.data.batches import PreparedData
from replication.knowledge.vocabulary import ANATOMIES, LATERAL_ANATOMIES, pathology_index
from replication.method import Method
from replication.protocol_config import Protocol
from replication.tasks import stream_probes
from replication.tasks.common import NothingToMeasure, Predictions, identifiers
from replication.tasks.stream_probes import Target, probed, stream_features

measure, metric_draws = stream_probes.measure, stream_probes.metric_draws

MOST = {"train": 2000, "val": 1000, "test": 2000}
"""Images of each split at most, drawn with a seed of the protocol: the same for all methods and runs."""

SHOWN = 300
"""Features of so many test images are kept for pictures."""

_NO_PLACE = ("unspecified", "other")


def predict(
    method: Method, data: PreparedData, protocol: Protocol, *, batch_size: int = 128, progress: bool = False
) -> Predictions:
    """Log-odds of the test images by all probes, see ``stream_probes.probed``.

    The arrays ``features/<stream>`` ``[M, C]`` float16 are pooled features of test images with a single
    finding, ``shown`` ``[M]`` their places among the test samples.

    Raises:
        DataError: the data are not those of the protocol.
        NothingToMeasure: reports are not annotated, the method has no trunk, or no class is frequent enough.
    """
    data.check_protocol(protocol)
    rows = drawn_rows(data, protocol)
    cells = np.asarray(triplets_of(data)[data.manifest["triplet_row"].to_numpy()[rows]])
    stated = targets(cells, protocol)
    features = stream_features(
        method,
        data,
        rows,
        lambda maps: maps.mean(dim=(2, 3)),
        batch_size=batch_size,
        progress=progress,
        title=protocol.id,
    )
    names = identifiers(data, rows)
    found = probed(names, features, stated, protocol)
    test = names["split"].to_numpy() == "test"
    shown = np.flatnonzero((stated["anatomy"].labels[test] >= 0).any(axis=1))[:SHOWN]
    kept = {f"features/{name}": one[test][shown].astype(np.float16) for name, one in features.items()}
    return Predictions(found.frame, {**found.arrays, "shown": shown, **kept})


def triplets_of(data: PreparedData) -> NDArray[np.int8]:
    """``[n, 51, 75]``.

    Raises:
        NothingToMeasure: the data have none.
    """
    if data.triplets is None:
        raise NothingToMeasure(
            "Probes of the streams need annotated reports.",
            where=data.name,
            remedy="evaluate this task on mimic-cxr, prepared with its RadGraph file",
        )
    return data.triplets


def drawn_rows(data: PreparedData, protocol: Protocol) -> NDArray[np.int64]:
    """Rows of annotated images, split by split, as many as ``MOST`` allows."""
    annotated = data.manifest["triplet_row"].to_numpy() >= 0
    return np.concatenate(
        [
            sampled(rows[annotated[rows]], most, derived_seed("disentanglement", protocol.id, split))
            for split, most in MOST.items()
            for rows in (data.rows(split),)
        ]
    )


def sampled(rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """All rows, or ``most`` of them drawn without replacement, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def targets(cells: NDArray[np.int8], protocol: Protocol) -> dict[str, Target]:
    """What the reports state, from the triplet matrices ``[N, 51, 75]``.

    A finding that is not stated anywhere counts as absent, as in the labels of the downstream data sets. The
    side is known where the places of the single finding are on one side alone: 1 is left.
    """
    named = [finding for finding in protocol.findings if finding.pathology is not None]
    present = cells[:, :, [pathology_index(f.pathology or "") for f in named]] == 1
    findings = present.any(axis=1)
    single = findings.sum(axis=1) == 1
    places = np.where(single[:, None], present.any(axis=2), -1).astype(np.int8)
    known = [i for i, name in enumerate(ANATOMIES) if name not in _NO_PLACE]
    left, right = (
        (
            places[:, [i for i, a in enumerate(ANATOMIES) if a in LATERAL_ANATOMIES and side in a.split("_")]]
            == 1
        ).any(axis=1)
        for side in ("left", "right")
    )
    side = np.where(single & (left != right), left, -1).astype(np.int8)
    return {
        "pathology": Target([f.name for f in named], findings.astype(np.int8)),
        "anatomy": Target([ANATOMIES[i] for i in known], places[:, known]),
        "side": Target(["left"], side[:, None]),
    }
