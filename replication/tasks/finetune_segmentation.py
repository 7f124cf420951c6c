"""Fine-tuned segmentation: a decoder on the trunk's feature maps; boxes or masks are the target."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from replication.data.augmentation import augment_pairs
from replication.data.batches import PreparedData, normalise
from replication.data.boxes import union_mask
from replication.devices import compute_device
from replication.errors import ConfigError, DataError
from replication.networks.segmentation import SegmentationNetwork
from replication.protocol_config import Protocol
from replication.statistics import FloatArray, Resampling
from replication.tasks.adaptation import Adaptation, fine_tune, inference
from replication.tasks.common import (
    Draws,
    Measurement,
    NothingToMeasure,
    Predictions,
    evaluation_rows,
    identifiers,
    long_format,
    resampling,
    threshold_used,
)
from replication.transfer_config import SegmentationConfig

THRESHOLDS = np.round(np.linspace(0.05, 0.95, 19), 2)
"""Probabilities that a pixel may have to exceed to count as found; validation chooses one."""

EMPTY_RULE = "an image without a region scores 1 if nothing is found in it, else 0"


class SegmentationTuning:
    """Fine-tunes a fresh copy of the trunk with a new decoder for every fraction.

    Raises:
        ConfigError: the protocol has several findings.
        NothingToMeasure: it has no regions, or the trunk has no finer maps than its last one.
    """

    def __init__(self, adaptation: Adaptation, settings: SegmentationConfig) -> None:
        self.adaptation, self.settings = adaptation, settings
        protocol = adaptation.protocol
        if len(protocol.findings) != 1:
            raise ConfigError(
                "Segmentation needs a protocol with one finding.",
                where=protocol.id,
                found=", ".join(finding.name for finding in protocol.findings),
            )
        if protocol.grounding == "none":
            raise NothingToMeasure("The protocol has no regions to segment.", where=protocol.id)
        if len(adaptation.trunk.stage_channels) < 2:
            raise NothingToMeasure(
                "The trunk has no finer feature maps than its last one, which a decoder needs.",
                where=type(adaptation.trunk).__name__,
                remedy="choose a trunk with stages, such as a ResNet",
            )
        self.known = known_regions(adaptation.data, protocol)

    def predict(self, rows: NDArray[np.int64], fraction: float) -> Predictions:
        """Pixels found in the validation and test images at every threshold; see ``Learner``.

        Images whose region is not known (the finding is present but not drawn) are left out. The loss is the
        released one: mean binary cross-entropy plus one minus the soft Dice over all pixels of the batch
        (smoothing 1). Kept is the check with the highest mean Dice, at its best threshold, of the images with
        a region in the split ``settings.select``: with the others in the mean, a network that finds nothing
        anywhere would win where regions are rare.

        In the table the score is the highest probability of a pixel and the label whether there is a region.
        Arrays, a line per image: ``found`` and ``hit`` ``[N, K]``, pixels above each of the ``thresholds``
        ``[K]`` and those of them inside the region; ``true`` ``[N]``, pixels of the region. They suffice for
        every overlap metric.

        Raises:
            DataError: no labelled image, or none of the judged split, has a region.
        """
        adaptation, settings = self.adaptation, self.settings
        data, protocol = adaptation.data, adaptation.protocol
        finding = protocol.findings[0]
        learned, judged, asked = (
            every[self.known[every]] for every in (rows, data.rows(settings.select), evaluation_rows(data))
        )
        judged = judged[adaptation.labels(judged)[:, 0] == 1]
        self._check(learned, judged, fraction)
        if settings.negatives == "balanced":
            absent = adaptation.labels(learned)[:, 0] == 0
            learned = balanced(learned, absent, adaptation.seed_of("negatives", fraction))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(adaptation.seed_of("decoder"))
            model = SegmentationNetwork(adaptation.fresh_trunk(), settings)
        model = model.to(compute_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]

        def loss(chosen: NDArray[np.int64], seed: int) -> Tensor:
            pixels, masks = augment_pairs(
                np.ascontiguousarray(data.images[chosen]),
                region_masks(data, chosen, protocol),
                settings.augmentation,
                seed,
            )
            images = normalise(pixels).to(compute_device(), memory_format=torch.channels_last)
            return region_loss(model(images), torch.from_numpy(masks).to(images.device))

        def counted(of: NDArray[np.int64]) -> PixelCounts:
            return self._count(model, of)

        fine_tune(
            model,
            model.decoder,
            loss,
            lambda: float(counted(judged).dice().mean(axis=0).max()),
            learned,
            settings,
            adaptation.seed_of("order", fraction),
            title=f"{protocol.id}, {fraction:.0%} of the labels",
            progress=adaptation.progress,
        )
        counts = counted(asked)
        labels = (counts.true > 0).astype(np.int8)[:, None]
        frame = long_format(identifiers(data, asked), [finding.name], counts.highest[:, None], labels)
        arrays: dict[str, NDArray[Any]] = {
            "found": counts.found,
            "hit": counts.hit,
            "true": counts.true,
            "thresholds": THRESHOLDS,
        }
        return Predictions(frame, arrays)

    def _count(self, model: SegmentationNetwork, rows: NDArray[np.int64]) -> PixelCounts:
        parts = []
        start = 0
        for logits in inference(model, self.adaptation, rows, self.settings.precision):
            probability = logits[:, 0].sigmoid().cpu().numpy()
            chosen = rows[start : start + len(probability)]
            masks = region_masks(self.adaptation.data, chosen, self.adaptation.protocol)
            parts.append(count_pixels(probability, masks.astype(bool)))
            start += len(probability)
        return PixelCounts(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _check(self, learned: NDArray[np.int64], judged: NDArray[np.int64], fraction: float) -> None:
        labels = self.adaptation.labels(learned)
        if not (labels == 1).any() or not len(judged):
            raise DataError(
                f"With {fraction:.4g} of the labels there is nothing to segment.",
                where=self.adaptation.protocol.id,
                found=f"{int((labels == 1).sum())} labelled images with a region, and {len(judged)} images "
                f"with one in {self.settings.select!r}",
                allowed="at least one of each",
                remedy="take this fraction out of transfer.fractions, or prepare the data with their regions",
            )


def balanced(rows: NDArray[np.int64], absent: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """All rows with the finding, and at most as many without, drawn at random; ascending."""
    present, others = rows[~absent], rows[absent]
    drawn = np.random.default_rng(seed).permutation(others)[: len(present)]
    return np.sort(np.concatenate([present, drawn]))


def known_regions(data: PreparedData, protocol: Protocol) -> NDArray[np.bool_]:
    """``[N]`` by row of the manifest: the finding is absent, or present with a region that is drawn."""
    column = protocol.findings[0].column
    labels = data.labels[:, data.label_names.index(column)]
    if protocol.grounding == "masks":
        drawn = data.manifest["mask_row"].to_numpy() >= 0
    else:
        drawn = np.array([f'"{column}"' in boxes for boxes in data.manifest["boxes"]], dtype=bool)
    known = (labels == 0) | ((labels == 1) & drawn)
    # A small mask may have lost all its pixels when it was stored at the size of the images.
    for row in np.flatnonzero((labels == 1) & drawn):
        known[row] = bool(region_masks(data, np.array([row]), protocol).any())
    return np.asarray(known)


def region_masks(data: PreparedData, rows: NDArray[np.int64], protocol: Protocol) -> NDArray[np.uint8]:
    """``[B, S, S]``, 1 inside the finding's region; nothing where it is absent."""
    column = protocol.findings[0].column
    masks = np.zeros((len(rows), data.size, data.size), np.uint8)
    labels = data.labels[rows, data.label_names.index(column)]
    mask_rows = data.manifest["mask_row"].to_numpy()[rows]
    for mask, row, label, mask_row in zip(masks, rows, labels, mask_rows, strict=True):
        if label != 1:
            continue
        if protocol.grounding == "boxes":
            own = [box for box in data.boxes(int(row)) if box.finding == column]
            mask[:] = union_mask(own, data.size)
        elif data.masks is not None and mask_row >= 0:
            mask[:] = data.masks[mask_row]
    return masks


def region_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Loss of ``[B, 1, S, S]`` logits against ``[B, S, S]`` masks, in float32."""
    z, truth = logits[:, 0].float(), masks.float()
    probability = z.sigmoid()
    overlap = 2 * (probability * truth).sum() + 1
    dice = overlap / (probability.sum() + truth.sum() + 1)
    return functional.binary_cross_entropy_with_logits(z, truth) + 1 - dice


class PixelCounts(NamedTuple):
    """Counts of N images at K thresholds: ``found``, ``hit`` ``[N, K]``; ``true``, ``highest`` ``[N]``."""

    found: NDArray[np.int32]
    hit: NDArray[np.int32]
    true: NDArray[np.int32]
    highest: NDArray[np.float32]

    def dice(self) -> FloatArray:
        """``[N, K]``."""
        return overlap_ratio(2 * self.hit, self.found + self.true[:, None])

    def iou(self) -> FloatArray:
        """``[N, K]``."""
        return overlap_ratio(self.hit, self.found + self.true[:, None] - self.hit)


def overlap_ratio(shared: NDArray[np.int32], total: NDArray[np.int32]) -> FloatArray:
    """Quotient, and 1 where both are 0: nothing was to be found and nothing was."""
    return np.where(total > 0, shared / np.maximum(total, 1), 1.0)


def count_pixels(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> PixelCounts:
    """Of ``[B, S, S]`` probabilities: pixels above each of ``THRESHOLDS``, in all and inside the region."""
    levels = len(THRESHOLDS) + 1
    # A pixel of level k exceeds the first k thresholds.
    level = np.searchsorted(THRESHOLDS.astype(np.float32), probability.reshape(len(probability), -1))
    cell = level + levels * np.arange(len(level))[:, None]
    inside = truth.reshape(len(truth), -1)

    def above(cells: NDArray[np.int64]) -> NDArray[np.int32]:
        counts = np.bincount(cells.reshape(-1), minlength=levels * len(level)).reshape(-1, levels)
        return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1][:, 1:].astype(np.int32)

    return PixelCounts(
        above(cell), above(cell[inside]), inside.sum(axis=1).astype(np.int32), probability.max(axis=(1, 2))
    )


def measure(predictions: Predictions, protocol: Protocol, *, draws: int = 1000) -> list[Measurement]:
    """Dice and IoU per image, averaged over the test images with a region, and over all (``dice_all``).

    In the latter an image without a region scores 1 if nothing is found in it, else 0, as in the released
    code, so that the share of such images decides much of the value (audit F14). Each pair of metrics has the
    threshold with the highest mean Dice over the same kind of images of the split that the protocol names.
    """
    return [one.measured() for one in metric_draws(predictions, protocol, draws=draws)]


def metric_draws(predictions: Predictions, protocol: Protocol, *, draws: int) -> list[Draws]:
    """The metrics of ``measure`` with their bootstrap draws, paired over runs of one protocol."""
    frame, arrays = predictions.frame, predictions.arrays
    if len(frame) != len(arrays["found"]):
        raise DataError(
            "Pixel counts and table do not belong together.",
            where=protocol.id,
            found=f"{len(arrays['found'])} counts, {len(frame)} lines",
            remedy="delete both; they are predicted again",
        )
    counts = PixelCounts(arrays["found"], arrays["hit"], arrays["true"], frame["score"].to_numpy())
    dice, iou = counts.dice(), counts.iou()
    tuning = (frame["split"] == protocol.threshold_source).to_numpy()
    test = (frame["split"] == "test").to_numpy()
    everyone = resampling(frame["patient"].to_numpy()[test], protocol, draws)
    finding, source = protocol.findings[0].name, protocol.threshold_source
    found = []
    for suffix, used, rule in (
        ("", counts.true > 0, f"maximum mean Dice on {source}, images with a region"),
        ("_all", counts.true >= 0, f"maximum mean Dice on {source}, all images; {EMPTY_RULE}"),
    ):
        chosen, rule = _threshold(dice[tuning & used], rule)
        kept = used[test]
        count, positive = int(kept.sum()), int((counts.true[test] > 0).sum())
        for metric, values in (("dice", dice[test, chosen]), ("iou", iou[test, chosen])):
            (value,) = Resampling.none(count).means(values[kept])
            drawn = everyone[kept].means(values[kept])
            found.append(Draws(finding, metric + suffix, float(value), drawn, count, positive, rule))
        threshold = float(arrays["thresholds"][chosen])
        found.append(threshold_used(finding, threshold, draws, rule, count, positive))
    return found


def _threshold(tuning: FloatArray, rule: str) -> tuple[int, str]:
    """Index of the threshold that the Dice ``[N, K]`` of the tuning images speaks for, and the rule."""
    if not len(tuning):
        return int(np.argmin(np.abs(THRESHOLDS - 0.5))), f"fixed, there being none for: {rule}"
    return int(tuning.mean(axis=0).argmax()), rule
