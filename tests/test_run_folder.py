"""What is left of a run that is interrupted while its folder changes hands."""

from __future__ import annotations

import json
from pathlib import Path

import harness_doubles as doubles
import pytest
from interruptions import stopped_after_renames

from replication import checkpoints
from replication.checkpoints import save_run
from replication.run_folder import RunFolder

OLD, NEW = doubles.run_config(epochs=1), doubles.run_config(epochs=2)
TEXT = doubles.FakeText()


def write_old(folder: Path) -> dict[str, bytes]:
    """A finished run of the old configuration."""
    save_run(folder, doubles.method(), OLD, TEXT, doubles.LABELS, {"wall_seconds": 1.0})
    (folder / "log.jsonl").write_text("{}\n")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("renames", range(5))
def test_the_run_of_another_configuration_is_never_taken_for_the_new_one(
    renames: int, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    before = write_old(folder.path)
    if renames < len(before):
        with stopped_after_renames(renames):
            folder.claim(NEW)
        assert json.loads((folder.path / "config.json").read_text()) == OLD.model_dump(mode="json")
    folder.claim(NEW)
    assert not folder.is_done
    assert json.loads((folder.path / "config.json").read_text()) == NEW.model_dump(mode="json")
    (aside,) = (path for path in tmp_path.iterdir() if path.name.startswith("run."))
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before


def test_weights_of_a_former_run_are_not_vouched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(tmp_path)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_weights", power_cut)
    with pytest.raises(KeyboardInterrupt):
        save_run(tmp_path, doubles.method(seed=4), NEW, TEXT, doubles.LABELS, {})
    assert not RunFolder(tmp_path).is_done


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.state.parent.mkdir(parents=True)
    left = folder.state.with_name(".state.pt.123.tmp")
    left.write_bytes(b"half")
    with folder.locked():
        assert not left.exists()
