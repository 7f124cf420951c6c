"""Disentanglement by patch: does a patch know which finding covers it, and which region it lies in?

Needs exact masks of findings and of anatomy, so it is measured on phantom data; for other data the task is
left out, with that reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.config_files import derived_seed
from replication.data.batches import PreparedData
from replication.method import Method
from replication.phantom.ground_truth import GroundTruth, is_phantom
from replication.protocol_config import Protocol
from replication.tasks import stream_probes
from replication.tasks.common import NothingToMeasure, Predictions, identifiers
from replication.tasks.disentanglement import drawn_rows, sampled
from replication.tasks.stream_probes import Target, probed, stream_features

measure, metric_draws = stream_probes.measure, stream_probes.metric_draws

MOST = {"train": 400, "val": 150, "test": 400}
"""Images of each split at most."""

PATCHES = 8
"""Patches of an image; half of them covered by a finding, or all that are."""

COVERED = 0.1
"""A patch shows a finding that covers this share of it, a nodule's size; one that is touched is unknown."""

REGIONS = (
    *(f"{side}_{zone}_lung" for side in ("right", "left") for zone in ("upper", "mid", "lower")),
    "heart_size",
    "mediastinal",
)
"""Names of the anatomy vocabulary; a patch lies in a region that covers half of it."""


class Patch(NamedTuple):
    """Patches ``[N]``: their image, by its place among the asked images, and their cell of the grid."""

    image: NDArray[np.int64]
    cell: NDArray[np.int64]


def predict(
    method: Method, data: PreparedData, protocol: Protocol, *, batch_size: int = 128, progress: bool = False
) -> Predictions:
    """Log-odds of patches of test images by all probes, see ``stream_probes.probed``.

    Samples are patches, ``<image>#<row>,<column>`` of the method's grid.

    Raises:
        DataError: the data are not those of the protocol, or the phantom is not what its record says.
        NothingToMeasure: the data are not a phantom, the method has no trunk, no class is frequent enough.
    """
    data.check_protocol(protocol)
    raw = Path(str(data.provenance.get("source", "")))
    if not is_phantom(raw):
        raise NothingToMeasure(
            "Probes of patches need exact masks of findings and anatomy, which only phantom data have.",
            where=data.name,
        )
    drawn = drawn_rows(data, protocol)
    split = data.manifest["split"].to_numpy()[drawn]
    rows = np.concatenate(
        [
            sampled(drawn[split == name], most, derived_seed("patches", protocol.id, name))
            for name, most in MOST.items()
        ]
    )
    samples = [str(name) for name in data.manifest["sample_id"].to_numpy()[rows]]
    truth = GroundTruth.open(raw, samples)
    maps = stream_features(
        method, data, rows, lambda maps: maps, batch_size=batch_size, progress=progress, title=protocol.id
    )
    grid = next(iter(maps.values())).shape[2:]
    findings = np.stack(
        [shares(truth.findings(s), [f.name for f in protocol.findings], grid) for s in samples]
    )
    regions = np.stack([shares(truth.regions(s), REGIONS, grid) for s in samples])
    patch = chosen(findings.max(axis=1), derived_seed("patches", protocol.id))
    features = {
        name: one.reshape(*one.shape[:2], -1)[patch.image, :, patch.cell] for name, one in maps.items()
    }
    targets = {
        "pathology": Target([f.name for f in protocol.findings], shown(findings[patch.image, :, patch.cell])),
        "anatomy": Target(REGIONS, (regions[patch.image, :, patch.cell] >= 0.5).astype(np.int8)),
    }
    names = identifiers(data, rows).iloc[patch.image].reset_index(drop=True)
    places = [f"#{cell // grid[1]},{cell % grid[1]}" for cell in patch.cell]
    names["sample"] = names["sample"] + pd.Series(places)
    return probed(names, features, targets, protocol)


def shares(
    masks: dict[str, NDArray[np.bool_]], names: tuple[str, ...] | list[str], grid: tuple[int, ...]
) -> NDArray[np.float64]:
    """Share of each cell that each mask covers, ``[F, h * w]``; 0 where there is no such mask.

    The edges of cells are rounded to whole pixels, as in the pointing game.
    """
    found = np.zeros((len(names), grid[0] * grid[1]))
    for number, name in enumerate(names):
        if name in masks:
            mask = masks[name].astype(np.float64)
            for axis, cells in enumerate(grid):
                edges = np.arange(cells + 1) * masks[name].shape[axis] // cells
                sums = np.add.reduceat(mask, edges[:-1], axis=axis)
                mask = sums / np.expand_dims(np.diff(edges), 1 - axis)
            found[number] = mask.ravel()
    return found


def shown(share: NDArray[np.float64]) -> NDArray[np.int8]:
    """1 where enough of a patch is covered, 0 where nothing is, -1 between."""
    return np.where(share >= COVERED, 1, np.where(share > 0, -1, 0)).astype(np.int8)


def chosen(covered: NDArray[np.float64], seed: int) -> Patch:
    """``PATCHES`` patches of each image: half of them covered, as far as there are such; the rest are not.

    Args:
        covered: ``[N, K]`` greatest share of each patch that one finding covers.
    """
    generator = np.random.default_rng(seed)
    images, cells = [], []
    for image, share in enumerate(covered):
        order = generator.permutation(len(share))
        inside, outside = order[share[order] >= COVERED], order[share[order] < COVERED]
        some = inside[: PATCHES // 2]
        picked = np.concatenate([some, outside[: PATCHES - len(some)]])
        images.append(np.full(len(picked), image))
        cells.append(picked)
    return Patch(np.concatenate(images), np.concatenate(cells))
