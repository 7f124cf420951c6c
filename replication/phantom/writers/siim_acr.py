"""SIIM-ACR Pneumothorax as the phantom writes it: the same films in the DICOM form and the PNG form.

One image a patient. The stage 1 test table holds 25 % of them (in the real one 1,372 of 12,047 images, 11 %):
a phantom is small, and a test needs its positives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.uid import UID

from replication.phantom.population import Prevalence
from replication.phantom.rendering import ACQUISITIONS
from replication.phantom.scene import FindingInstance
from replication.phantom.writers.dicom import pseudonym, uid, write_dicom
from replication.phantom.writers.films import Film, Mask, Order, unpack, write_films, write_picture
from replication.phantom.writers.rle import EMPTY, encode_in_frame

SPLITS = {"train": 0.75, "test": 0.25}
"""Shares of the patients in the two tables of the PNG form."""

_FINDING = "pneumothorax"
_UIDS = ("study", "series", "instance")
POPULATION = Prevalence(
    normal=0.38,
    second=0.25,
    syndromes={
        "pneumothorax": 0.39,
        "emphysema": 0.10,
        "effusion": 0.10,
        "collapse": 0.08,
        "pneumonia": 0.08,
        "infiltrates": 0.07,
        "lobar consolidation": 0.05,
        "heart failure": 0.08,
        "large heart": 0.05,
        "nodule": 0.05,
        "tumour": 0.04,
        "fibrosis": 0.05,
        "old pleurisy": 0.06,
    },
    ap=ACQUISITIONS["siim-acr"].ap,
)
"""A quarter of the patients are positive."""


def write(order: Order) -> list[Film]:
    """Write the data set; see ``write_phantom``."""
    scenes = order.scenes(POPULATION, one_image=True)
    split_of = order.splits(SPLITS)
    counts: Counter[str] = Counter()
    films = []
    for scene in scenes:
        rng = order.rng("patient", scene.patient)
        study, series, instance = (uid(kind, order.own_seed, scene.patient) for kind in _UIDS)
        split = split_of[scene.patient]
        name = f"{counts[split]}_{split}_{int(scene.has(_FINDING))}_.png"
        counts[split] += 1
        extra = {
            "series": series,
            "study": study,
            "split": split,
            "alias": name,
            "patient_id": pseudonym("patient", order.own_seed, scene.patient),
            "age": int(np.clip(rng.normal(48, 18), 2, 92)),
            "sex": "F" if rng.random() < 0.45 else "M",
        }
        films.append(Film(scene, instance, f"dicom-images-train/{study}/{series}/{instance}.dcm", extra))
    for folder in ("png_images", "png_masks"):
        (order.out / folder).mkdir()
    located = write_films(order, films, _store)
    runs = []
    for film, shown in zip(films, located, strict=True):
        masks = [unpack(f.mask, order.size) for f in shown if f.instance.finding == _FINDING]
        rows = [f" {encode_in_frame(mask)}" for mask in masks if mask.any()]
        runs += [(film.sample_id, row) for row in rows or [EMPTY]]
    _table(order.out / "train-rle.csv", runs, ["ImageId", " EncodedPixels"])
    for split in SPLITS:
        entries = [
            (film.extra["alias"], film.sample_id, int(film.scene.has(_FINDING)))
            for film in films
            if film.extra["split"] == split
        ]
        _table(order.out / f"stage_1_{split}_images.csv", entries, ["new_filename", "ImageId", "has_pneumo"])
    return films


def _table(path: Path, rows: Sequence[tuple[object, ...]], columns: Sequence[str]) -> None:
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False, lineterminator="\n")


def _store(
    out: Path, film: Film, image: NDArray[np.uint8], shown: Sequence[tuple[FindingInstance, Mask]]
) -> None:
    extra = film.extra
    write_dicom(
        out / film.file,
        image,
        patient_id=extra["patient_id"],
        study_uid=extra["study"],
        series_uid=extra["series"],
        sop_uid=UID(film.sample_id),
        view=film.scene.view,
        age=extra["age"],
        sex=extra["sex"],
    )
    write_picture(out / "png_images" / extra["alias"], image)
    mask = np.zeros(image.shape, np.uint8)
    for instance, area in shown:
        if instance.finding == _FINDING:
            mask[area] = 255
    write_picture(out / "png_masks" / extra["alias"], mask)
