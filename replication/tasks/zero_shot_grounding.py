"""Zero-shot grounding: does a method's heat map lie where the finding is?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional

from replication.data.batches import PreparedData
from replication.data.boxes import union_mask
from replication.errors import DataError
from replication.method import Finding, Method
from replication.metrics import BoolArray, Overlap, PointingTie, overlap, pixel_auc, pointing_hits
from replication.protocol_config import Protocol
from replication.statistics import FloatArray, Resampling, ratio
from replication.tasks.common import (
    Draws,
    Measurement,
    NothingToMeasure,
    Predictions,
    answers,
    evaluation_rows,
    identifiers,
    long_format,
    resampling,
    threshold_used,
    with_means,
)

FIXED_THRESHOLD = 0.5
"""Taken where the validation split has no regions to choose one on."""

_CHUNK = 128


@dataclass(frozen=True)
class GroundingRules:
    """How heat maps become numbers: corrected by default, ``RELEASED_RULES`` are those of the released code.

    Attributes:
        upsampling: ``bilinear`` between cell centres, or ``nearest``: each cell is repeated (released code).
        normalise: ``image_range`` maps an image's own minimum and maximum to 0 and 1, so that a method may be
            negative; ``image_max`` divides by its own maximum; ``batch_max`` by that of ``batch_size`` images
            in file order, negatives included (audit G5); ``none``.
        threshold: a pixel is found if its value is greater. ``validation`` takes, per finding, the value with
            the highest mean Dice on validation images (audit G4), ``test`` on the test images themselves
            (released code of MAVL, audit V5).
        pointing: what counts as a hit (audit G6).
    """

    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    normalise: Literal["image_range", "image_max", "batch_max", "none"] = "image_range"
    threshold: float | Literal["validation", "test"] = "validation"
    pointing: PointingTie = "cell_centre"
    batch_size: int = 64


RELEASED_RULES = GroundingRules("nearest", "batch_max", 0.0, "any_pixel")
"""Of ``test.py`` of the released grounding code, without anatomy attention."""


def predict(
    method: Method, data: PreparedData, protocol: Protocol, *, batch_size: int = 128, progress: bool = False
) -> Predictions:
    """Heat maps of the validation and test images, kept where the region of the finding is known.

    In the table the score is the highest value of the map, and the label 1 where the region is known, 0 where
    the finding is absent, -1 otherwise. Arrays, one entry per line with label 1, in order: ``heat``
    ``[P, h, w]`` float32 on the method's own grid, ``truth`` ``[P, S * S / 8]`` the region in packed bits,
    and ``size``, S.

    Raises:
        DataError: the data are not those of the protocol.
        NothingToMeasure: the data have no regions, or the method makes no heat maps.
    """
    data.check_protocol(protocol)
    if method.heatmap_kind == "none":
        raise NothingToMeasure("The method makes no heat maps.", where=method.name)
    rows = evaluation_rows(data)
    known = regions(data, rows, protocol)
    used = [i for i, region in enumerate(known) if region]
    if not used:
        raise NothingToMeasure(
            "There are no regions to compare heat maps with.",
            where=data.name,
            remedy="prepare the data with their boxes or masks, or choose a protocol without grounding",
        )
    chosen = [protocol.findings[i] for i in used]
    asked = [Finding(f.name, f.text, f.pathology) for f in chosen]
    highest = np.empty((len(rows), len(used)), dtype=np.float32)
    kept: list[dict[int, NDArray[np.float32]]] = [{} for _ in used]
    start = 0
    for maps in answers(
        method, method.heatmap, data, rows, asked, batch_size=batch_size, progress=progress, title=protocol.id
    ):
        highest[start : start + len(maps)] = maps.max(axis=(2, 3))
        for column, i in enumerate(used):
            for position in range(start, start + len(maps)):
                if position in known[i]:
                    kept[column][position] = maps[position - start, column].copy()
        start += len(maps)
    labels = np.stack([_labels(data, rows, f.column, known[i]) for i, f in zip(used, chosen, strict=True)], 1)
    frame = long_format(identifiers(data, rows), [f.name for f in chosen], highest, labels)
    order = [(column, position) for column, i in enumerate(used) for position in sorted(known[i])]
    truth = np.stack([known[used[column]][position] for column, position in order])
    arrays: dict[str, NDArray[Any]] = {
        "heat": np.stack([kept[column][position] for column, position in order]),
        "truth": np.packbits(truth.reshape(len(truth), -1).astype(bool), axis=1),
        "size": np.asarray(data.size),
    }
    return Predictions(frame, arrays)


def regions(
    data: PreparedData, rows: NDArray[np.int64], protocol: Protocol
) -> list[dict[int, NDArray[np.uint8]]]:
    """For each finding of the protocol: position in ``rows`` -> its region ``[S, S]``, where known.

    A mask is taken for the region of every finding of the protocol; sets with masks have one finding.
    """
    found: list[dict[int, NDArray[np.uint8]]] = [{} for _ in protocol.findings]
    mask_rows = data.manifest["mask_row"].to_numpy()[rows]
    for position, row in enumerate(rows):
        boxes = data.boxes(int(row)) if protocol.grounding == "boxes" else []
        mask = None
        if protocol.grounding == "masks" and data.masks is not None and mask_rows[position] >= 0:
            mask = np.asarray(data.masks[mask_rows[position]])
        for finding, regions_of in zip(protocol.findings, found, strict=True):
            own = [box for box in boxes if box.finding == finding.column]
            region = union_mask(own, data.size) if own else mask
            if region is not None and region.any():
                regions_of[position] = region
    return found


def _labels(
    data: PreparedData, rows: NDArray[np.int64], finding: str, known: dict[int, Any]
) -> NDArray[np.int8]:
    labels = data.labels[rows, data.label_names.index(finding)].copy()
    labels[labels == 1] = -1
    labels[list(known)] = 1
    return np.asarray(labels, dtype=np.int8)


def measure(
    predictions: Predictions,
    protocol: Protocol,
    *,
    draws: int = 1000,
    rules: GroundingRules = GroundingRules(),
) -> list[Measurement]:
    """Pointing game, IoU, Dice, recall, precision and pixel AUC of the test images with a region.

    ``box_share`` is the share of the image that the region covers: what a random point scores in the pointing
    game, and the precision of a map that is hot everywhere. ``threshold`` records the chosen threshold.
    """
    found = metric_draws(predictions, protocol, draws=draws, rules=rules)
    return [one.measured() for one in found]


def metric_draws(
    predictions: Predictions,
    protocol: Protocol,
    *,
    draws: int,
    rules: GroundingRules = GroundingRules(),
) -> list[Draws]:
    """The metrics of ``measure`` with their bootstrap draws, paired over runs of one protocol."""
    frame, heat = predictions.frame, predictions.arrays["heat"]
    with_region = frame[frame["label"] == 1]
    if len(with_region) != len(heat):
        raise DataError(
            "Heat maps and table do not belong together.",
            where=protocol.id,
            found=f"{len(heat)} maps, {len(with_region)} lines with a region",
            remedy="delete both; they are predicted again",
        )
    scaled = _normalised(heat, frame, rules)
    test = frame[frame["split"] == "test"]
    everyone = resampling(test["patient"].to_numpy(), protocol, draws)
    found: list[Draws] = []
    for finding in dict.fromkeys(test.loc[test["label"] == 1, "finding"]):
        own = (with_region["finding"] == finding).to_numpy()
        at = {split: own & (with_region["split"] == split).to_numpy() for split in ("val", "test")}
        split = "test" if rules.threshold == "test" else "val"
        threshold, rule = _threshold(scaled[at[split]], predictions.arrays, at[split], rules, split)
        values = _per_image(scaled, heat, predictions.arrays, at["test"], threshold, rules)
        resamples = everyone[((test["finding"] == finding) & (test["label"] == 1)).to_numpy()]
        found += [_mean(finding, metric, value, resamples, rule) for metric, value in values.items()]
        count = len(resamples.unit)
        found.append(threshold_used(finding, threshold, draws, rule, count, count))
    return with_means(found, test.loc[test["label"] == 1, "sample"].nunique())


def _mean(finding: str, metric: str, values: FloatArray, resamples: Resampling, rule: str) -> Draws:
    """Mean over the images; an image that leaves the metric undefined does not count."""
    (value,) = Resampling.none(len(values)).means(values)
    count = len(values)
    return Draws(
        finding,
        metric,
        float(value),
        resamples.means(values),
        count,
        count,
        rule if metric in Overlap._fields else "",
        higher_is_better=metric != "box_share",
    )


def _normalised(heat: NDArray[Any], frame: pd.DataFrame, rules: GroundingRules) -> FloatArray:
    maps = heat.astype(np.float64)
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    if rules.normalise == "image_range":
        return np.nan_to_num(ratio(maps - low, high - low))
    if rules.normalise == "image_max":
        return np.nan_to_num(ratio(maps, high))
    if rules.normalise == "batch_max":
        place = frame.groupby(["finding", "split"], sort=False).cumcount() // rules.batch_size
        highest = frame.groupby([frame["finding"], frame["split"], place])["score"].transform("max")
        return np.nan_to_num(ratio(maps, highest[frame["label"] == 1].to_numpy()[:, None, None]))
    return maps


def upsample(maps: NDArray[Any], size: int, how: Literal["bilinear", "nearest"]) -> NDArray[np.float32]:
    """Maps on a method's grid -> image pixels: ``[P, h, w]`` -> ``[P, size, size]``.

    ``nearest`` repeats each cell; ``bilinear`` interpolates between cell centres and is flat beyond the
    outermost ones, so no pixel exceeds the range of the cells.
    """
    cells = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[:, None]
    options: dict[str, Any] = {"align_corners": False} if how == "bilinear" else {}
    pixels = functional.interpolate(cells, size=(size, size), mode=how, **options)
    return np.asarray(pixels[:, 0].numpy())


def _chunks(
    maps: FloatArray, arrays: Any, chosen: BoolArray, rules: GroundingRules
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32], BoolArray]]:
    """Indices, maps in image pixels and regions of the chosen images, a few at a time."""
    size = int(arrays["size"])
    for index in np.array_split(np.flatnonzero(chosen), max(1, -(-int(chosen.sum()) // _CHUNK))):
        truth = np.unpackbits(arrays["truth"][index], axis=1, count=size * size).astype(bool)
        yield index, upsample(maps[index], size, rules.upsampling), truth.reshape(-1, size, size)


def _per_image(
    scaled: FloatArray,
    heat: NDArray[Any],
    arrays: Any,
    chosen: BoolArray,
    threshold: float,
    rules: GroundingRules,
) -> dict[str, FloatArray]:
    """Each metric of each chosen image."""
    parts: list[dict[str, FloatArray]] = []
    for index, maps, truth in _chunks(scaled, arrays, chosen, rules):
        parts.append(
            {
                "pointing_game": pointing_hits(heat[index], truth, rules.pointing),
                **overlap(maps > threshold, truth)._asdict(),
                "pixel_auc": pixel_auc(maps, truth),
                "box_share": truth.mean(axis=(1, 2)),
            }
        )
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def _threshold(
    maps: FloatArray, arrays: Any, chosen: BoolArray, rules: GroundingRules, split: str
) -> tuple[float, str]:
    """The threshold of a finding and how it was chosen on the maps of a split."""
    if not isinstance(rules.threshold, str):
        return rules.threshold, f"fixed, {rules.normalise}"
    if not len(maps):
        return FIXED_THRESHOLD, f"fixed, {rules.normalise} (no regions in {split})"
    size = int(arrays["size"])
    candidates = np.unique(np.quantile(maps, np.linspace(0.01, 0.99, 99)))
    dice = np.zeros(len(candidates))
    truth = np.unpackbits(arrays["truth"][chosen], axis=1, count=size * size).astype(bool)
    for cells, region in zip(maps, truth, strict=True):
        pixels = upsample(cells[None], size, rules.upsampling).reshape(-1)
        # A pixel of level k is greater than the first k candidates.
        level = np.searchsorted(candidates.astype(np.float32), pixels, side="left")
        counts = [np.bincount(level[part], minlength=len(candidates) + 1) for part in (region, ~region)]
        both, outside = (np.cumsum(count[::-1])[::-1][1:] for count in counts)
        dice += 2 * both / (both + outside + region.sum())
    return float(candidates[np.argmax(dice)]), f"maximum mean Dice on {split}, {rules.normalise}"
