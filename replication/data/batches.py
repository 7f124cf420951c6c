"""A prepared data set in memory-mapped form, and the batches that training and evaluation take from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from replication.data.augmentation import Share, augment, mirror_triplets
from replication.data.boxes import Box, boxes_from_json
from replication.data.manifest import LABEL, check_patients, label_names, load_manifest
from replication.data.reports import swap_sides
from replication.data.splits import SPLITS
from replication.errors import DataError
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES
from replication.method import Batch
from replication.protocol_config import Protocol
from replication.training_config import AugmentationConfig

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, per channel, for values in 0..1."""

_WITHOUT_LABELS = {"zero_shot_relations", "disentanglement", "disentanglement_patches", "retrieval"}
"""Tasks that read reports and their annotation, but no label column."""


def normalise(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Grey values 0..255, ``[B, S, S]`` -> ``[B, 3, S, S]`` float32 with the ImageNet mean and deviation."""
    grey = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    result = torch.empty((len(grey), 3, *grey.shape[1:]), dtype=torch.float32)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        torch.mul(grey, 1.0 / (255.0 * std), out=result[:, channel])
        result[:, channel] -= mean / std
    return result


@dataclass(frozen=True)
class PreparedData:
    """What ``prepare`` wrote. Rows are rows of the manifest throughout.

    Attributes:
        manifest: one row per image, see ``replication.data.manifest``.
        images: ``[N, S, S]`` uint8. masks: ``[M, S, S]`` of 0 and 1, row ``manifest.mask_row``; or ``None``.
        triplets: ``[n, 51, 75]`` int8, row ``manifest.triplet_row``; or ``None``.
        reports: findings and impression by study id; empty where the data set has none.
        labels: ``[N, L]`` int8, columns ``label_names``.
        provenance: the content of ``prepare.json``.
    """

    folder: Path
    manifest: pd.DataFrame
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    triplets: NDArray[np.int8] | None
    reports: Mapping[str, str]
    labels: NDArray[np.int8]
    provenance: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str, *, allow_leaks: bool = False) -> PreparedData:
        """Open a prepared folder; arrays stay on disk until they are read.

        Args:
            allow_leaks: open it although a patient is in two splits.

        Raises:
            DataError: a file is missing, unreadable, or of another size than the manifest says.
        """
        folder = Path(folder)
        manifest = load_manifest(folder / "manifest.parquet", leaks=True)
        provenance = read_provenance(folder)
        if not (allow_leaks or provenance.get("leaks")):
            check_patients(manifest, folder / "manifest.parquet")
        names = label_names(manifest)
        images = _array(folder / "images.npy", len(manifest))
        masks = _optional(folder / "masks.npy", int(manifest["mask_row"].max()) + 1)
        triplets = _optional(folder / "triplets.npy", int(manifest["triplet_row"].max()) + 1)
        return cls(
            folder,
            manifest,
            images,
            masks,
            triplets,
            _reports(folder / "reports.parquet"),
            manifest[[LABEL + name for name in names]].to_numpy(np.int8),
            provenance,
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """Findings of the columns of ``labels``."""
        return label_names(self.manifest)

    @property
    def name(self) -> str:
        """Of the data set."""
        return str(self.provenance["dataset"])

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return int(self.images.shape[-1])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, the arrays, the reports and how they were prepared."""
        return str(self.provenance["fingerprint"])

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of a split, ascending.

        Raises:
            DataError: no such split.
        """
        if split not in SPLITS:
            raise DataError("Unknown split.", where=self.folder, found=split, allowed=", ".join(SPLITS))
        return np.flatnonzero(self.manifest["split"].to_numpy() == split)

    def boxes(self, row: int) -> list[Box]:
        """Boxes of an image, in fractions of it."""
        return boxes_from_json(str(self.manifest["boxes"].iloc[row]))

    def batch(
        self,
        rows: NDArray[np.int64] | Sequence[int],
        *,
        augmentation: AugmentationConfig | None,
        seed: int,
        share: Share | None = None,
    ) -> Batch:
        """The images of some rows with all that is known of them.

        Args:
            rows: row numbers, in the order wanted.
            augmentation: ``None`` for evaluation: images are normalised, nothing else.
            seed: of all draws; equal arguments give equal batches.
            share: the rows are only a part of the batch that several processes share; their images and draws
                are those that they would have in all of it.
        """
        rows = np.asarray(rows, dtype=np.int64)
        share = share or Share(0, len(rows))
        pixels = np.ascontiguousarray(self.images[rows])
        triplets = self._triplets(rows)
        reports = [self.reports.get(self._studies[row], "") for row in rows]
        if augmentation is None:
            images = normalise(pixels)
        else:
            augmented = augment(pixels, augmentation, seed, share)
            images = normalise(augmented.images)
            if augmentation.hflip == "swap_labels" and augmented.flipped.any():
                flipped = augmented.flipped
                triplets[flipped] = mirror_triplets(triplets[flipped])
                reports = [swap_sides(t) if f else t for t, f in zip(reports, flipped, strict=True)]
        labels = torch.from_numpy(self.labels[rows])
        return Batch(images, reports, torch.from_numpy(triplets), labels, seed, *share)

    def check_protocol(self, protocol: Protocol) -> None:
        """Check that these are the data a protocol speaks of, before anything is scored on them.

        Raises:
            DataError: another data set, split rule or reading, a label that is not there, or other counts.
        """
        expected = {"dataset": protocol.dataset, "split": protocol.split, "equalize": protocol.equalize}
        for key, value in expected.items():
            if self.provenance[key] != value:
                raise DataError(
                    f"The prepared data do not follow protocol {protocol.id}: {key} differs.",
                    where=self.folder,
                    found=self.provenance[key],
                    allowed=value,
                    remedy="prepare the data again with the protocol's settings, or choose another protocol",
                )
        if not set(protocol.tasks) <= _WITHOUT_LABELS:
            for finding in protocol.findings:
                if finding.column not in self.label_names:
                    raise DataError(
                        f"Protocol {protocol.id} scores a label that the data do not have.",
                        where=self.folder,
                        found=finding.column,
                        allowed=", ".join(self.label_names),
                    )
        for split, count in (protocol.counts or {}).items():
            if len(self.rows(split)) != count:
                raise DataError(
                    f"The {split} split has not the number of images that protocol {protocol.id} states.",
                    where=self.folder,
                    found=len(self.rows(split)),
                    allowed=count,
                    remedy="use the complete data set, or a protocol without counts",
                )

    @cached_property
    def _studies(self) -> list[str]:
        return [str(study) for study in self.manifest["study_id"]]

    @cached_property
    def _triplet_rows(self) -> NDArray[np.int64]:
        return self.manifest["triplet_row"].to_numpy(np.int64)

    def _triplets(self, rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """``[B, 51, 75]``, -1 where a study has no annotation."""
        result = np.full((len(rows), len(ANATOMIES), len(PATHOLOGIES)), -1, np.int8)
        if self.triplets is not None:
            known = self._triplet_rows[rows]
            result[known >= 0] = self.triplets[known[known >= 0]]
        return result


def read_provenance(folder: Path) -> dict[str, Any]:
    """The content of ``prepare.json``.

    Raises:
        DataError: it is missing or unreadable.
    """
    path = folder / "prepare.json"
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            "There is no readable prepare.json.",
            where=path,
            found=error,
            remedy="run: replicate data prepare",
        ) from error
    return dict(provenance)


def _array(path: Path, count: int) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            "An array of the cache cannot be read.",
            where=path,
            found=error,
            remedy="prepare the data set again",
        ) from error
    if len(array) < count:
        raise DataError(
            "An array of the cache is shorter than the manifest says.",
            where=path,
            found=len(array),
            allowed=count,
            remedy="prepare the data set again",
        )
    return np.asanyarray(array)


def _optional(path: Path, count: int) -> NDArray[Any] | None:
    return _array(path, count) if count > 0 else None


def _reports(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    table = pd.read_parquet(path)
    return dict(zip(table["study_id"], table["report"], strict=True))
