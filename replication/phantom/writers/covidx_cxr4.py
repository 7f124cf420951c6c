"""COVIDx CXR-4 as the phantom writes it: PNG folders and three header-less lists.

Positive is the finding that no pre-training report speaks of; the others are healthy or have another
pneumonia.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replication.phantom.population import Prevalence
from replication.phantom.rendering import ACQUISITIONS
from replication.phantom.scene import UNSEEN_FINDING, FindingInstance
from replication.phantom.writers.films import Film, Mask, Order, write_films, write_picture

POPULATION = Prevalence(
    normal=0.5,
    second=0.1,
    syndromes={"pneumonia": 0.6, "infiltrates": 0.2, "lobar consolidation": 0.2},
    unseen=0.45,
    ap=ACQUISITIONS["covidx-cxr4"].ap,
)
"""Just under a half of the patients are positive."""

SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Shares of the patients, as 67,863, 8,473 and 8,482 of 84,818 images in the real lists."""

SOURCES = ("bimcv", "ricord", "stonybrook", "rsna", "cohen", "sirm")


def write(order: Order) -> list[Film]:
    """Write the data set; see ``write_phantom``."""
    split_of = order.splits(SPLITS)
    films = []
    lists = dict.fromkeys(SPLITS, "")
    for number, scene in enumerate(order.scenes(POPULATION, unseen=True)):
        split = split_of[scene.patient]
        # Sources are drawn without regard to the class: a source must not give the class away.
        source = SOURCES[int(order.rng("patient", scene.patient).integers(len(SOURCES)))]
        patient = scene.patient - order.first_patient + 1
        name = f"{source}-{patient:06d}-{number:06d}.png"
        films.append(Film(scene, name, f"{split}/{name}"))
        kind = "positive" if scene.has(UNSEEN_FINDING) else "negative"
        lists[split] += f"{patient} {name} {kind} {source}\n"
    write_films(order, films, _store)
    for split, text in lists.items():
        (order.out / split).mkdir(exist_ok=True)
        (order.out / f"{split}.txt").write_text(text, encoding="utf-8", newline="\n")
    return films


def _store(
    out: Path, film: Film, image: NDArray[np.uint8], shown: Sequence[tuple[FindingInstance, Mask]]
) -> None:
    write_picture(out / film.file, image)
