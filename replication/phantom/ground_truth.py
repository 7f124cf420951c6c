"""What a written phantom shows where: exact masks of findings as stored, regions of anatomy drawn again.

The writers store the mask of every finding. Regions follow from the scene, and scenes from the seed that the
data set's ``phantom.json`` has on record, so they are made when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from replication.errors import DataError
from replication.phantom.camera import BoolArray
from replication.phantom.rendering import regions
from replication.phantom.scene import Scene
from replication.phantom.version import phantom_version
from replication.phantom.writers.films import Order, unpack
from replication.phantom.writers.mimic_cxr import POPULATION, dicom_id

_REMEDY = "generate the phantom again, with this version of the suite"


@dataclass(frozen=True)
class GroundTruth:
    """The truth about some images of a phantom ``mimic-cxr``.

    Attributes:
        size: pixels a side. seed: of the data set.
        scenes: by sample id. stored: rows of ``truth.parquet`` of these samples.
    """

    size: int
    seed: int
    scenes: dict[str, Scene]
    stored: dict[str, list[dict[str, Any]]]

    @classmethod
    def open(cls, raw: Path, samples: Collection[str]) -> GroundTruth:
        """Of some images of a written phantom.

        Raises:
            DataError: the folder holds no phantom of ``mimic-cxr`` of this version, or not these images; or
                the scenes that its seed gives are not those on record.
        """
        facts = _facts(raw)
        order = Order("mimic-cxr", raw, facts["patients"], facts["image_size"], facts["seed"])
        wanted = set(samples)
        drawn = ((dicom_id(scene.image, order.own_seed), scene) for scene in order.scenes(POPULATION))
        scenes = {sample: scene for sample, scene in drawn if sample in wanted}
        table = pd.read_parquet(raw / "truth.parquet", columns=["sample_id", "finding", "side", "mask"])
        stored: dict[str, list[dict[str, Any]]] = {sample: [] for sample in scenes}
        for line in table[table["sample_id"].isin(wanted)].to_dict("records"):
            stored.setdefault(line["sample_id"], []).append({str(key): value for key, value in line.items()})
        truth = cls(facts["image_size"], order.own_seed, scenes, stored)
        for sample in sorted(wanted):
            truth._check(sample, raw)
        return truth

    def findings(self, sample: str) -> dict[str, BoolArray]:
        """Mask ``[size, size]`` of each finding of an image; those of one finding are united."""
        united: dict[str, BoolArray] = {}
        for line in self.stored[sample]:
            mask = unpack(line["mask"], self.size)
            united[line["finding"]] = united.get(line["finding"], mask) | mask
        return united

    def regions(self, sample: str) -> dict[str, BoolArray]:
        """Mask ``[size, size]`` of each anatomy that has a place on a frontal film."""
        return regions(self.scenes[sample], self.size, seed=self.seed)

    def _check(self, sample: str, raw: Path) -> None:
        scene = self.scenes.get(sample)
        drawn = sorted((f.finding, f.side) for f in scene.findings) if scene else "no such image"
        known = sorted((line["finding"], line["side"]) for line in self.stored.get(sample, []))
        if drawn != known:
            raise DataError(
                "The phantom's seed does not give the image that is on record.",
                where=f"{raw / 'truth.parquet'}, {sample}",
                found=drawn,
                allowed=known,
                remedy=_REMEDY,
            )


def is_phantom(raw: Path) -> bool:
    """Whether a folder was written by the phantom."""
    return (raw / "phantom.json").is_file()


def _facts(raw: Path) -> dict[str, Any]:
    path = raw / "phantom.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("The folder holds no readable phantom.", where=path, found=error) from error
    expected = {"dataset": "mimic-cxr", "phantom_version": phantom_version}
    found = {key: facts.get(key) for key in expected}
    if found != expected:
        raise DataError("Another phantom.", where=path, found=found, allowed=expected, remedy=_REMEDY)
    return facts
