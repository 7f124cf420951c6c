from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from replication.data import decoding
from replication.data.batches import PreparedData
from replication.data.cache import ImageCache
from replication.data.images import read_image, resize
from replication.data.prepare import prepare
from replication.data.verify import verify
from replication.errors import ConfigError, DataError
from replication.protocol_config import load_protocol

from . import raw

BAD = ("images_001/images/00000001_001.png", "images_002/images/00000007_000.png")


def run(source: Path, out: Path, quarantine: float = 0.0, workers: int = 1) -> PreparedData:
    return PreparedData.open(
        prepare("nih-cxr14", source, out, size=24, workers=workers, progress=False, quarantine=quarantine)
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """24 images, two of them damaged."""
    source = raw.write_nih(tmp_path / "raw")
    (source / BAD[0]).write_bytes(b"")
    (source / BAD[1]).write_bytes(b"<html>")
    return source


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_images_are_left_out_and_listed(
    source: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "PARALLEL_FROM", 0.0)
    monkeypatch.setattr(decoding, "CHUNK", 5)
    data = run(source, tmp_path / "out", 0.1, workers)
    table = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert table.columns.tolist() == ["file", "reason"]
    assert table["file"].tolist() == list(BAD)
    assert "empty" in table["reason"][0]
    assert "no image" in table["reason"][1]
    assert len(data.manifest) == len(data.images) == data.provenance["images"] == 22
    for row, file in enumerate(data.manifest["file"]):
        assert np.array_equal(data.images[row], resize(read_image(source / file), 24))
    found = verify(tmp_path / "out", progress=False)
    assert found["quarantined"] == 2
    assert sum(found["counts"].values()) == 22


def test_more_damage_than_allowed_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="More images are damaged") as error:
        run(source, tmp_path / "out", 0.05)
    for word in ("2 so far", BAD[0], "1 of 24 images", "--quarantine"):
        assert word in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_folder_with_left_out_images_does_not_pass_for_a_whole_one(source: Path, tmp_path: Path) -> None:
    before = run(source, tmp_path / "out", 0.1).fingerprint
    with pytest.raises(DataError, match="empty"):
        run(source, tmp_path / "out")
    assert PreparedData.open(tmp_path / "out").fingerprint == before
    assert run(source, tmp_path / "out", 0.2).fingerprint == before


def test_an_allowance_that_is_not_used_changes_nothing(tmp_path: Path) -> None:
    source = raw.write_nih(tmp_path / "raw")
    strict, lenient = run(source, tmp_path / "strict"), run(source, tmp_path / "lenient", 0.5)
    assert strict.fingerprint == lenient.fingerprint
    assert strict.provenance["quarantined"] == 0
    assert not (tmp_path / "lenient" / "quarantine.csv").exists()


def test_an_interrupted_run_remembers_what_it_left_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(source, tmp_path / "whole", 0.1)
    add = ImageCache.add

    def add_until(cache: ImageCache, result: decoding.Decoded) -> object:
        if len(cache.entries) == 20:
            raise KeyboardInterrupt
        return add(cache, result)

    with monkeypatch.context() as patch:
        patch.setattr(ImageCache, "add", add_until)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out", 0.1)
    with pytest.raises(DataError, match="More images are damaged"):
        run(source, tmp_path / "out")
    assert run(source, tmp_path / "out", 0.1).fingerprint == whole.fingerprint


def test_a_protocol_with_counts_refuses_incomplete_data(source: Path, tmp_path: Path) -> None:
    data = run(source, tmp_path / "out", 0.1)
    protocol = load_protocol("nih-cxr14/official-25596/v1")
    complete = protocol.model_copy(update={"counts": {"test": 6}})
    assert run(raw.write_nih(tmp_path / "raw2"), tmp_path / "out2").rows("test").size == 6
    with pytest.raises(DataError, match="number of images"):
        data.check_protocol(complete)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_the_share_is_checked(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        run(raw.write_nih(tmp_path / "raw"), tmp_path / "out", share)
