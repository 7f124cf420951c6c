"""NIH ChestX-ray14 as the phantom writes it: PNG, the entry table, boxes, the two official lists.

The real box list covers 880 images and 8 findings; here it covers the same 8 findings on every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replication.phantom.population import Prevalence
from replication.phantom.rendering import ACQUISITIONS
from replication.phantom.scene import NIH_FINDINGS, FindingInstance, Scene
from replication.phantom.writers.films import Film, Located, Mask, Order, in_frame, write_films, write_picture

POPULATION = Prevalence(ap=ACQUISITIONS["nih-cxr14"].ap)
"""The phantom's general population."""

SPLITS = {"train_val": 0.70, "test": 0.30}
"""Shares of the patients on the two official lists."""

ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],Unnamed: 6,Unnamed: 7,Unnamed: 8"
"""The published headers. Their commas inside brackets are unquoted; three columns of the boxes are empty."""

BOX_NAMES: dict[str, str] = {
    "atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "effusion": "Effusion",
    "infiltration": "Infiltrate",
    "mass": "Mass",
    "nodule": "Nodule",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
}
"""The findings of the box list, as it names them."""

_DETECTORS = (
    (2500, 2048, "0.168"),
    (2992, 2991, "0.14300000000000002"),
    (2048, 2500, "0.171"),
    (3056, 2544, "0.139"),
)


def finding_name(finding: str) -> str:
    """``pleural_thickening`` -> ``Pleural_Thickening``."""
    return "_".join(part.capitalize() for part in finding.split("_"))


def write(order: Order) -> list[Film]:
    """Write the data set; see ``write_phantom``."""
    scenes = order.scenes(POPULATION)
    follow_ups: Counter[int] = Counter()
    films = []
    for scene in scenes:
        patient = scene.patient - order.first_patient + 1
        number = follow_ups[patient]
        follow_ups[patient] += 1
        name = f"{patient:08d}_{number:03d}.png"
        films.append(Film(scene, name, f"images/{name}", {"patient": patient, "follow_up": number}))
    located = write_films(order, films, _store)
    _lines(order.out / "Data_Entry_2017_v2020.csv", [ENTRY_HEADER, *(_entry(film, order) for film in films)])
    _lines(order.out / "BBox_List_2017.csv", [BOX_HEADER, *_boxes(films, located)])
    split_of = order.splits(SPLITS)
    for split in SPLITS:
        names = [film.sample_id for film in films if split_of[film.scene.patient] == split]
        _lines(order.out / f"{split}_list.txt", names)
    return films


def _store(
    out: Path, film: Film, image: NDArray[np.uint8], shown: Sequence[tuple[FindingInstance, Mask]]
) -> None:
    write_picture(out / film.file, image)


def _labels(scene: Scene) -> str:
    found = [finding_name(finding) for finding in NIH_FINDINGS if scene.has(finding)]
    return "|".join(sorted(found)) or "No Finding"


def _entry(film: Film, order: Order) -> str:
    rng = order.rng("patient", film.scene.patient)
    age, gender = int(np.clip(rng.normal(52, 17), 3, 94)), "F" if rng.random() < 0.45 else "M"
    width, height, spacing = _DETECTORS[int(rng.integers(len(_DETECTORS)))]
    number = film.extra["follow_up"]
    cells = (film.sample_id, _labels(film.scene), number, film.extra["patient"], age + number // 2, gender)
    return ",".join(map(str, (*cells, film.scene.view, width, height, spacing, spacing)))


def _boxes(films: Sequence[Film], located: Sequence[Sequence[Located]]) -> list[str]:
    rows = []
    for film, shown in zip(films, located, strict=True):
        for found in shown:
            name = BOX_NAMES.get(found.instance.finding)
            if name:
                rows += [
                    ",".join(
                        (film.sample_id, name, *(f"{value:.10g}" for value in in_frame(box)), "", "", "")
                    )
                    for box in found.boxes
                ]
    return rows


def _lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
