from __future__ import annotations

import json
from pathlib import Path

import harness_doubles as doubles
import pytest
import torch
from safetensors.torch import load_file, save_file

from replication.checkpoints import (
    adopt_weights,
    build_method,
    load_run,
    load_weights,
    save_run,
    save_weights,
)
from replication.errors import CheckpointError, ConfigError

CONFIG = doubles.run_config()
TEXT = doubles.FakeText()


def method(seed: int = 3) -> doubles.TinyMethod:
    return build_method(CONFIG.model_copy(update={"seed": seed}), TEXT, doubles.LABELS)


def test_weights_survive_the_file_with_tied_and_channels_last_tensors(tmp_path: Path) -> None:
    original, other = method(), method(seed=4)
    original.to(memory_format=torch.channels_last)
    save_weights(original, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    for key, value in original.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert other.tied is other.head


def test_equal_weights_give_an_equal_file(tmp_path: Path) -> None:
    for name in "ab":
        save_weights(method(), tmp_path / name, {"one": 1, "two": 2, "three": 3})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("head.bias"), "1 keys are missing"),
        (lambda s: s.update({"haed.bias": s.pop("head.bias")}), r"haed\.bias \(nearest: head\.bias\)"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "1 are left over"),
        (lambda s: s.update({"head.bias": torch.zeros(5)}), "shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(
    change: object, message: str, tmp_path: Path
) -> None:
    state = {key: value.clone() for key, value in method(seed=4).state_dict().items()}
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    target = method()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(target, tmp_path / "w.safetensors")
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        load_weights(method(), tmp_path / "w.safetensors")


def test_a_run_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    original = method()
    save_run(tmp_path, original, CONFIG, TEXT, doubles.LABELS, {"wall_seconds": 1})
    loaded, config = load_run(tmp_path, TEXT)
    assert config == CONFIG
    assert not loaded.training
    assert loaded.label_names == doubles.LABELS
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cells = loaded.trunk(images)
    assert torch.equal(cells, original.eval().trunk(images))


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path, method(), CONFIG, TEXT, doubles.LABELS, {})
    (tmp_path / "done.json").unlink()
    with pytest.raises(CheckpointError, match="not finished"):
        load_run(tmp_path, TEXT)


def test_another_text_encoder_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path, method(), CONFIG, TEXT, doubles.LABELS, {})
    with pytest.raises(CheckpointError, match="another text encoder"):
        load_run(tmp_path, torch.nn.Linear(2, 2))


def test_unknown_methods_and_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="Unknown method"):
        build_method(CONFIG.model_copy(update={"method": "medslop"}), TEXT, doubles.LABELS)
    with pytest.raises(ConfigError, match="did you mean 'dropout'"):
        build_method(CONFIG.model_copy(update={"model": {"droput": 0.1}}), TEXT, doubles.LABELS)


def test_the_file_says_what_it_needs(tmp_path: Path) -> None:
    save_run(tmp_path, method(), CONFIG, TEXT, doubles.LABELS, {"wall_seconds": 2})
    assert load_file(tmp_path / "weights.safetensors").keys() == method().state_dict().keys()
    assert json.loads((tmp_path / "done.json").read_text()) == {"wall_seconds": 2}


def test_weights_are_adopted_by_a_run_that_differs_in_evaluation(tmp_path: Path) -> None:
    save_run(tmp_path / "a", method(), CONFIG, TEXT, doubles.LABELS, {"wall_seconds": 7.0})
    other = CONFIG.model_copy(update={"variant": "other-scores", "weights": "default"})
    adopt_weights(tmp_path / "a", other, TEXT, tmp_path / "b")
    adopted, config = load_run(tmp_path / "b", TEXT)
    assert config == other
    for key, value in method().state_dict().items():
        assert torch.equal(value, adopted.state_dict()[key]), key


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 99), ("data_fingerprint", "other"), ("training", "longer")]
)
def test_weights_that_were_trained_otherwise_are_not_adopted(key: str, value: object, tmp_path: Path) -> None:
    save_run(tmp_path / "a", method(), CONFIG, TEXT, doubles.LABELS, {})
    if key == "training":
        value = CONFIG.training.model_copy(update={"epochs": CONFIG.training.epochs + 1})
    other = CONFIG.model_copy(update={"variant": "other-scores", "weights": "default", key: value})
    with pytest.raises(CheckpointError, match=f"trained otherwise(.|\n)*{key}"):
        adopt_weights(tmp_path / "a", other, TEXT, tmp_path / "b")
    assert not (tmp_path / "b").exists()
