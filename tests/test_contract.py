"""What every registered method must do, whatever it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from doubles import REPORTS, batch, clip_tokenizer, ingredients
from safetensors.torch import load_file, save_file

from replication.config import load_recipes, resolve
from replication.method import CannotAnswer, Finding, Method, Settings
from replication.registry import METHODS, method_class, names
from replication.tier_config import TierConfig

ROOT = Path(__file__).resolve().parents[1]
FINDINGS = (
    Finding("effusion", "pleural effusion", "effusion"),
    Finding("pneumothorax", "pneumothorax", "pneumothorax"),
    Finding("effusion", "pleural effusion", "effusion", "left_pleural"),
    Finding("fibrosis", "fibrosis", "tail_abnorm_obs"),
    Finding("covid", "covid pneumonia"),
)
SCALE = {
    "d_model": 16,
    "decoder_layers": 2,
    "heads": 2,
    "feedforward": 32,
    "projection_dim": 16,
    "dropout": 0.0,
    "tokenizer": clip_tokenizer(),
}
TIER = TierConfig(
    name="test", description="", image_size=64, methods=(), protocols=(), notebooks=(), scale=SCALE
)

every_method = pytest.mark.parametrize("name", names(METHODS))
RETRIEVERS = (
    *("biovil", "carzero", "chexzero", "convirt", "gloria", "kad", "lovt", "mflag", "mgca", "prior"),
)
"""Methods that compare whole images with whole reports under the recipe ``matched``."""


def settings(name: str, recipe: str = "matched", **scale: object) -> Settings:
    kind = method_class(name)
    tier = TIER.model_copy(update={"scale": {**SCALE, **scale}})
    model = resolve(tier, name, 0, recipe=recipe, settings_class=kind.settings_class).model
    return kind.settings_class.model_validate(model)


def make(name: str, recipe: str = "matched", seed: int = 0, **scale: object) -> Method:
    torch.manual_seed(seed)
    parts = ingredients()
    if name == "imagenet":
        parts.trunk.weights = "IMAGENET1K_V1"  # random ones in their stead: nothing is downloaded here
    return method_class(name).build(settings(name, recipe, **scale), parts)


def differentiate(model: Method, total: torch.Tensor) -> None:
    """Backward; a reference without supervision has a loss of zero and nothing to differentiate."""
    if model.supervision == "none":
        assert total.item() == 0
        assert not total.requires_grad
    else:
        total.backward()


@every_method
def test_one_stem_everywhere(name: str) -> None:
    folder = "medslip" if name == "medslip" else "baselines"
    assert method_class(name).name == name
    for path in (
        ROOT / "replication" / "configs" / "recipes" / f"{name}.yaml",
        ROOT / "docs" / "methods" / f"{name}.md",
        ROOT / "tests" / folder / f"test_{name}.py",
    ):
        assert path.is_file(), path
    assert load_recipes(name).method == name
    assert {"published", "matched"} <= set(load_recipes(name).recipes)


@every_method
def test_every_recipe_and_variant_is_valid(name: str) -> None:
    file = load_recipes(name)
    for recipe in file.recipes:
        for label in (name, *(f"{name}/{variant}" for variant in file.variants)):
            run = resolve(TIER, label, 0, recipe=recipe, settings_class=method_class(name).settings_class)
            assert run.label == label


@every_method
@pytest.mark.parametrize("recipe", ["published", "matched"])
def test_scores_and_maps_have_their_shapes(name: str, recipe: str) -> None:
    model, data = make(name, recipe).eval(), batch(3, side=96)
    scores, maps = model.score(data.images, FINDINGS), model.heatmap(data.images, FINDINGS)
    assert scores.shape == (3, len(FINDINGS))
    assert maps.shape[:2] == (3, len(FINDINGS))
    assert maps.ndim == 4
    assert maps.shape[2] == maps.shape[3] > 1
    for answer in (scores, maps):
        assert answer.dtype == torch.float32
        assert torch.isfinite(answer).all()
        assert not answer.requires_grad


@every_method
def test_a_method_can_learn_unless_it_has_nothing_to_learn_from(name: str) -> None:
    model = make(name).train()
    can_learn = any(parameter.requires_grad for parameter in model.parameters())
    assert can_learn == (model.supervision != "none")
    assert any(group["params"] for group in model.parameter_groups(0.02)) == can_learn
    before = {key: value.clone() for key, value in model.state_dict().items()}
    outcome = model.loss(batch())
    assert outcome.total.requires_grad == can_learn
    if not can_learn:
        assert outcome.total.item() == 0
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@every_method
def test_every_trainable_parameter_learns_and_the_batch_stays(name: str) -> None:
    model, data = make(name, dropout=0.1).train(), batch()
    copy = dataclasses.replace(data, images=data.images.clone(), triplets=data.triplets.clone())
    outcome = model.loss(data)
    differentiate(model, outcome.total)
    assert outcome.total.ndim == 0
    assert torch.isfinite(outcome.total)
    assert all(value.ndim == 0 and not value.requires_grad for value in outcome.parts.values())
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
    assert torch.equal(copy.images, data.images)
    assert torch.equal(copy.triplets, data.triplets)
    assert list(data.reports) == list(batch().reports)


@every_method
def test_bf16_autocast_agrees_with_fp32(name: str) -> None:
    model, data = make(name).train(), batch(8)
    full = model.loss(data).total
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(data).total
    differentiate(model, half)
    assert half.item() == pytest.approx(full.item(), rel=0.1)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_method
def test_the_loss_falls_on_one_batch(name: str) -> None:
    model, data = make(name).train(), batch(8)
    if model.supervision == "none":
        differentiate(model, model.loss(data).total)
        return
    optimiser = torch.optim.AdamW(model.parameter_groups(0.0), lr=3e-3)
    history = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = model.loss(data).total
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0]


@every_method
def test_a_score_does_not_depend_on_its_batch(name: str) -> None:
    model, images = make(name).eval(), batch(6).images
    together = model.score(images, FINDINGS)
    single = torch.cat([model.score(image[None], FINDINGS) for image in images])
    torch.testing.assert_close(together, single, rtol=1e-3, atol=1e-4)
    maps = torch.cat([model.heatmap(images[:2], FINDINGS), model.heatmap(images[2:], FINDINGS)])
    torch.testing.assert_close(model.heatmap(images, FINDINGS), maps, rtol=1e-3, atol=1e-4)


@every_method
def test_a_score_does_not_depend_on_what_else_is_asked(name: str) -> None:
    model, images = make(name).eval(), batch(2).images
    together = model.score(images, FINDINGS)
    for column, finding in enumerate(FINDINGS):
        alone = model.score(images, [finding])[:, 0]
        torch.testing.assert_close(together[:, column], alone, rtol=1e-3, atol=1e-4)


@every_method
def test_steps_repeat(name: str) -> None:
    outcomes = []
    for _ in range(2):
        model, data = make(name, dropout=0.2).train(), batch()
        outcome = model.loss(data)
        differentiate(model, outcome.total)
        norms = [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
        outcomes.append((outcome.total.item(), norms))
    assert outcomes[0] == outcomes[1]


@every_method
def test_a_batch_with_nothing_to_learn_from(name: str) -> None:
    data = batch(2)
    empty = dataclasses.replace(
        data,
        reports=["", ""],
        triplets=torch.full_like(data.triplets, -1),
        labels=torch.full_like(data.labels, -1),
    )
    model = make(name).train()
    outcome = model.loss(empty)
    differentiate(model, outcome.total)
    assert outcome.total.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_method
def test_weights_round_trip_without_the_text_encoder(name: str, tmp_path: Path) -> None:
    model, images = make(name).eval(), batch(2).images
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "weights.safetensors")
    other = make(name, seed=1).eval()
    assert not torch.allclose(other.score(images, FINDINGS), model.score(images, FINDINGS))
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other.score(images, FINDINGS), model.score(images, FINDINGS))


@every_method
def test_the_trunk_serves_other_tasks(name: str) -> None:
    trunk, images = make(name).trunk.eval(), batch(2).images
    features = trunk(images)
    assert features.shape == (2, trunk.channels, 64 // trunk.stride, 64 // trunk.stride)
    stages = trunk.stages(images)
    assert tuple(stage.shape[1] for stage in stages) == trunk.stage_channels
    assert torch.equal(stages[-1], features)


@every_method
def test_the_streams_of_a_method_share_a_grid_and_hold_its_trunk(name: str) -> None:
    model, images = make(name).eval(), batch(3).images
    with torch.no_grad():
        streams, alone = model.streams(images), model.streams(images[:1])
        assert torch.equal(streams["trunk"], model.trunk(images))
    assert set(streams) == ({"trunk", "pathology", "anatomy"} if name == "medslip" else {"trunk"})
    assert len({maps.shape[2:] for maps in streams.values()}) == 1
    for stream, maps in streams.items():
        assert torch.isfinite(maps).all()
        torch.testing.assert_close(alone[stream], maps[:1], rtol=1e-3, atol=1e-4)


@every_method
def test_a_method_compares_reports_or_says_that_it_does_not(name: str) -> None:
    model, images = make(name).eval(), batch(3).images
    if name not in RETRIEVERS:
        with pytest.raises(CannotAnswer, match=f"{name} does not compare"):
            model.report_scorer(REPORTS)
        return
    scores = model.report_scorer(REPORTS)(images)
    assert scores.shape == (3, len(REPORTS))
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert not scores.requires_grad
    torch.testing.assert_close(model.report_scorer(REPORTS)(images[1:]), scores[1:], rtol=1e-3, atol=1e-4)
    some = model.report_scorer(REPORTS[2:])(images)
    torch.testing.assert_close(some, scores[:, 2:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RETRIEVERS)
def test_what_is_learned_is_what_retrieval_compares(name: str) -> None:
    """After some steps on four pairs, each image finds its own report."""
    # Sentence by sentence, or with an untrained bank of prototypes, these two need many more steps.
    quick: dict[str, object] = {"carzero": {"text_unit": "report"}, "prior": {"stage": 1}}.get(name, {})
    model, data = make(name, **quick).train(), batch(4)
    optimiser = torch.optim.AdamW(model.parameter_groups(0.0), lr=1e-3 if quick else 3e-3)
    for step in range(40):
        optimiser.zero_grad()
        model.loss(dataclasses.replace(data, seed=step)).total.backward()
        optimiser.step()
    model.eval()
    scores = model.report_scorer(data.reports)(data.images)
    assert scores.argmax(dim=1).tolist() == [0, 1, 2, 3], scores


def test_reports_of_the_doubles_are_in_use() -> None:
    assert list(batch(4).reports) == list(REPORTS)
