"""Files that are whole or absent, folders that one process writes, and disks that refuse."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from interruptions import stopped_after_renames
from safetensors.torch import save_file

from replication.errors import DataError
from replication.files import atomic, locked, replace_folder, storage_error, sweep


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.ENOTDIR, "cannot be written"),
    ],
)
def test_a_refused_write_names_file_and_remedy_and_leaves_the_old_one(
    number: int, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("old")

    def refused() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError(number, os.strerror(number))

    with pytest.raises(DataError, match=words) as caught:
        refused()
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("rows.parquet", "old")]


def test_refusals_of_libraries_that_hide_their_number_are_understood(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Exception, match="os error") as caught:
        save_file({"a": torch.zeros(1)}, tmp_path / "file" / "weights.safetensors")
    reported = storage_error(caught.value, "weights.safetensors")
    assert reported is not None
    assert "cannot be written" in reported.problem


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    assert storage_error(FileNotFoundError(errno.ENOENT, "no such file")) is None
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with locked(out, "testing this"):
        with (
            pytest.raises(DataError, match="Another process is testing this") as caught,
            locked(out, "testing this"),
        ):
            pass
        assert caught.value.where == str(out)
    assert not list(out.parent.iterdir())
    with FileLock(out.with_name(".out.lock")), pytest.raises(DataError), locked(out, "testing"):
        pass


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path: Path) -> None:
    for name in ("a/.weights.safetensors.123.tmp", "a/weights.safetensors", "a/.hidden", "b.tmp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        ".hidden", "b.tmp", "weights.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("renames", [0, 1])
def test_a_folder_is_never_there_in_part(renames: int, tmp_path: Path) -> None:
    out, written = tmp_path / "out", tmp_path / "written"
    for folder, text in ((out, "old"), (written, "new")):
        folder.mkdir()
        for name in ("a", "b"):
            (folder / name).write_text(text)
    with stopped_after_renames(renames):
        replace_folder(written, out)
    assert not out.exists() or {path.read_text() for path in out.iterdir()} == {"old"}
    replace_folder(written, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "new", "b": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
