from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from replication.data.batches import PreparedData
from replication.data.leaks import COLUMNS, KINDS, check_leaks, record_folder, refuse_leaks
from replication.data.prepare import prepare
from replication.data.splits import seeded_splits
from replication.errors import DataError
from replication.phantom.writers import write_phantom
from replication.protocol_config import load_protocol

from . import raw

Grey = NDArray[np.uint8]
PATIENTS, SIZE = 60, 128


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw NIH and RSNA phantoms, and what was prepared from them."""
    root = tmp_path_factory.mktemp("leaks")
    for dataset in ("nih-cxr14", "rsna-pneumonia"):
        write_phantom(dataset, root / dataset, n_patients=PATIENTS, size=SIZE, seed=5, progress=False)
        prepared(root, dataset)
    return root


def prepared(root: Path, dataset: str, out: str = "") -> PreparedData:
    folder = root / f"{out or dataset}.prepared"
    prepare(dataset, root / (out or dataset), folder, size=SIZE, split="patient-seeded", progress=False)
    return PreparedData.open(folder)


def found(a: PreparedData, b: PreparedData | None = None) -> dict[tuple[str, str, str], int]:
    """How much leaks, by kind and pair of splits."""
    table = check_leaks(a, b, progress=False).leaks
    keys = zip(table["kind"], table["split_a"], table["split_b"], strict=True)
    return dict(zip(keys, table["shared"].tolist(), strict=True))


def images_of(data: PreparedData, split: str) -> list[str]:
    return data.manifest["file"].iloc[data.rows(split)].tolist()


def test_the_clean_phantom_leaks_nothing(clean: Path) -> None:
    nih = PreparedData.open(clean / "nih-cxr14.prepared")
    rsna = PreparedData.open(clean / "rsna-pneumonia.prepared")
    assert found(nih) == {}
    assert found(rsna) == {}
    assert found(nih, rsna) == {}


def test_the_table_says_what_was_compared(clean: Path) -> None:
    nih = PreparedData.open(clean / "nih-cxr14.prepared")
    table = check_leaks(nih, progress=False).table
    assert tuple(table.columns) == COLUMNS
    pairs = [("train", "val"), ("train", "test"), ("val", "test")]
    expected = {(kind, *pair) for kind in KINDS for pair in pairs}
    assert set(zip(table["kind"], table["split_a"], table["split_b"], strict=True)) == expected


def brighter(image: Grey) -> Grey:
    return np.clip(image.astype(float) * 1.1, 0, 255).astype(np.uint8)


def cropped(image: Grey) -> Grey:
    return cv2.resize(image[2:, 1:-1], image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def as_jpeg(image: Grey) -> Grey:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)


def planted(clean: Path, root: Path, alter: Callable[[Grey], Grey] | None, count: int = 6) -> PreparedData:
    """The NIH phantom in which test images of new patients are copies of training images."""
    source = root / "planted"
    shutil.copytree(clean / "nih-cxr14", source)
    data = PreparedData.open(clean / "nih-cxr14.prepared")
    table = pd.read_csv(source / "Data_Entry_2017_v2020.csv", dtype=str)
    new = [number for number in range(90000, 99999) if raw_split(str(number)) == "test"][:count]
    copies = table[table["Image Index"].isin([Path(f).name for f in images_of(data, "train")])]
    copies = copies.groupby("Patient ID").head(1).head(count).copy()
    names = [f"{number:08d}_000.png" for number in new]
    for old, name in zip(copies["Image Index"], names, strict=True):
        (path,) = source.rglob(old)
        if alter is None:
            shutil.copy(path, path.with_name(name))
        else:
            assert cv2.imwrite(str(path.with_name(name)), alter(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))
    copies["Image Index"], copies["Patient ID"] = names, [str(number) for number in new]
    pd.concat([table, copies]).to_csv(source / "Data_Entry_2017_v2020.csv", index=False)
    return prepared(root, "nih-cxr14", "planted")


def raw_split(patient: str) -> str:
    return seeded_splits([patient], {"train": 0.7, "val": 0.1, "test": 0.2})[0]


def test_a_copied_file_under_another_name_is_found(clean: Path, tmp_path: Path) -> None:
    leaks = found(planted(clean, tmp_path, None))
    assert leaks == {(kind, "train", "test"): 6 for kind in ("file", "pixels", "near-duplicate")}


def test_equal_pixels_in_another_container_are_found(clean: Path, tmp_path: Path) -> None:
    # OpenCV compresses and orders chunks otherwise than the phantom's writer.
    leaks = found(planted(clean, tmp_path, lambda image: image))
    assert leaks == {(kind, "train", "test"): 6 for kind in ("pixels", "near-duplicate")}


@pytest.mark.parametrize("alter", [brighter, cropped, as_jpeg, lambda image: as_jpeg(brighter(image))])
def test_slightly_altered_copies_are_found(
    clean: Path, tmp_path: Path, alter: Callable[[Grey], Grey]
) -> None:
    assert found(planted(clean, tmp_path, alter)) == {("near-duplicate", "train", "test"): 6}


def test_a_patient_in_two_splits_is_found(clean: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(clean / "nih-cxr14.prepared", folder)
    manifest = pd.read_parquet(folder / "manifest.parquet")
    several = manifest[manifest["split"] == "train"].groupby("patient_id").filter(lambda g: len(g) > 1)
    moved = several.groupby("patient_id").head(1).index[:3]
    manifest.loc[moved, "split"] = "test"
    manifest.to_parquet(folder / "manifest.parquet", index=False)
    with pytest.raises(DataError, match="in two splits"):
        PreparedData.open(folder)
    data = PreparedData.open(folder, allow_leaks=True)
    assert found(data)[("patient", "train", "test")] == 3
    with pytest.raises(DataError, match="3 by patient"):
        refuse_leaks(data, load_protocol("nih-cxr14/patient-seeded/v1"))


def copied_across(clean: Path, root: Path) -> PreparedData:
    """RSNA's DICOM files from NIH's PNG files, some under NIH's names; and one that both have in test."""
    nih = PreparedData.open(clean / "nih-cxr14.prepared")
    source = root / "rsna"
    shutil.copytree(clean / "rsna-pneumonia", source)
    rsna = PreparedData.open(clean / "rsna-pneumonia.prepared")
    ours, theirs = images_of(nih, "train")[:8:2], images_of(rsna, "test")[:4]
    for mine, other in zip(ours, theirs, strict=True):
        pixels = cv2.imread(str(clean / "nih-cxr14" / mine), cv2.IMREAD_GRAYSCALE)
        raw.write_dicom(source / other, raw.dicom(pixels, ViewPosition="PA"))
    pixels = cv2.imread(str(clean / "nih-cxr14" / images_of(nih, "test")[0]), cv2.IMREAD_GRAYSCALE)
    raw.write_dicom(source / images_of(rsna, "test")[5], raw.dicom(pixels))
    return prepared(root, "rsna-pneumonia", "rsna")


def test_leaks_across_data_sets(clean: Path, tmp_path: Path) -> None:
    nih, copied = PreparedData.open(clean / "nih-cxr14.prepared"), copied_across(clean, tmp_path)
    assert found(nih, copied) == {(kind, "train", "test"): 4 for kind in ("pixels", "near-duplicate")}
    check = check_leaks(nih, copied, progress=False)
    same = check.table.query("split_a == 'test' and split_b == 'test' and kind == 'pixels'").iloc[0]
    assert same["shared"] == 1 and not same["leak"]
    check.write(tmp_path / "tables")
    assert list((tmp_path / "tables").glob("*.csv"))
    protocol = load_protocol("rsna-pneumonia/patient-seeded/v1")
    refuse_leaks(copied, protocol)
    refuse_leaks(copied, protocol, pretrained_on="mimic-cxr")
    with pytest.raises(DataError, match="4 by pixels"):
        refuse_leaks(copied, protocol, pretrained_on="nih-cxr14")
    refuse_leaks(copied, protocol, pretrained_on="nih-cxr14", allow=True)


def test_a_recorded_near_duplicate_stops_scoring(clean: Path, tmp_path: Path) -> None:
    data = planted(clean, tmp_path, brighter)
    protocol = load_protocol("nih-cxr14/patient-seeded/v1")
    refuse_leaks(data, protocol)
    check_leaks(data, progress=False).write()
    with pytest.raises(DataError, match="6 by near-duplicate"):
        refuse_leaks(data, protocol)
    refuse_leaks(data, protocol, allow=True)
    (record,) = record_folder(data.folder).glob("*.json")
    values = json.loads(record.read_text())
    values["a"]["fingerprint"] = values["b"]["fingerprint"] = "of other data"
    record.write_text(json.dumps(values))
    refuse_leaks(data, protocol)


def test_the_command_tells_leaks_by_its_exit_status(clean: Path, tmp_path: Path) -> None:
    planted(clean, tmp_path, None)
    sound, leaking = clean / "nih-cxr14.prepared", tmp_path / "nih-cxr14.prepared"
    shutil.move(tmp_path / "planted.prepared", leaking)
    for folder, status, words in ((sound, 0, "no leak: "), (leaking, 1, "LEAKS: ")):
        command = [sys.executable, "-m", "replication.cli", "data", "leaks", str(folder)]
        done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        *_, last = done.stdout.splitlines()
        assert last.startswith(words)
        assert tuple(pd.read_csv(last.removeprefix(words)).columns) == COLUMNS
        assert ("near-duplicate" in done.stdout) == bool(status)


TIER = """
name: own
description: two data sets, one of which is learned from
image_size: 128
pretrain: nih-cxr14
trunk: {architecture: resnet18, width: 4, last_stage: 3, weights: random}
recipe: matched
methods: [supervised]
protocols: [nih-cxr14/patient-seeded/v1, rsna-pneumonia/patient-seeded/v1]
notebooks: []
"""


def test_a_tier_has_a_table_for_each_of_its_protocols(clean: Path, tmp_path: Path) -> None:
    copied_across(clean, tmp_path)
    (tmp_path / "own.yaml").write_text(TIER)
    for folder, dataset in (
        (clean / "nih-cxr14.prepared", "nih-cxr14"),
        (tmp_path / "rsna.prepared", "rsna-pneumonia"),
    ):
        shutil.copytree(folder, tmp_path / "work" / "own" / "prepared" / dataset)

    def leaks(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "replication.cli", "data", "leaks", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    tables = tmp_path / "results" / "own" / "leaks"
    sound = leaks("--tier", "own.yaml", "--protocol", "nih-cxr14/patient-seeded/v1")
    assert sound.returncode == 0, sound.stderr
    assert [path.name for path in tables.iterdir()] == ["nih-cxr14--patient-seeded--v1.csv"]
    both = leaks("--tier", "own.yaml")
    assert both.returncode == 1, both.stderr
    first, second = (pd.read_csv(path) for path in sorted(tables.iterdir()))
    assert not first["leak"].any()
    assert set(zip(second["set_a"], second["set_b"], strict=True)) == {
        ("rsna-pneumonia.patient-seeded", "rsna-pneumonia.patient-seeded"),
        ("rsna-pneumonia.patient-seeded", "nih-cxr14.patient-seeded"),
    }
    found = second[second["leak"]]
    assert set(zip(found["kind"], found["split_a"], found["split_b"], found["shared"], strict=True)) == {
        ("pixels", "test", "train", 4),
        ("near-duplicate", "test", "train", 4),
    }
    with pytest.raises(DataError, match="4 by pixels"):
        refuse_leaks(
            PreparedData.open(tmp_path / "work" / "own" / "prepared" / "rsna-pneumonia"),
            load_protocol("rsna-pneumonia/patient-seeded/v1"),
            pretrained_on="nih-cxr14",
        )
    for wrong in (
        ["--tier", "own.yaml", "--protocol", "siim-acr/stage-1/v1"],
        [],
        ["--tier", "own.yaml", "here"],
        ["here", "--protocol", "nih-cxr14/patient-seeded/v1"],
        ["--tier", "own.yaml", "--out", "here"],
    ):
        refused = leaks(*wrong)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused.stderr


def test_a_protocol_that_says_so_is_refused(clean: Path) -> None:
    data = PreparedData.open(clean / "nih-cxr14.prepared")
    protocol = load_protocol("nih-cxr14/patient-seeded/v1").model_copy(update={"leaks": True})
    with pytest.raises(DataError, match="--allow-leaks"):
        refuse_leaks(data, protocol)
    refuse_leaks(data, protocol, allow=True)
