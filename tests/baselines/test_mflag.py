"""M-FLAG: losses against literal twins, the frozen text encoder, projected cells, released checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from doubles import batch, ingredients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines.mflag import MFLAG, MFLAGSettings, alignment, orthogonality
from replication.errors import CheckpointError
from replication.knowledge.prompts import prompts
from replication.method import Finding
from replication.network_config import TrunkConfig
from replication.networks.image_trunk import ResNetTrunk

EFFUSION = Finding("effusion", "pleural effusion", "effusion")
NODULE = Finding("nodule", "nodule", "nodule")


def make(last_stage: int = 3, seed: int = 0, **values: object) -> MFLAG:
    torch.manual_seed(seed)
    settings = MFLAGSettings.model_validate({"projection_dim": 16, **values})
    return MFLAG.build(settings, ingredients(last_stage=last_stage)).eval()


def literal_orthogonality(features: Tensor, divisor: float) -> Tensor:
    """Entry by entry of the features' second moments."""
    width = features.shape[1]
    total = torch.zeros(())
    for i in range(width):
        for j in range(width):
            entry = sum(row[i] * row[j] for row in features) / divisor
            total = total + ((entry - 1) ** 2 if i == j else 0.0051 * entry**2)
    return total / 2


def literal_alignment(v: Tensor, u: Tensor) -> Tensor:
    """Pair by pair: squared distance of unit vectors, once for each side."""
    total = torch.zeros(())
    for x, y in zip(v, u, strict=True):
        distance = (x / x.norm() - y / y.norm()).square().sum()
        total = total + distance + distance
    return total / len(v)


def literal_loss(model: MFLAG, images: Tensor, reports: list[str], divisor: float) -> Tensor:
    pooled = model.trunk(images).mean((2, 3))
    texts = torch.cat([model.text.encoder(model.text.tokenize([report]))[:, 0] for report in reports])
    align = literal_alignment(model.image_head(pooled), model.text_head(texts))
    return align + literal_orthogonality(pooled, divisor)


@pytest.mark.parametrize("training", [True, False])
def test_loss_equals_its_twin(training: bool) -> None:
    model, data = make().train(training), batch(4)
    expected = literal_loss(model, data.images, list(data.reports), 4)
    ours = model.loss(data).total
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    inputs = [p for p in model.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(expected, inputs)
    for mine, other in zip(torch.autograd.grad(ours, inputs), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-3)


def test_the_released_denominator_is_the_configured_batch_size() -> None:
    data = batch(4)
    for denominator, divisor in (("actual", 4), ("config", 512)):
        model = make(orth_denominator=denominator)
        pooled = model.trunk(data.images).mean((2, 3))
        expected = literal_orthogonality(pooled, divisor)
        torch.testing.assert_close(model.loss(data).parts["orthogonal"], expected, rtol=1e-4, atol=1e-5)


def test_orthogonality_can_be_left_out() -> None:
    outcome = make(orthogonal_weight=0.0).loss(batch(4))
    assert set(outcome.parts) == {"alignment"}
    assert outcome.total.item() == pytest.approx(outcome.parts["alignment"].item())


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 4), st.integers(0, 99))
def test_orthogonality_is_least_for_orthogonal_features_of_size_one(width: int, more: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(width + more, width, generator=generator).double()
    best = torch.linalg.qr(rows).Q * len(rows) ** 0.5
    keep = torch.ones(len(rows), dtype=torch.bool)
    assert orthogonality(best.float(), keep, off_diagonal=0.0051).item() == pytest.approx(0, abs=1e-9)
    collapsed = torch.ones(len(rows), width)
    value = orthogonality(collapsed, keep, off_diagonal=0.0051).item()
    assert value == pytest.approx(0.0051 * width * (width - 1) / 2, rel=1e-4)


def test_alignment_ignores_length_and_has_a_gradient_on_both_sides() -> None:
    torch.manual_seed(0)
    v, u = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    torch.testing.assert_close(alignment(3 * v, u), alignment(v, u))
    assert alignment(v, v).abs().max().item() < 1e-5
    assert alignment(v, -v).detach() == pytest.approx(torch.full((3,), 8.0))
    for gradient in torch.autograd.grad(alignment(v, u).sum(), [v, u]):
        assert gradient.abs().max() > 0


def test_images_without_a_report_do_not_count() -> None:
    data, model = batch(4), make()
    without = dataclasses.replace(data, reports=[*data.reports[:3], "  "])
    expected = literal_loss(model, data.images[:3], list(data.reports[:3]), 3)
    torch.testing.assert_close(model.loss(without).total, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text_dropout", [True, False])
def test_dropout_of_the_frozen_text_encoder(text_dropout: bool) -> None:
    model = make(text_dropout=text_dropout)
    for module in model.text.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train()
    tokens = model.text.tokenize(["There is an effusion."])
    assert torch.equal(model.text(tokens), model.text(tokens)) != text_dropout
    model.eval()
    assert torch.equal(model.text(tokens), model.text(tokens))


def test_the_text_encoder_is_frozen_and_its_projector_is_not() -> None:
    model = make().train()
    before = {key: value.clone() for key, value in model.text.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameter_groups(0.05), lr=0.1)
    model.loss(batch(4)).total.backward()
    optimiser.step()
    assert all(torch.equal(before[key], value) for key, value in model.text.state_dict().items())
    assert all(p.grad is not None for p in model.text_head.parameters())


def test_a_map_is_the_score_of_each_cell() -> None:
    model, images = make(score="cosine"), batch(2, side=96).images
    model.train()
    model.loss(batch(4))  # moves the running statistics of the projectors
    model.eval()
    maps = model.heatmap(images, [EFFUSION, NODULE])
    assert maps.shape == (2, 2, 6, 6)
    texts = model.text_features(prompts(NODULE, "present"))
    direction = nn.functional.normalize(nn.functional.normalize(texts, dim=1).mean(0), dim=0)
    cell = nn.functional.normalize(model.image_head(model.trunk(images)[:, :, 2, 3]), dim=1)
    torch.testing.assert_close(maps[:, 1, 2, 3], cell @ direction, rtol=1e-4, atol=1e-5)
    whole = nn.functional.normalize(model.image_head(model.trunk(images).mean((2, 3))), dim=1)
    torch.testing.assert_close(model.score(images, [NODULE])[:, 0], whole @ direction, rtol=1e-4, atol=1e-5)


def test_texts_are_never_longer_than_the_encoder_reads() -> None:
    model = make(max_length=512)
    assert model.text.max_length == model.text.encoder.longest < 512
    assert torch.isfinite(model.text_features(["effusion " * 600])).all()


def released(model: MFLAG) -> dict[str, Tensor]:
    """``<name>_total.pth`` as the authors' code writes it."""
    names = {
        "trunk.": "encoder.",
        "image_head.": "proj_v.",
        "text_head.": "proj_t.",
        "text.encoder.model.": "lm_model.",
    }
    state = {}
    for key, value in model.state_dict().items():
        ours = next(name for name in names if key.startswith(name))
        state[names[ours] + key.removeprefix(ours)] = value.clone()
    state["lm_model.pooler.dense.weight"] = torch.ones(32, 32)
    state["lm_model.embeddings.position_ids"] = torch.arange(160)
    return state


def test_a_released_checkpoint_loads(tmp_path: Path) -> None:
    source = make(last_stage=4, seed=1)
    state = released(source)
    assert {key.partition(".")[2] for key in state if key.startswith("proj_v.4")} == {
        *("4.running_mean", "4.running_var", "4.num_batches_tracked")
    }
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "a_total.pth")
    target = make(last_stage=4)
    report = target.load_released(tmp_path / "a_total.pth")
    images = batch(2).images
    assert torch.equal(target.score(images, [EFFUSION]), source.score(images, [EFFUSION]))
    assert set(report.ignored) == {"lm_model.pooler.dense.weight", "lm_model.embeddings.position_ids"}
    with pytest.raises(CheckpointError, match=r"left over: encoder\.layer4"):
        make(last_stage=3).load_released(tmp_path / "a_total.pth")
    del state["proj_t.1.weight"]
    torch.save(state, tmp_path / "b_total.pth")
    with pytest.raises(CheckpointError, match=r"missing: proj_t\.1\.weight"):
        target.load_released(tmp_path / "b_total.pth")


def test_the_encoder_file_is_a_trunk(tmp_path: Path) -> None:
    source = make(last_stage=4)
    torch.save(source.trunk.state_dict(), tmp_path / "a_encoder.pth")
    config = TrunkConfig(
        architecture="resnet18", width=8, last_stage=4, weights=str(tmp_path / "a_encoder.pth")
    )
    images = batch(2).images
    assert torch.equal(ResNetTrunk(config).eval()(images), source.trunk(images))
