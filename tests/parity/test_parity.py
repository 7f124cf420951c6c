"""Agreement with the released code on stored references, through the importer of released checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from replication.errors import DataError
from replication.parity import build_for_reference, check_parity, reference_inputs, reference_state
from replication.registry import method_class


@pytest.mark.parametrize("name", ["medslip", "medklip"])
def test_losses_logits_attention_and_gradients(name: str, reference: Path) -> None:
    result = check_parity(name, reference / "parity" / f"{name}_resnet18_seed7")
    assert result["ok"] is True
    assert result["losses"] <= 1e-4
    assert result["logits"] <= 1e-4
    assert result["attention"] <= 1e-4
    assert result["grad_norms"] <= 1e-3
    assert json.loads(json.dumps(result)) == result


def released_shapes(name: str, trunk: str) -> dict[str, list[int]]:
    """Released keys and shapes of a model of ours, which the importer is to read back."""
    method = build_for_reference(method_class(name), trunk)
    if name == "medslip":
        from medslip.released import released_keys
    else:
        from baselines.medklip import released_keys
    state = {key: value for key, value in method.state_dict().items() if "_book." not in key}
    return {theirs: list(state[ours].shape) for theirs, ours in released_keys(state).items()}


def write_reference(stem: Path, name: str, trunk: str, seed: int) -> None:
    """A reference of another trunk and seed, answered by our own model from the same formulas."""
    shapes = released_shapes(name, trunk)
    generator = np.random.default_rng(seed)
    matrix = generator.choice([-1, 0, 1], size=(2, 51, 75), p=[0.9, 0.05, 0.05]).astype(np.int8)
    arrays = {
        "matrix": matrix,
        "index_pathology": generator.integers(0, 51, (2, 75, 8)).astype(np.int8),
        "index_anatomy": generator.integers(0, 75, (2, 51, 8)).astype(np.int8),
    }
    method = build_for_reference(method_class(name), trunk).eval()
    checkpoint = stem.with_suffix(".pth")
    torch.save(reference_state(shapes, seed), checkpoint)
    mapped = method.load_released(checkpoint).mapped
    outputs = method.reference_outputs(reference_inputs(arrays, seed))
    outputs.losses.total.backward()
    ours = dict(method.named_parameters())
    norms = {theirs: float(ours[mine].grad.norm()) for theirs, mine in mapped.items() if mine in ours}
    losses = {"loss": float(outputs.losses.total.detach())} | {
        k: float(v) for k, v in outputs.losses.parts.items()
    }
    description = {
        "seed": seed,
        "trunk": trunk,
        "losses": losses,
        "grad_norms": norms,
        "state_dict_shapes": shapes,
    }
    stem.with_suffix(".json").write_text(json.dumps(description))
    logits = {key: value.detach().numpy() for key, value in outputs.tensors.items() if "logits" in key}
    np.savez(stem.with_suffix(".npz"), **arrays, **logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["medslip", "medklip"])
def test_other_trunks_seeds_and_references_without_attention(name: str, tmp_path: Path) -> None:
    stem = tmp_path / f"{name}_resnet50_seed3"
    write_reference(stem, name, "resnet50", 3)
    assert json.loads(stem.with_suffix(".json").read_text())["losses"]["loss"] > 0
    assert check_parity(name, stem)["ok"] is True
    description = json.loads(stem.with_suffix(".json").read_text())
    description["losses"]["loss"] *= 1.001
    stem.with_suffix(".json").write_text(json.dumps(description))
    assert check_parity(name, stem)["ok"] is False


@pytest.mark.parametrize(
    ("name", "change"),
    [("medslip", {"gate": "sigmoid"}), ("medslip", {"loss": {"icl_scale": "1/sqrt(d)"}})],
)
def test_a_corrected_switch_is_noticed(
    name: str, change: dict[str, object], reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replication import parity
    from replication.config import load_recipes
    from replication.config_files import merge

    file = load_recipes(name)
    published = file.recipes["published"]
    changed = published.model_copy(update={"model": merge(published.model, change)})
    recipes = file.model_copy(update={"recipes": {"published": changed}})
    monkeypatch.setattr(parity, "load_recipes", lambda _: recipes)
    assert check_parity(name, reference / "parity" / f"{name}_resnet18_seed7")["ok"] is False


def test_incomplete_references(reference: Path, tmp_path: Path) -> None:
    stem = tmp_path / "medklip_resnet18_seed7"
    with pytest.raises(DataError, match=r"seed7\.json"):
        check_parity("medklip", stem)
    for suffix in (".json", ".npz"):
        shutil.copy(reference / "parity" / f"medklip_resnet18_seed7{suffix}", stem.with_suffix(suffix))
    description = json.loads(stem.with_suffix(".json").read_text())
    del description["seed"]
    stem.with_suffix(".json").unlink()
    stem.with_suffix(".json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="lacks entries"):
        check_parity("medklip", stem)
