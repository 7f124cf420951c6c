"""MIMIC-CXR-JPG with reports and RadGraph, as the phantom writes it.

``phantom-labels.csv`` (what every study's images show, exactly) has no counterpart in the real data set: it
feeds the supervised upper bound.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.phantom.population import Prevalence
from replication.phantom.rendering import ACQUISITIONS
from replication.phantom.reports import Report, write_report
from replication.phantom.scene import NIH_FINDINGS, FindingInstance, Scene
from replication.phantom.writers.films import Film, Mask, Order, write_films, write_picture

POPULATION = Prevalence(ap=ACQUISITIONS["mimic-cxr"].ap)
"""The phantom's general population."""

SPLITS = {"train": 0.66, "validate": 0.09, "test": 0.25}
"""Shares of the patients; the test share is larger than the real one, so relations occur often enough."""

CHEXPERT: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("atelectasis", "collapse"),
    "Cardiomegaly": ("cardiomegaly", "enlarge"),
    "Consolidation": ("consolidation",),
    "Edema": ("edema", "congestion"),
    "Enlarged Cardiomediastinum": ("widen",),
    "Fracture": ("fracture",),
    "Lung Lesion": ("mass", "nodule"),
    "Lung Opacity": ("opacity", "infiltrate"),
    "No Finding": (),
    "Pleural Effusion": ("effusion",),
    "Pleural Other": ("thicken",),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax",),
    "Support Devices": ("tube", "line", "catheter", "picc", "pacemaker", "device", "lead", "wire", "clip"),
}
"""Columns of the CheXpert table, and the pathologies of the reports that they sum up."""

_GRAPHS = "MIMIC-CXR_graphs.json"
# A prime just below the width of the number range, and a step that spreads neighbours over it.
_RANGE, _STEP = 9_999_991, 6_180_339


def subject_number(patient: int, seed: int) -> int:
    """Eight digits, 10000000 or more; patients spread over the groups p10 to p19."""
    return 10_000_000 + (patient * _STEP + seed) % _RANGE


def study_number(study: int, seed: int) -> int:
    """Eight digits, 50000000 or more."""
    return 50_000_000 + (study * _STEP + seed) % _RANGE


def dicom_id(image: int, seed: int) -> str:
    """Five groups of eight hexadecimal digits."""
    digits = hashlib.sha256(f"{seed}:{image}".encode()).hexdigest()
    return "-".join(digits[k : k + 8] for k in range(0, 40, 8))


def write(order: Order) -> list[Film]:
    """Write the data set; see ``write_phantom``."""
    scenes = order.scenes(POPULATION)
    films = [_film(scene, order.own_seed) for scene in scenes]
    write_films(order, films, _store)
    studies = {film.extra["study_id"]: film for film in reversed(films)}
    reports = {
        study: write_report(film.scene.findings, film.scene.devices, order.rng("report", film.scene.study))
        for study, film in sorted(studies.items())
    }
    _write_reports(order.out, studies, reports)
    _write_tables(order, films, studies, reports)
    return films


def _film(scene: Scene, seed: int) -> Film:
    subject, study = subject_number(scene.patient, seed), study_number(scene.study, seed)
    name = dicom_id(scene.image, seed)
    folder = f"files/p{str(subject)[:2]}/p{subject}/s{study}"
    numbers = {"subject_id": subject, "study_id": study, "folder": folder}
    return Film(scene, name, f"{folder}/{name}.jpg", numbers)


def _store(
    out: Path, film: Film, image: NDArray[np.uint8], shown: Sequence[tuple[FindingInstance, Mask]]
) -> None:
    write_picture(out / film.file, image)


def _write_reports(out: Path, studies: dict[int, Film], reports: dict[int, Report]) -> None:
    documents = {}
    for study, report in reports.items():
        folder = studies[study].extra["folder"]
        (out / f"{folder}.txt").write_text(
            _letterhead(studies[study].scene) + report.text, encoding="utf-8", newline="\n"
        )
        documents[f"{folder.removeprefix('files/')}.txt"] = report.document
    (out / _GRAPHS).write_text(json.dumps(documents), encoding="utf-8")


def _letterhead(scene: Scene) -> str:
    examination = "CHEST (PORTABLE AP)" if scene.view == "AP" else "CHEST (PA)"
    title = "FINAL REPORT".rjust(45)
    return f"{title}\n EXAMINATION:  {examination}\n \n INDICATION:  ___ // Please evaluate.\n \n"


def _write_tables(
    order: Order, films: Sequence[Film], studies: dict[int, Film], reports: dict[int, Report]
) -> None:
    split_of = order.splits(SPLITS)
    splits, metadata = [], []
    for film in films:
        scene, rng = film.scene, order.rng("study", film.scene.study)
        ids = {key: film.extra[key] for key in ("subject_id", "study_id")}
        splits.append({"dicom_id": film.sample_id, **ids, "split": split_of[scene.patient]})
        portable = scene.view == "AP"
        procedure = "CHEST (PORTABLE AP)" if portable else "CHEST (PA AND LAT)"
        metadata.append(
            {
                "dicom_id": film.sample_id,
                **ids,
                "PerformedProcedureStepDescription": procedure,
                "ViewPosition": scene.view,
                "Rows": order.size,
                "Columns": order.size,
                # Dates are shifted into the future, as de-identification shifts the real ones.
                "StudyDate": "{}{:02d}{:02d}".format(*rng.integers((2110, 1, 1), (2200, 13, 29))),
                "StudyTime": "{:02d}{:02d}{:02d}.{:03d}".format(*rng.integers(0, (24, 60, 60, 1000))),
                "ProcedureCodeSequence_CodeMeaning": procedure,
                "ViewCodeSequence_CodeMeaning": "antero-posterior" if portable else "postero-anterior",
                "PatientOrientationCodeSequence_CodeMeaning": "" if portable else "Erect",
            }
        )
    chexpert, exact = [], []
    for study, report in reports.items():
        scene = studies[study].scene
        chexpert.append(
            {"subject_id": studies[study].extra["subject_id"], "study_id": study, **chexpert_row(report)}
        )
        exact.append({"study_id": study, **{finding: int(scene.has(finding)) for finding in NIH_FINDINGS}})
    order_of_columns = ["dicom_id", "study_id", "subject_id", "split"]
    _gzipped(pd.DataFrame(splits)[order_of_columns], order.out / "mimic-cxr-2.0.0-split.csv.gz")
    _gzipped(pd.DataFrame(metadata), order.out / "mimic-cxr-2.0.0-metadata.csv.gz")
    _gzipped(pd.DataFrame(chexpert), order.out / "mimic-cxr-2.0.0-chexpert.csv.gz")
    pd.DataFrame(exact).to_csv(order.out / "phantom-labels.csv", index=False, lineterminator="\n")


def chexpert_row(report: Report) -> dict[str, str]:
    """A labeller's reading of a report: 1.0 present, 0.0 absent, -1.0 uncertain, blank not mentioned."""
    said: dict[str, set[str]] = {}
    for statement in report.statements:
        said.setdefault(statement.pathology, set()).add(statement.polarity)
    values = {}
    for column, pathologies in CHEXPERT.items():
        polarities = set().union(*(said.get(pathology, set()) for pathology in pathologies))
        ranked = (("present", "1.0"), ("uncertain", "-1.0"), ("absent", "0.0"))
        values[column] = next((value for polarity, value in ranked if polarity in polarities), "")
    others = [value for column, value in values.items() if column != "Support Devices"]
    values["No Finding"] = "" if {"1.0", "-1.0"} & set(others) else "1.0"
    return values


def _gzipped(table: pd.DataFrame, path: Path) -> None:
    buffer = io.BytesIO()
    # No name and no time in the header: equal tables give equal bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as stream:
        stream.write(table.to_csv(index=False, lineterminator="\n").encode())
    path.write_bytes(buffer.getvalue())
