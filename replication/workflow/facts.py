"""How large the data sets of a tier are: as prepared here, else as published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from pydantic import Field

from replication.config_files import CONFIGS, Strict, parse, read_yaml
from replication.workflow.plan import Workspace, split_rule

GIGABYTE = 10**9
_IMAGES_PER_PHANTOM_PATIENT = 2.5
"""More than the writers make in the mean."""


class DatasetFacts(Strict):
    """A published data set.

    Attributes:
        images: that its reader takes. counts: of them per split rule and split, where known.
        studies: with a report, 0 where the data set has none. masks: images with a mask file or run lengths.
        gigabytes: (10^9 bytes) to download; ``null`` where no figure is on record.
        how: the way to the files, in a sentence. source: of the figures.
    """

    images: int
    counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    studies: int = 0
    masks: int = 0
    gigabytes: float | None
    how: str
    source: str


@dataclass(frozen=True)
class Extent:
    """How large a data set of a tier is.

    Attributes:
        train: images of the training split; ``None`` where that is not known beforehand.
        origin: ``prepared``, ``published`` or ``phantom``.
    """

    images: int
    train: int | None
    masks: int
    studies: int
    origin: str


@cache
def published() -> dict[str, DatasetFacts]:
    """Facts by data set, from ``configs/datasets.yaml``."""
    path = CONFIGS / "datasets.yaml"
    return {name: parse(DatasetFacts, values, f"{path}, {name}") for name, values in read_yaml(path).items()}


def extent(workspace: Workspace, dataset: str) -> Extent | None:
    """The size of a data set of the tier; ``None`` where nothing is known of it."""
    record = workspace.prepared(dataset) / "prepare.json"
    if record.is_file():
        values = json.loads(record.read_text(encoding="utf-8"))
        return Extent(
            values["images"],
            values["counts"].get("train", 0),
            values.get("masks", 0),
            values["images"],
            "prepared",
        )
    phantom = workspace.tier.phantom
    if phantom is not None:
        images = int(_IMAGES_PER_PHANTOM_PATIENT * phantom.patients.get(dataset, 0))
        return Extent(images, None, images, images, "phantom")
    facts = published().get(dataset)
    if facts is None:
        return None
    rule = split_rule(workspace.tier, dataset)
    counts = facts.counts.get(rule or "official", {})
    return Extent(facts.images, counts.get("train"), facts.masks, facts.studies, "published")
