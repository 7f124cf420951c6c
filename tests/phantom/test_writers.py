"""The phantom on disk: published formats to the letter, exact annotation, and the same bytes every time."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from replication.errors import ConfigError, DataError
from replication.phantom import writers
from replication.phantom.population import Prevalence
from replication.phantom.rendering import render
from replication.phantom.reports import write_report
from replication.phantom.scene import NIH_FINDINGS, FindingInstance
from replication.phantom.writers import (
    covidx_cxr4,
    mimic_cxr,
    nih_cxr14,
    rsna_pneumonia,
    siim_acr,
    write_phantom,
)
from replication.phantom.writers.dicom import pseudonym
from replication.phantom.writers.films import Order, unpack
from replication.phantom.writers.rle import encode_in_frame

SIZE, PATIENTS, SEED = 64, 40, 5

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A small phantom of a data set, written once."""
    root = tmp_path_factory.mktemp("raw")

    def written(dataset: str) -> Path:
        out = root / dataset
        if not out.exists():
            write_phantom(dataset, out, n_patients=PATIENTS, size=SIZE, seed=SEED, workers=1, progress=False)
        return out

    return written


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def truth(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "truth.parquet")


@pytest.mark.parametrize("dataset", ["mimic-cxr", "nih-cxr14", "rsna-pneumonia", "siim-acr", "covidx-cxr4"])
def test_same_bytes_again(dataset: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_phantom(dataset, tmp_path / name, n_patients=4, size=48, seed=SEED, workers=1, progress=False)
    write_phantom(
        dataset, tmp_path / "other", n_patients=4, size=48, seed=SEED + 1, workers=1, progress=False
    )
    first = digests(tmp_path / "first")
    assert first == digests(tmp_path / "second")
    assert first != digests(tmp_path / "other")
    assert not list(tmp_path.glob("*.partial"))


def test_workers_do_not_change_the_bytes(folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "parallel"
    write_phantom("siim-acr", out, n_patients=PATIENTS, size=SIZE, seed=SEED, workers=2, progress=False)
    assert digests(out) == digests(folder("siim-acr"))


@pytest.mark.parametrize("dataset", list(writers.WRITERS))
def test_summary_counts_what_is_there(folder: Folder, dataset: str) -> None:
    out = folder(dataset)
    summary = json.loads((out / "phantom.json").read_text())
    pictures = [
        p for p in out.rglob("*") if p.suffix in (".jpg", ".png", ".dcm") and "png_" not in p.parent.name
    ]
    assert summary["images"] == len(pictures)
    assert summary["patients"] == PATIENTS
    assert (summary["dataset"], summary["seed"], summary["image_size"]) == (dataset, SEED, SIZE)


@pytest.mark.parametrize("dataset", list(writers.WRITERS))
def test_truth_holds_the_exact_masks(folder: Folder, dataset: str) -> None:
    order = Order(dataset, Path(), PATIENTS, SIZE, SEED)
    module = sys.modules[writers.WRITERS[dataset].__module__]
    one_image, unseen = dataset in ("rsna-pneumonia", "siim-acr"), dataset == "covidx-cxr4"
    scenes = order.scenes(module.POPULATION, one_image=one_image, unseen=unseen)
    masks = render(scenes, SIZE, dataset, seed=order.own_seed).masks
    expected = [(i, mask) for k in range(len(scenes)) for i, mask in masks.instances(k)]
    table = truth(folder(dataset))
    assert len(table) == len(expected)
    for row, (instance, mask) in zip(table.itertuples(), expected, strict=True):
        assert (row.finding, row.side, row.zone) == (instance.finding, instance.side, instance.zone)
        assert np.array_equal(unpack(row.mask, SIZE), mask)
        boxes = np.array(json.loads(row.boxes)) * SIZE
        rows, columns = np.nonzero(mask)
        assert boxes[:, 0].min() == pytest.approx(columns.min(), abs=1e-3)
        assert boxes[:, 1].min() == pytest.approx(rows.min(), abs=1e-3)
        assert (boxes[:, 0] + boxes[:, 2]).max() == pytest.approx(columns.max() + 1, abs=1e-3)
        assert (boxes[:, 1] + boxes[:, 3]).max() == pytest.approx(rows.max() + 1, abs=1e-3)
        assert len(boxes) == 1 + (instance.side == "bilateral")


def test_no_patient_is_in_two_data_sets() -> None:
    ranges = [Order(dataset, Path(), 999_999, SIZE, SEED).first_patient for dataset in writers.WRITERS]
    assert np.diff(sorted(ranges)).min() >= 999_999
    assert len({Order(dataset, Path(), 1, SIZE, SEED).own_seed for dataset in writers.WRITERS}) == len(ranges)


@pytest.mark.parametrize(
    ("dataset", "population", "finding", "low", "high"),
    [
        ("rsna-pneumonia", rsna_pneumonia.POPULATION, "pneumonia", 0.22, 0.29),
        ("siim-acr", siim_acr.POPULATION, "pneumothorax", 0.21, 0.29),
        ("covidx-cxr4", covidx_cxr4.POPULATION, "covid", 0.40, 0.50),
    ],
)
def test_share_of_positives(
    dataset: str, population: Prevalence, finding: str, low: float, high: float
) -> None:
    order = Order(dataset, Path(), 2000, SIZE, SEED)
    scenes = order.scenes(population, one_image=finding != "covid", unseen=finding == "covid")
    assert low < np.mean([scene.has(finding) for scene in scenes]) < high
    assert finding == "covid" or len(scenes) == len({scene.patient for scene in scenes}) == 2000
    sick = [scene for scene in scenes if scene.findings and not scene.has(finding)]
    assert len(sick) > 0.2 * len(scenes)


class TestMimicCxr:
    def test_layout(self, folder: Folder) -> None:
        out = folder("mimic-cxr")
        splits = pd.read_csv(out / "mimic-cxr-2.0.0-split.csv.gz", dtype=str)
        assert splits.columns.tolist() == ["dicom_id", "study_id", "subject_id", "split"]
        for row in splits.itertuples():
            assert len(row.subject_id) == len(row.study_id) == 8
            study = out / f"files/p{row.subject_id[:2]}/p{row.subject_id}/s{row.study_id}"
            assert cv2.imread(str(study / f"{row.dicom_id}.jpg"), cv2.IMREAD_UNCHANGED).shape == (SIZE, SIZE)
            assert "FINDINGS:" in study.with_suffix(".txt").read_text()
        assert splits["dicom_id"].str.fullmatch(r"([0-9a-f]{8}-){4}[0-9a-f]{8}").all()
        assert splits["dicom_id"].is_unique
        assert splits["subject_id"].nunique() == PATIENTS
        assert splits["subject_id"].str[:2].nunique() > 5
        assert (splits.groupby("study_id")["subject_id"].nunique() == 1).all()

    def test_split_is_by_patient(self, folder: Folder) -> None:
        splits = pd.read_csv(folder("mimic-cxr") / "mimic-cxr-2.0.0-split.csv.gz")
        of_patients = splits.groupby("subject_id")["split"].agg(["nunique", "first"])
        assert (of_patients["nunique"] == 1).all()
        assert Counter(of_patients["first"]) == {"train": 26, "validate": 4, "test": 10}

    def test_tables(self, folder: Folder) -> None:
        out = folder("mimic-cxr")
        metadata = pd.read_csv(out / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
        assert metadata.columns.tolist() == [
            "dicom_id",
            "subject_id",
            "study_id",
            "PerformedProcedureStepDescription",
            "ViewPosition",
            "Rows",
            "Columns",
            "StudyDate",
            "StudyTime",
            "ProcedureCodeSequence_CodeMeaning",
            "ViewCodeSequence_CodeMeaning",
            "PatientOrientationCodeSequence_CodeMeaning",
        ]
        assert set(metadata["ViewPosition"]) == {"AP", "PA"}
        chexpert = pd.read_csv(out / "mimic-cxr-2.0.0-chexpert.csv.gz", dtype=str, keep_default_na=False)
        assert chexpert.columns.tolist() == ["subject_id", "study_id", *sorted(mimic_cxr.CHEXPERT)]
        assert set(np.unique(chexpert.to_numpy()[:, 2:].astype(str))) == {"", "0.0", "1.0", "-1.0"}
        stored = (out / "mimic-cxr-2.0.0-split.csv.gz").read_bytes()
        assert gzip.decompress(stored).startswith(b"dicom_id")
        assert stored[4:8] == b"\0\0\0\0"

    def test_every_report_has_its_document(self, folder: Folder) -> None:
        out = folder("mimic-cxr")
        documents = json.loads((out / "MIMIC-CXR_graphs.json").read_text())
        reports = {str(p.relative_to(out / "files")): p.read_text() for p in (out / "files").rglob("s*.txt")}
        assert set(documents) == set(reports)
        for key, document in documents.items():
            assert set(document) == {"text", "entities", "data_source", "data_split"}
            words = document["text"].replace(" ", "").replace("IMPRESSION:", "|IMPRESSION:")
            body = "".join(reports[key].split("FINDINGS:")[1].split())
            assert words == "FINDINGS:" + body.replace("IMPRESSION:", "|IMPRESSION:")

    def test_exact_labels_are_the_truth(self, folder: Folder) -> None:
        out = folder("mimic-cxr")
        labels = pd.read_csv(out / "phantom-labels.csv").set_index("study_id")
        assert labels.columns.tolist() == list(NIH_FINDINGS)
        study_of = pd.read_csv(out / "mimic-cxr-2.0.0-split.csv.gz").set_index("dicom_id")["study_id"]
        said = {(study_of[row.sample_id], row.finding) for row in truth(out).itertuples()}
        assert said == {(study, f) for study, row in labels.iterrows() for f in NIH_FINDINGS if row[f]}


class TestNihCxr14:
    def test_headers_are_the_published_ones(self, realdata: Path, folder: Folder) -> None:
        for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
            with (realdata / "nih_cxr14_64px" / name).open() as published:
                assert (folder("nih-cxr14") / name).read_text().splitlines()[
                    0
                ] == published.readline().rstrip("\n")

    def test_entries(self, folder: Folder) -> None:
        out = folder("nih-cxr14")
        rows = [line.split(",") for line in (out / "Data_Entry_2017_v2020.csv").read_text().splitlines()[1:]]
        found = truth(out).groupby("sample_id")["finding"].agg(set).to_dict()
        assert {len(row) for row in rows} == {11}
        seen: Counter[str] = Counter()
        for name, labels, follow_up, patient, age, sex, view, *_ in rows:
            assert name == f"{int(patient):08d}_{int(follow_up):03d}.png"
            assert int(follow_up) == seen[patient]
            seen[patient] += 1
            names = {label.lower() for label in labels.split("|")} - {"no finding"}
            assert names == found.get(name, set())
            assert 0 < int(age) < 100
            assert sex in ("F", "M")
            assert view in ("PA", "AP")
            assert cv2.imread(str(out / "images" / name), cv2.IMREAD_UNCHANGED).shape == (SIZE, SIZE)
        assert any("|" in row[1] for row in rows)
        assert any(row[1] == "No Finding" for row in rows)

    def test_names(self) -> None:
        assert nih_cxr14.finding_name("pleural_thickening") == "Pleural_Thickening"

    def test_boxes(self, folder: Folder) -> None:
        out = folder("nih-cxr14")
        rows = [line.split(",") for line in (out / "BBox_List_2017.csv").read_text().splitlines()[1:]]
        known = truth(out)
        expected = known[known["finding"].isin(nih_cxr14.BOX_NAMES)]["boxes"].map(json.loads)
        assert len(rows) == expected.map(len).sum()
        assert {row[1] for row in rows} == set(nih_cxr14.BOX_NAMES.values())
        assert "Infiltrate" in {row[1] for row in rows}
        for row in rows:
            x, y, width, height = map(float, row[2:6])
            assert row[6:] == ["", "", ""]
            assert min(x, y) >= 0
            assert min(width, height) > 0
            assert max(x + width, y + height) <= 1024

    def test_lists_split_by_patient(self, folder: Folder) -> None:
        out = folder("nih-cxr14")
        lists = {name: (out / f"{name}_list.txt").read_text().split() for name in ("train_val", "test")}
        patients = {name: {image[:8] for image in images} for name, images in lists.items()}
        assert not patients["train_val"] & patients["test"]
        assert len(patients["test"]) == round(PATIENTS * nih_cxr14.SPLITS["test"])
        assert sorted([*lists["train_val"], *lists["test"]]) == sorted(
            p.name for p in (out / "images").iterdir()
        )


class TestRsnaPneumonia:
    def test_labels(self, folder: Folder) -> None:
        out = folder("rsna-pneumonia")
        labels = pd.read_csv(out / "stage_2_train_labels.csv")
        assert labels.columns.tolist() == ["patientId", "x", "y", "width", "height", "Target"]
        assert labels["patientId"].nunique() == PATIENTS
        known = truth(out)
        positive = set(known[known["finding"] == "pneumonia"]["sample_id"])
        assert set(labels[labels["Target"] == 1]["patientId"]) == positive
        assert labels[labels["Target"] == 0][["x", "y", "width", "height"]].isna().all(axis=None)
        drawn = labels[labels["Target"] == 1]
        assert (drawn["x"] + drawn["width"]).max() <= 1024
        assert (drawn[["width", "height"]] > 0).all(axis=None)
        classes = pd.read_csv(out / "stage_2_detailed_class_info.csv")
        assert classes["patientId"].tolist() == labels["patientId"].tolist()
        assert set(classes[classes["patientId"].isin(positive)]["class"]) == {"Lung Opacity"}
        assert set(classes["class"]) == {"Lung Opacity", "Normal", "No Lung Opacity / Not Normal"}

    def test_dicom(self, folder: Folder) -> None:
        out = folder("rsna-pneumonia")
        order = Order("rsna-pneumonia", Path(), PATIENTS, SIZE, SEED)
        scenes = order.scenes(rsna_pneumonia.POPULATION, one_image=True)
        images = render(scenes, SIZE, "rsna-pneumonia", seed=order.own_seed).images
        kinds = set()
        for scene, image in zip(scenes, images, strict=True):
            name = pseudonym("patient", order.own_seed, scene.patient)
            data = pydicom.dcmread(out / "stage_2_train_images" / f"{name}.dcm")
            assert (data.PatientID, data.ViewPosition, data.Modality) == (name, scene.view, "CR")
            kinds.add(data.PhotometricInterpretation)
            shown = (
                data.pixel_array
                if data.PhotometricInterpretation == "MONOCHROME2"
                else 255 - data.pixel_array
            )
            assert np.array_equal(shown, image)
        assert kinds == {"MONOCHROME1", "MONOCHROME2"}


class TestSiimAcr:
    def test_both_forms_show_the_same(self, folder: Folder) -> None:
        out = folder("siim-acr")
        runs = pd.read_csv(out / "train-rle.csv", dtype=str)
        assert runs.columns.tolist() == ["ImageId", " EncodedPixels"]
        stages = {name: pd.read_csv(out / f"stage_1_{name}_images.csv") for name in ("train", "test")}
        assert len(stages["test"]) == round(PATIENTS * siim_acr.SPLITS["test"])
        table = pd.concat(stages.values())
        assert table.columns.tolist() == ["new_filename", "ImageId", "has_pneumo"]
        assert set(table["ImageId"]) == set(runs["ImageId"])
        assert table["has_pneumo"].sum() > 2
        for row in table.itertuples():
            stem, split, label, _ = row.new_filename.split("_")
            assert stem.isdigit()
            assert row.new_filename in set(stages[split]["new_filename"])
            assert int(label) == row.has_pneumo
            image = cv2.imread(str(out / "png_images" / row.new_filename), cv2.IMREAD_UNCHANGED)
            mask = cv2.imread(str(out / "png_masks" / row.new_filename), cv2.IMREAD_UNCHANGED)
            assert set(np.unique(mask)) == ({0, 255} if row.has_pneumo else {0})
            [path] = (out / "dicom-images-train").glob(f"*/*/{row.ImageId}.dcm")
            data = pydicom.dcmread(path)
            assert np.array_equal(data.pixel_array, image)
            assert path.parts[-3:-1] == (data.StudyInstanceUID, data.SeriesInstanceUID)
            encodings = runs[runs["ImageId"] == row.ImageId][" EncodedPixels"].tolist()
            if not row.has_pneumo:
                assert encodings == [" -1"]
                continue
            shown = truth(out).query(
                "sample_id == @row.ImageId and alias == @row.new_filename and finding == 'pneumothorax'"
            )
            masks = [unpack(packed, SIZE) for packed in shown["mask"]]
            assert encodings == [f" {encode_in_frame(part)}" for part in masks]
            assert np.array_equal(np.logical_or.reduce(masks), mask == 255)


class TestCovidxCxr4:
    def test_lists(self, folder: Folder) -> None:
        out = folder("covidx-cxr4")
        covid = set(truth(out).query("finding == 'covid'")["sample_id"])
        patients = {}
        for split in ("train", "val", "test"):
            lines = [line.split(" ") for line in (out / f"{split}.txt").read_text().splitlines()]
            assert {len(line) for line in lines} == {4}
            assert sorted(line[1] for line in lines) == sorted(p.name for p in (out / split).iterdir())
            for _, name, kind, source in lines:
                assert kind == ("positive" if name in covid else "negative")
                assert name.startswith(source)
            patients[split] = {(source, patient) for patient, _, _, source in lines}
        assert not patients["train"] & patients["val"]
        assert not patients["train"] & patients["test"]
        assert not patients["val"] & patients["test"]


def test_bad_orders_are_refused(tmp_path: Path) -> None:
    good = {"n_patients": 2, "size": 48, "seed": 1, "workers": 1, "progress": False}
    with pytest.raises(ConfigError, match="did you mean 'nih-cxr14'"):
        write_phantom("nih-cxr", tmp_path / "a", **good)
    with pytest.raises(ConfigError, match="patients"):
        write_phantom("nih-cxr14", tmp_path / "a", **{**good, "n_patients": 0})
    with pytest.raises(ConfigError, match="16 px"):
        write_phantom("nih-cxr14", tmp_path / "a", **{**good, "size": 16})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="exists already"):
        write_phantom("nih-cxr14", tmp_path / "b", **good)
    assert [p.name for p in tmp_path.rglob("*")] == ["b", "mine.txt"]


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(order: Order) -> None:
        (order.out / "half.png").write_bytes(b"")
        raise DataError("An image cannot be written.", found="No space left on device")

    monkeypatch.setitem(writers.WRITERS, "nih-cxr14", full)
    with pytest.raises(DataError, match="No space left"):
        write_phantom("nih-cxr14", tmp_path / "out", n_patients=2, size=48, seed=1, progress=False)
    assert not list(tmp_path.iterdir())


def test_chexpert_ranks_present_over_uncertain_over_absent() -> None:
    mass = FindingInstance("mass", "left", "upper", 0.6)
    rows = [
        mimic_cxr.chexpert_row(write_report([finding], [], np.random.default_rng(seed)))
        for finding in (mass, replace(mass, certainty="uncertain"))
        for seed in range(12)
    ]
    assert Counter(row["Lung Lesion"] for row in rows[:12])["1.0"] >= 11
    assert Counter(row["Lung Lesion"] for row in rows[12:])["-1.0"] >= 11
    assert not any(row["No Finding"] for row in rows if row["Lung Lesion"])
