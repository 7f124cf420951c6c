"""RSNA Pneumonia Detection Challenge (stage 2) as the phantom writes it: one DICOM image a patient.

A quarter of the patients have pneumonia; most of the others are ill in ways that look like it (consolidation,
infiltrates, collapse, oedema, effusion) and are negative, as in the challenge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.phantom.population import Prevalence
from replication.phantom.rendering import ACQUISITIONS
from replication.phantom.scene import FindingInstance, Scene
from replication.phantom.writers.dicom import pseudonym, uid, write_dicom
from replication.phantom.writers.films import Film, Mask, Order, in_frame, write_films

INVERTED = 0.08
"""Share of the files that store a negative (``MONOCHROME1``)."""

POPULATION = Prevalence(
    normal=0.36,
    second=0.25,
    syndromes={
        "pneumonia": 0.42,
        "lobar consolidation": 0.12,
        "infiltrates": 0.14,
        "collapse": 0.10,
        "heart failure": 0.10,
        "overload": 0.05,
        "effusion": 0.06,
        "tumour": 0.05,
        "nodule": 0.04,
        "emphysema": 0.05,
        "fibrosis": 0.05,
        "pneumothorax": 0.03,
        "old pleurisy": 0.03,
    },
    ap=ACQUISITIONS["rsna-pneumonia"].ap,
)
"""A quarter of the patients are positive."""


def write(order: Order) -> list[Film]:
    """Write the data set; see ``write_phantom``."""
    scenes = order.scenes(POPULATION, one_image=True)
    films = []
    for scene in scenes:
        rng = order.rng("patient", scene.patient)
        patient = pseudonym("patient", order.own_seed, scene.patient)
        extra = {
            "age": int(np.clip(rng.normal(47, 17), 2, 92)),
            "sex": "F" if rng.random() < 0.43 else "M",
            "inverted": bool(rng.random() < INVERTED),
        }
        films.append(Film(scene, patient, f"stage_2_train_images/{patient}.dcm", extra))
    located = write_films(order, films, _store)
    labels, classes = [], []
    for film, shown in zip(films, located, strict=True):
        drawn = [box for found in shown if found.instance.finding == "pneumonia" for box in found.boxes]
        name = _class(film.scene, positive=bool(drawn))
        rows: list[tuple[object, ...]] = [(*in_frame(box), 1) for box in drawn] or [("", "", "", "", 0)]
        labels += [(film.sample_id, *row) for row in rows]
        classes += [(film.sample_id, name)] * len(rows)
    columns = ["patientId", "x", "y", "width", "height", "Target"]
    for table, names, file in (
        (labels, columns, "stage_2_train_labels.csv"),
        (classes, ["patientId", "class"], "stage_2_detailed_class_info.csv"),
    ):
        pd.DataFrame(table, columns=names).to_csv(order.out / file, index=False, lineterminator="\n")
    return films


def _class(scene: Scene, *, positive: bool) -> str:
    if positive:
        return "Lung Opacity"
    return "No Lung Opacity / Not Normal" if scene.findings else "Normal"


def _store(
    out: Path, film: Film, image: NDArray[np.uint8], shown: Sequence[tuple[FindingInstance, Mask]]
) -> None:
    write_dicom(
        out / film.file,
        image,
        patient_id=film.sample_id,
        study_uid=uid("study", film.sample_id),
        series_uid=uid("series", film.sample_id),
        sop_uid=uid("instance", film.sample_id),
        view=film.scene.view,
        **film.extra,
    )
