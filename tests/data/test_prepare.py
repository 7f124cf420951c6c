from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from replication.data import cache, decoding, output_folder
from replication.data.batches import PreparedData
from replication.data.images import equalize_histogram, read_image, resize
from replication.data.manifest import NUMBER_COLUMNS, TEXT_COLUMNS
from replication.data.prepare import prepare
from replication.data.verify import verify
from replication.errors import ConfigError, DataError, UserError

from . import raw

SIZE = 24
Writer = Callable[[Path], Path]
WRITERS: dict[str, Writer] = {
    "mimic-cxr": raw.write_mimic,
    "nih-cxr14": raw.write_nih,
    "rsna-pneumonia": raw.write_rsna,
    "siim-acr": raw.write_siim_dicom,
    "covidx-cxr4": raw.write_covidx,
    "covid-chestxray": raw.write_covid_chestxray,
}


def run(dataset: str, source: Path, out: Path, **settings: object) -> PreparedData:
    settings = {"size": SIZE, "workers": 1, "progress": False, **settings}
    return PreparedData.open(prepare(dataset, source, out, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("dataset", WRITERS)
def test_every_format_is_prepared_and_verified(tmp_path: Path, dataset: str) -> None:
    source = WRITERS[dataset](tmp_path / "raw")
    data = run(dataset, source, tmp_path / "out" / dataset)
    assert set(data.manifest.columns) >= {*TEXT_COLUMNS, *NUMBER_COLUMNS}
    assert data.images.shape == (len(data.manifest), SIZE, SIZE)
    assert data.images.dtype == np.uint8
    assert isinstance(data.images, np.memmap)
    for row in (0, len(data.manifest) - 1):
        original = read_image(source / data.manifest["file"][row])
        assert np.array_equal(data.images[row], resize(original, SIZE))
        assert data.manifest[["width", "height"]].loc[row].tolist() == [40, 40]
    found = verify(tmp_path / "out" / dataset, progress=False)
    assert found["raw_files_checked"]
    assert sum(found["counts"].values()) == len(data.manifest)
    assert json.loads(json.dumps(found)) == found
    of_raw = verify(source, dataset=dataset, progress=False, workers=1)
    assert of_raw["positives"] == found["positives"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [dataset]


def test_masks_follow_their_images(tmp_path: Path) -> None:
    data = run("siim-acr", raw.write_siim_dicom(tmp_path / "raw"), tmp_path / "out", size=128)
    assert data.masks is not None
    rows = data.manifest["mask_row"]
    assert (rows >= 0).sum() == 4 == len(data.masks)
    assert ((rows >= 0) == (data.labels[:, 0] == 1)).all()
    first = data.manifest.index[data.manifest["sample_id"] == raw.siim_uid(0)][0]
    mask = data.masks[rows[first]]
    assert set(np.unique(mask)) == {0, 1}
    # The second encoding of the first image is its last column, the first the top of its first column.
    assert not mask[:, 1:-1].any()
    assert mask[:, 0].any()


def test_mask_images_and_run_lengths_agree(tmp_path: Path) -> None:
    data = run("siim-acr", raw.write_siim_png(tmp_path / "raw"), tmp_path / "out", size=40)
    assert data.masks is not None
    assert data.provenance["split"] == "stage-1"
    expected = np.zeros((40, 40), np.uint8)
    expected[5:15, 20:30] = 1
    assert all(np.array_equal(mask, expected) for mask in data.masks)


def test_reports_and_triplets_of_mimic(tmp_path: Path) -> None:
    data = run("mimic-cxr", raw.write_mimic(tmp_path / "raw"), tmp_path / "out")
    assert data.reports["50000003"].startswith("There is a small left pleural effusion.")
    assert data.triplets is not None
    assert data.triplets.dtype == np.int8
    assert data.manifest["triplet_row"].tolist() == [0, 1, 2, 3, 4, -1]
    assert data.provenance["without_triplets"] == 1


def test_empty_reports_are_counted(tmp_path: Path) -> None:
    source = raw.write_mimic(tmp_path / "raw")
    assert run("mimic-cxr", source, tmp_path / "out").provenance["empty_reports"] == 0
    (source / "files/p10/p10000001/s50000001.txt").write_text(" FINDINGS:\n\n IMPRESSION:\n")
    data = run("mimic-cxr", source, tmp_path / "out")
    assert data.provenance["empty_reports"] == 1
    assert data.reports["50000001"] == ""


def test_two_processes_prepare_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "PARALLEL_FROM", 0.0)
    source = raw.write_nih(tmp_path / "raw", patients=40)
    one = run("nih-cxr14", source, tmp_path / "one")
    two = run("nih-cxr14", source, tmp_path / "two", workers=2)
    assert one.fingerprint == two.fingerprint
    assert np.array_equal(one.images, two.images)


def test_a_second_run_recomputes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = raw.write_nih(tmp_path / "raw")
    first = run("nih-cxr14", source, tmp_path / "out").fingerprint
    monkeypatch.setattr("replication.data.prepare.decode_all", None)
    assert run("nih-cxr14", source, tmp_path / "out").fingerprint == first


@pytest.mark.parametrize("change", ["size", "split", "equalize", "table", "image"])
def test_a_changed_input_is_prepared_anew(tmp_path: Path, change: str) -> None:
    source = raw.write_nih(tmp_path / "raw")
    first = run("nih-cxr14", source, tmp_path / "out").fingerprint
    settings: dict[str, object] = {}
    if change == "table":
        raw.edit(source / "Data_Entry_2017_v2020.csv", "Effusion|Mass", "Effusion")
    elif change == "image":
        raw.write_picture(source / "images_001/images/00000000_000.png", raw.picture(99))
    else:
        settings = {change: {"size": 16, "split": "patient-seeded", "equalize": True}[change]}
    data = run("nih-cxr14", source, tmp_path / "out", **settings)
    assert data.fingerprint != first
    if change == "equalize":
        assert np.array_equal(data.images[0], resize(equalize_histogram(raw.picture(0)), SIZE))


def test_the_fingerprint_does_not_depend_on_the_place(tmp_path: Path) -> None:
    source = raw.write_rsna(tmp_path / "raw")
    first = run("rsna-pneumonia", source, tmp_path / "out").fingerprint
    moved = shutil.move(source, tmp_path / "elsewhere")
    assert run("rsna-pneumonia", Path(moved), tmp_path / "out2").fingerprint == first


class TestNothingIsLeftBehind:
    """Every failure names its cause, and neither the folder nor a part of it appears."""

    def refused(self, dataset: str, source: Path, *words: str, **settings: object) -> None:
        out = source.parent / "out" / dataset
        with pytest.raises(UserError) as error:
            run(dataset, source, out, **settings)
        message = str(error.value)
        for word in words:
            assert word in message
        assert not out.parent.exists() or not list(out.parent.iterdir())

    def test_truncated_image(self, tmp_path: Path) -> None:
        source = raw.write_nih(tmp_path / "raw")
        path = source / "images_002/images/00000007_001.png"
        path.write_bytes(path.read_bytes()[:300])
        self.refused("nih-cxr14", source, "cut short", "00000007_001.png", "row 17", "remedy")

    def test_truncated_image_in_another_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decoding, "PARALLEL_FROM", 0.0)
        source = raw.write_nih(tmp_path / "raw", patients=40)
        path = source / "images_002/images/00000039_001.png"
        path.write_bytes(path.read_bytes()[:300])
        self.refused("nih-cxr14", source, "cut short", "00000039_001.png", workers=2)

    def test_missing_image(self, tmp_path: Path) -> None:
        source = raw.write_covidx(tmp_path / "raw")
        (source / "val/val-0.png").unlink()
        self.refused("covidx-cxr4", source, "1 of 12", "val-0.png", "val.txt, row 1")

    def test_dicom_without_pixels(self, tmp_path: Path) -> None:
        source = raw.write_rsna(tmp_path / "raw")
        report = raw.dicom(raw.picture(1))
        del report.PixelData
        raw.write_dicom(source / "stage_2_train_images/patient-0009.dcm", report)
        self.refused("rsna-pneumonia", source, "holds no image", "patient-0009.dcm")

    def test_missing_column(self, tmp_path: Path) -> None:
        source = raw.write_siim_dicom(tmp_path / "raw")
        raw.edit(source / "train-rle.csv", " EncodedPixels", "Pixels")
        self.refused("siim-acr", source, "'EncodedPixels'", "train-rle.csv", "Pixels")

    def test_run_length_beyond_the_image(self, tmp_path: Path) -> None:
        source = raw.write_siim_dicom(tmp_path / "raw")
        raw.edit(source / "train-rle.csv", "10 20 1004 30", "1048570 20")
        self.refused("siim-acr", source, "leaves its image", "row 2", "1024 x 1024")

    def test_box_outside(self, tmp_path: Path) -> None:
        source = raw.write_nih(tmp_path / "raw")
        raw.edit(source / "BBox_List_2017.csv", "256.0,512.0", "956.0,512.0")
        self.refused("nih-cxr14", source, "outside its image", "BBox_List_2017.csv, row 2", "x=956")

    def test_unknown_label(self, tmp_path: Path) -> None:
        source = raw.write_nih(tmp_path / "raw")
        raw.edit(source / "Data_Entry_2017_v2020.csv", "Infiltration", "Infiltrated")
        self.refused("nih-cxr14", source, "not in the protocol", "row 8", "'Infiltrated'", "'Infiltration'")

    def test_patient_in_two_splits(self, tmp_path: Path) -> None:
        source = raw.write_mimic(tmp_path / "raw")
        raw.edit(source / "mimic-cxr-2.0.0-split.csv", "50000005,10000005", "50000005,10000000")
        folder = source / "files/p10/p10000000"
        shutil.copytree(source / "files/p10/p10000005", folder, dirs_exist_ok=True)
        self.refused("mimic-cxr", source, "two splits", "patient 10000000", "dicom-0-pa in train")

    def test_dangling_relation(self, tmp_path: Path) -> None:
        source = raw.write_mimic(tmp_path / "raw")
        raw.edit(source / "MIMIC-CXR_graphs.json", '["located_at", "2"]', '["located_at", "7"]')
        self.refused("mimic-cxr", source, "s50000000")

    def test_report_that_is_no_text(self, tmp_path: Path) -> None:
        source = raw.write_mimic(tmp_path / "raw")
        (source / "files/p10/p10000001/s50000001.txt").write_bytes(b"\xff\xfe\xff")
        self.refused("mimic-cxr", source, "UTF-8", "s50000001.txt")

    def test_empty_mask_of_a_positive_image(self, tmp_path: Path) -> None:
        source = raw.write_siim_png(tmp_path / "raw")
        raw.write_picture(source / "png_masks/4_train_1_.png", np.zeros((40, 40), np.uint8))
        self.refused("siim-acr", source, "empty although", "4_train_1_.png", "row 6")

    def test_too_little_space(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = raw.write_nih(tmp_path / "raw")
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(output_folder.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
        self.refused("nih-cxr14", source, "too full", "MiB", "remedy")

    def test_disk_that_fills_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = raw.write_nih(tmp_path / "raw")
        written = cache.ArrayWriter.append
        calls = []

        def fails_late(writer: cache.ArrayWriter, array: np.ndarray) -> None:
            calls.append(1)
            if len(calls) == 10:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written(writer, array)

        monkeypatch.setattr(cache.ArrayWriter, "append", fails_late)
        self.refused("nih-cxr14", source, "disk is full", "No space left", "not kept")

    def test_unknown_data_set(self, tmp_path: Path) -> None:
        (tmp_path / "raw").mkdir()
        self.refused("nih-cxr-14", tmp_path / "raw", "nih-cxr14")


def test_a_failure_keeps_what_was_prepared_before(tmp_path: Path) -> None:
    source = raw.write_nih(tmp_path / "raw")
    before = run("nih-cxr14", source, tmp_path / "out").fingerprint
    path = source / "images_001/images/00000000_000.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError):
        run("nih-cxr14", source, tmp_path / "out")
    assert PreparedData.open(tmp_path / "out").fingerprint == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]


def test_a_killed_run_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    source = raw.write_nih(tmp_path / "raw")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "images.npy").write_bytes(b"half")
    run("nih-cxr14", source, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    source = raw.write_nih(tmp_path / "raw")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="no prepared data set"):
        run("nih-cxr14", source, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").exists()


class TestVerify:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        source = raw.write_mimic(tmp_path / "raw")
        return prepare("mimic-cxr", source, tmp_path / "out", size=SIZE, workers=1, progress=False)

    def broken(self, folder: Path, *words: str) -> None:
        with pytest.raises(DataError) as error:
            verify(folder, progress=False)
        for word in words:
            assert word in str(error.value)

    def test_a_changed_image_file(self, folder: Path, tmp_path: Path) -> None:
        path = next((tmp_path / "raw").glob("files/p10/p10000002/*/*-pa.jpg"))
        path.write_bytes(path.read_bytes() + b" ")
        self.broken(folder, "changed since", path.name, "sha256")

    def test_a_changed_cache(self, folder: Path) -> None:
        images = np.load(folder / "images.npy")
        images[3, 5, 5] ^= 1
        np.save(folder / "images.npy", images)
        self.broken(folder, "changed since", "images.npy")

    @pytest.mark.parametrize(
        ("column", "value", "words"),
        [
            ("split", "test", ["changed since", "manifest.parquet"]),
            ("patient_id", "10000005", ["two splits", "10000005"]),
            ("split", "holdout", ["not allowed", "holdout"]),
            ("label:edema", 3, ["not allowed", "label:edema"]),
            ("boxes", '[["mass", 0.9, 0, 0.5, 0.1]]', ["outside its image"]),
            ("cache_row", 5, ["Cache rows"]),
        ],
    )
    def test_a_changed_manifest(self, folder: Path, column: str, value: object, words: list[str]) -> None:
        manifest = pd.read_parquet(folder / "manifest.parquet")
        manifest.loc[0, column] = value
        manifest.to_parquet(folder / "manifest.parquet", index=False)
        self.broken(folder, *words)

    def test_a_manifest_without_a_column(self, folder: Path) -> None:
        manifest = pd.read_parquet(folder / "manifest.parquet")
        manifest.drop(columns="view").to_parquet(folder / "manifest.parquet", index=False)
        self.broken(folder, "'view'")

    @pytest.mark.parametrize("name", ["images.npy", "triplets.npy", "manifest.parquet"])
    def test_a_missing_or_cut_file(self, folder: Path, name: str) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        self.broken(folder, name)
        (folder / name).unlink()
        self.broken(folder, name)

    def test_moved_raw_files(self, folder: Path, tmp_path: Path) -> None:
        shutil.move(tmp_path / "raw", tmp_path / "archive")
        assert not verify(folder, progress=False)["raw_files_checked"]
        assert verify(folder, source=tmp_path / "archive", progress=False)["raw_files_checked"]

    def test_raw_files_need_the_name_of_their_data_set(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no prepared data set"):
            verify(raw.write_rsna(tmp_path / "raw"))

    def test_identical_files_in_two_splits_are_counted(self, tmp_path: Path) -> None:
        source = raw.write_covidx(tmp_path / "raw")
        shutil.copy(source / "train/train-0.png", source / "test/test-0.png")
        found = verify(source, dataset="covidx-cxr4", progress=False, workers=1)
        assert found["duplicates_across_splits"] == 2


@pytest.mark.slow
def test_a_thousand_real_radiographs(realdata: Path, tmp_path: Path) -> None:
    data = run("nih-cxr14", realdata / "nih_cxr14_64px", tmp_path / "out", size=64)
    assert len(data.manifest) == 1000
    assert data.manifest["patient_id"].nunique() == 264
    assert data.provenance["split"] == "patient-seeded"
    assert set(data.manifest["split"]) == {"train", "val", "test"}
    assert data.manifest["boxes"].ne("[]").sum() == 9
    boxes = [box for row in range(1000) for box in data.boxes(row)]
    assert sorted({box.finding for box in boxes}) == ["atelectasis", "infiltration", "pneumonia"]
    # Lungs are darker than the middle of the chest.
    mean = data.images.mean(axis=0)
    assert mean[20:40, 28:36].mean() > mean[20:40, 14:24].mean() + 20
    assert "nih-cxr14/patient-seeded/v1" in verify(tmp_path / "out", progress=False)["protocols"]


def test_preparing_does_without_torch() -> None:
    """It would be half of the memory that preparation takes."""
    code = "import sys, replication.data.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
