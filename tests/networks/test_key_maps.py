"""Checkpoints are read without executing code and loaded key by key, or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from replication.errors import CheckpointError
from replication.networks.key_maps import load_released, module_keys, read_state, trunk_keys

KEYS = {"old.weight": "weight", "old.bias": "bias"}


def state() -> dict[str, torch.Tensor]:
    return {"old.weight": torch.ones(2, 3), "old.bias": torch.zeros(2)}


def test_prefix_and_training_checkpoint(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    prefixed = {f"module.{key}": value for key, value in state().items()}
    torch.save({"model": prefixed, "epoch": 7, "optimizer": {"state": {}}}, tmp_path / "a.pth")
    report = load_released(model, tmp_path / "a.pth", KEYS)
    assert report.mapped == KEYS
    assert set(report.ignored) == {"epoch", "optimizer"}
    assert torch.equal(model.weight, torch.ones(2, 3))


def test_missing_and_extra_keys_name_the_nearest_and_change_nothing(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    wrong = state()
    wrong["old.wieght"] = wrong.pop("old.weight")
    torch.save(wrong, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_released(model, tmp_path / "a.pth", KEYS)
    message = str(caught.value)
    assert "missing: old.weight (nearest: old.wieght)" in message
    assert "left over: old.wieght" in message
    assert torch.equal(model.weight, before)


def test_shape_and_contradicting_twins(tmp_path: Path) -> None:
    torch.save({**state(), "old.weight": torch.ones(3, 2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"old\.weight.*\n.*a\.pth\n.*\(3, 2\)"):
        load_released(nn.Linear(3, 2), tmp_path / "a.pth", KEYS)
    twins = {**KEYS, "twin.bias": "bias"}
    torch.save({**state(), "twin.bias": torch.ones(2)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="different values"):
        load_released(nn.Linear(3, 2), tmp_path / "b.pth", twins)
    torch.save({**state(), "twin.bias": torch.zeros(2)}, tmp_path / "c.pth")
    assert load_released(nn.Linear(3, 2), tmp_path / "c.pth", twins).mapped == twins


def test_unused_keys_are_ignored_with_their_reason_and_no_others(tmp_path: Path) -> None:
    head = {"head.weight": torch.ones(1), "head.bias": torch.ones(1)}
    torch.save({**state(), **head}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"left over: head\.bias"):
        load_released(nn.Linear(3, 2), tmp_path / "a.pth", KEYS)
    unused = {"head.": "a classifier", "tail.": "not in this file", "old.": "mapped, so not ignored"}
    report = load_released(nn.Linear(3, 2), tmp_path / "a.pth", KEYS, unused=unused)
    assert report.mapped == KEYS
    assert report.ignored == {"head.bias": "a classifier", "head.weight": "a classifier"}


def test_a_model_in_several_entries(tmp_path: Path) -> None:
    model, keys = nn.Linear(3, 2), {"a.weight": "weight", "b.old.bias": "bias"}
    entries = {"a": {"module.weight": torch.ones(2, 3)}, "b": {"old.bias": torch.ones(2)}}
    torch.save({**entries, "epoch": 7}, tmp_path / "a.pth")
    report = load_released(model, tmp_path / "a.pth", keys, entries=("a", "b"))
    assert (report.mapped, set(report.ignored)) == (keys, {"epoch"})
    assert torch.equal(model.bias, torch.ones(2))
    with pytest.raises(CheckpointError, match="no state_dict under c"):
        load_released(model, tmp_path / "a.pth", keys, entries=("a", "b", "c"))


def test_a_map_that_forgets_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"old.weight": torch.ones(2, 3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="leaves weights"):
        load_released(nn.Linear(3, 2), tmp_path / "a.pth", {"old.weight": "weight"})
    load_released(nn.Linear(3, 2), tmp_path / "a.pth", {"old.weight": "weight"}, derived=["bias"])


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("trap-was-sprung"),))


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": state(), "config": Trap()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="other than tensors"):
        read_state(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "b.pth")
    assert not (tmp_path / "trap-was-sprung").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_damaged_missing_and_empty_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="No such"):
        read_state(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x00\x01 not a checkpoint")
    with pytest.raises(CheckpointError):
        read_state(tmp_path / name)
    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="no weights"):
        read_state(tmp_path / "empty.pth")
    torch.save({"model": {"a": 1}}, tmp_path / "numbers.pth")
    with pytest.raises(CheckpointError, match="no tensors"):
        read_state(tmp_path / "numbers.pth")


def test_trunk_children_by_number() -> None:
    assert trunk_keys(["trunk.conv1.weight", "trunk.layer3.5.bn2.bias"]) == {
        "res_features.0.weight": "trunk.conv1.weight",
        "res_features.6.5.bn2.bias": "trunk.layer3.5.bn2.bias",
    }


def test_modules_under_other_names() -> None:
    modules = {"theirs.scale": "scale", "theirs.head": "head"}
    assert module_keys(["scale", "head.0.weight", "header.bias", "other"], modules) == {
        "theirs.scale": "scale",
        "theirs.head.0.weight": "head.0.weight",
    }


def test_a_layout_can_be_converted_but_not_into_another_shape(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    torch.save({**state(), "old.weight": torch.ones(2, 3, 1)}, tmp_path / "a.pth")
    load_released(model, tmp_path / "a.pth", KEYS, convert={"old.weight": lambda weight: weight.squeeze(-1)})
    assert torch.equal(model.weight, torch.ones(2, 3))
    with pytest.raises(CheckpointError, match="shape"):
        load_released(nn.Linear(3, 2), tmp_path / "a.pth", KEYS)
