from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import harness_doubles as doubles
import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from replication.checkpoints import build_method, load_run
from replication.config import RunConfig
from replication.data.batches import PreparedData
from replication.draws import Draws
from replication.errors import CheckpointError, DataError, UserError
from replication.training import Objective, make_optimiser, pretrain
from replication.training_config import OptimiserConfig

DATA = doubles.prepared()
TEXT = doubles.FakeText()


def train(config: RunConfig, out: Path, **options: object) -> dict[str, torch.Tensor]:
    options = {"progress": False, "log_every": 2, **options}
    pretrain(config, DATA, TEXT, out, **options)
    return load_file(out / "weights.safetensors")


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def log_without_times(out: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    timed = ("seconds", "images_per_second")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(doubles.run_config(), out)
    return out


def test_twice_the_same_configuration_gives_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    torch.manual_seed(999)
    again = train(doubles.run_config(), tmp_path / "again")
    assert_equal(again, load_file(undisturbed / "weights.safetensors"))
    assert log_without_times(tmp_path / "again") == log_without_times(undisturbed)
    other = train(doubles.run_config().model_copy(update={"seed": 4}), tmp_path / "other")
    assert not torch.equal(other["head.weight"], again["head.weight"])


def test_training_lowers_the_loss_and_leaves_a_complete_folder(tmp_path: Path) -> None:
    train(doubles.run_config(epochs=12, select="last"), tmp_path)
    epochs = [line for line in log_without_times(tmp_path) if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == list(range(12))
    assert epochs[-1]["train"]["labels"] < epochs[0]["train"]["labels"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("config.json", "done.json", "log.jsonl", "weights.safetensors")
    ]
    done = json.loads((tmp_path / "done.json").read_text())
    assert done["images"] == 12 * done["steps"] // 12 * 4 == 12 * 12
    assert done["selected_epoch"] == 11
    assert done["validation_loss"] == epochs[-1]["val"]["total"]
    assert done["wall_seconds"] > 0
    assert done["images_per_second"] > 0


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 5])
def test_a_run_that_failed_at_any_step_ends_as_an_undisturbed_one(
    step: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10**6))
    original = doubles.TinyMethod.loss

    def failing(self: doubles.TinyMethod, batch: object) -> object:
        if self.training and next(calls) == step:
            raise RuntimeError("power cut")
        return original(self, batch)

    monkeypatch.setattr(doubles.TinyMethod, "loss", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        train(doubles.run_config(), tmp_path, save_every_seconds=0)
    assert not (tmp_path / "done.json").exists()
    assert_equal(train(doubles.run_config(), tmp_path), load_file(undisturbed / "weights.safetensors"))
    assert log_without_times(tmp_path) == log_without_times(undisturbed)


CHILD = textwrap.dedent(
    """
    import sys, torch
    from pathlib import Path
    torch.set_num_threads(1)
    import harness_doubles as doubles
    from replication.training import pretrain
    pretrain(doubles.run_config(epochs=40), doubles.prepared(), doubles.FakeText(), Path(sys.argv[1]),
             progress=False, log_every=2, save_every_seconds=0)
    """
)


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    killed, state = tmp_path / "killed", tmp_path / "killed" / "resume" / "state.pt"
    for wait in (0.0, 0.3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(killed)], env=environment)
        deadline = time.monotonic() + 120
        while not (state.exists() and state.stat().st_mtime_ns > before) and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.01)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (killed / "done.json").exists()
    config = doubles.run_config(epochs=40)
    assert_equal(train(config, killed), train(config, tmp_path / "whole"))
    assert log_without_times(killed) == log_without_times(tmp_path / "whole")


def test_a_finished_run_is_not_computed_again(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in undisturbed.iterdir()}
    monkeypatch.setattr("replication.training.build_method", None)
    pretrain(doubles.run_config(), DATA, TEXT, undisturbed, progress=False)
    assert before == {p.name: p.stat().st_mtime_ns for p in undisturbed.iterdir()}


def test_a_method_without_a_trainable_weight_is_finished_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(PreparedData, "batch", unread)
    config = doubles.run_config(epochs=3, select="best_val")
    config = config.model_copy(update={"method": "baselines.random:Random"})
    weights = train(config, tmp_path)
    done = json.loads((tmp_path / "done.json").read_text())
    assert (done["epochs"], done["steps"], done["images"]) == (0, 0, 0)
    assert (done["trainable_parameters"], done["selected_epoch"]) == (0, None)
    assert done["parameters"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("config.json", "done.json", "weights.safetensors")
    ]
    method, _ = load_run(tmp_path, TEXT)
    assert_equal(dict(method.state_dict()), weights)
    assert_equal(dict(build_method(config, TEXT, DATA.label_names).state_dict()), weights)


def test_another_configuration_sets_the_old_run_aside(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(doubles.run_config(epochs=1, select="last"), out)
    second = train(doubles.run_config(epochs=2, select="last"), out)
    (aside,) = [folder for folder in tmp_path.iterdir() if folder != out]
    assert_equal(load_file(aside / "weights.safetensors"), first)
    assert not torch.equal(first["head.weight"], second["head.weight"])


def test_best_validation_epoch_is_selected(tmp_path: Path) -> None:
    config = doubles.run_config(epochs=6, select="best_val")
    weights = train(config, tmp_path / "best")
    losses = [e["val"]["total"] for e in log_without_times(tmp_path / "best") if e["kind"] == "epoch"]
    done = json.loads((tmp_path / "best" / "done.json").read_text())
    assert done["selected_epoch"] == int(np.argmin(losses))
    assert done["validation_loss"] == min(losses)
    method, loaded = load_run(tmp_path / "best", TEXT)
    assert loaded == config
    assert_equal(dict(method.state_dict()), weights)


def test_accumulation_averages_the_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all images are the same one, batch statistics agree too, and so must the gradients."""
    original, gradients = PreparedData.batch, []

    def record(optimiser: torch.optim.Optimizer, closure: None = None) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))

    monkeypatch.setattr(
        PreparedData,
        "batch",
        lambda self, rows, **_: original(self, 0 * rows, augmentation=None, seed=0),
    )
    monkeypatch.setattr(Draws, "uniform", lambda self, *shape: torch.zeros(self.count, *shape))
    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    for k in (1, 2):
        train(doubles.run_config(epochs=1, dropout=0.0, accumulation=k), tmp_path / str(k))
    assert len(gradients) == 6
    assert gradients[0].abs().max() > 0.01
    assert torch.allclose(gradients[3], gradients[0], atol=1e-4)


def test_gradient_is_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []

    def record(optimiser: torch.optim.Optimizer, closure: None = None) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        norms.append(float(torch.cat([p.grad.flatten() for p in parameters]).norm()))

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    train(doubles.run_config(epochs=1, optimiser={"clip_norm": 0.01}), tmp_path)
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def steps_of(settings: dict[str, object], gradients: list[float]) -> list[float]:
    """Values of a parameter that starts at 0, after each of some gradients."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = make_optimiser([{"params": [parameter]}], OptimiserConfig.model_validate(settings))
    values = []
    for gradient in gradients:
        parameter.grad = torch.full((1,), gradient)
        optimiser.step()
        values.append(parameter.item())
    return values


def test_sgd_steps_along_the_gradient_with_momentum() -> None:
    velocity, value, expected = 0.0, 0.0, []
    for gradient in (1.0, -2.0, 0.5):
        velocity = 0.9 * velocity + gradient
        value -= 0.1 * velocity
        expected.append(value)
    assert steps_of({"name": "sgd", "lr": 0.1}, [1.0, -2.0, 0.5]) == pytest.approx(expected)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.999)])
def test_adam_averages_the_gradient_by_its_betas(betas: tuple[float, float]) -> None:
    first, second, value, expected = 0.0, 0.0, 0.0, []
    for step, gradient in enumerate((1.0, -2.0, 0.5), 1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        mean, spread = first / (1 - betas[0] ** step), (second / (1 - betas[1] ** step)) ** 0.5
        value -= 0.1 * mean / (spread + 1e-8)
        expected.append(value)
    settings = {"name": "adam", "lr": 0.1, "betas": betas}
    assert steps_of(settings, [1.0, -2.0, 0.5]) == pytest.approx(expected, rel=1e-5)


def test_bf16_computes_in_bf16(tmp_path: Path) -> None:
    full = train(doubles.run_config(epochs=1), tmp_path / "fp32")
    half = train(doubles.run_config(epochs=1, precision="bf16"), tmp_path / "bf16")
    difference = (full["head.weight"] - half["head.weight"]).abs().max()
    assert 0 < difference < 0.01
    assert half["head.weight"].dtype == torch.float32


def test_workers_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    assert_equal(
        train(doubles.run_config(), tmp_path, workers=1), load_file(undisturbed / "weights.safetensors")
    )


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path.with_name(f".{tmp_path.name}.lock")),
        pytest.raises(UserError, match="Another process"),
    ):
        train(doubles.run_config(), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Objective.forward

    def poisoned(self: Objective, batch: object) -> object:
        total, parts = original(self, batch)
        return total * float("nan"), parts

    monkeypatch.setattr(Objective, "forward", poisoned)
    with pytest.raises(UserError, match="no longer finite"):
        train(doubles.run_config(), tmp_path)
    assert not (tmp_path / "resume").exists()


def test_a_batch_that_does_not_fit_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Objective, batch: object) -> object:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(Objective, "forward", forward)
    with pytest.raises(UserError, match=r"4 images at 32 pixels[\s\S]*torchrun"):
        train(doubles.run_config(), tmp_path)


def test_a_damaged_state_is_refused_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "state.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match="start this run afresh"):
        train(doubles.run_config(), tmp_path)


def test_no_validation_images_is_refused_only_where_they_are_needed(tmp_path: Path) -> None:
    data = doubles.prepared()
    data.manifest.loc[data.manifest["split"] == "val", "split"] = "train"
    with pytest.raises(DataError, match="validation split is empty"):
        pretrain(doubles.run_config(epochs=1), data, TEXT, tmp_path / "a", progress=False)
    pretrain(doubles.run_config(epochs=1, select="last"), data, TEXT, tmp_path / "b", progress=False)
    assert json.loads((tmp_path / "b" / "done.json").read_text())["validation_loss"] is None


def test_methods_with_one_trunk_start_from_the_same_trunk_weights() -> None:
    before = torch.get_rng_state()
    plain = build_method(doubles.run_config(), TEXT, DATA.label_names)
    other = build_method(doubles.run_config(dropout=0.5), TEXT, DATA.label_names)
    assert torch.equal(before, torch.get_rng_state())
    assert_equal(plain.trunk.state_dict(), other.trunk.state_dict())
