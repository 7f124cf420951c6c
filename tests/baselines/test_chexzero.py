"""CheXzero: CLIP's loss against a literal twin, both text towers, impressions, prompts, released weights."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from doubles import batch, clip_tokenizer, ingredients
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from baselines.chexzero import CheXzero, CheXzeroSettings, TokenProjection, clip_loss, released_key
from replication.errors import CheckpointError
from replication.knowledge.prompts import prompts
from replication.method import Finding, ImageTrunk, Ingredients
from replication.network_config import TrunkConfig
from replication.networks.clip_text import ClipText
from replication.networks.clip_trunk import ClipResNetTrunk, ClipVisionTransformerTrunk
from replication.networks.image_trunk import build_trunk

EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
HERNIA = Finding("hernia", "hiatal hernia", "hernia")
SIZES: dict[str, object] = {"projection_dim": 16, "d_model": 16, "decoder_layers": 2, "heads": 2}


def make(trunk: ImageTrunk | None = None, **values: object) -> CheXzero:
    torch.manual_seed(0)
    parts = ingredients()
    parts = Ingredients(trunk or parts.trunk, parts.text_encoder, parts.label_names, parts.descriptions)
    settings = CheXzeroSettings.model_validate({**SIZES, "tokenizer": clip_tokenizer(), **values})
    return CheXzero.build(settings, parts).eval()


def vision_transformer() -> ClipVisionTransformerTrunk:
    torch.manual_seed(1)
    return ClipVisionTransformerTrunk(image_size=64, patch=16, width=32, layers=2, heads=2)


def clip_resnet() -> ClipResNetTrunk:
    torch.manual_seed(1)
    return ClipResNetTrunk(4, (1, 1, 1, 1))


def literal_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Pair by pair: each image among all texts, each text among all images."""
    total = torch.zeros(())
    for i in range(len(images)):
        row = torch.stack([scale.exp() * functional.cosine_similarity(images[i], u, dim=0) for u in texts])
        column = torch.stack([scale.exp() * functional.cosine_similarity(v, texts[i], dim=0) for v in images])
        total = total - (row.log_softmax(0)[i] + column.log_softmax(0)[i]) / 2
    return total / len(images)


def test_loss_equals_its_twin() -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    scale = torch.tensor(5.5, requires_grad=True)  # beyond ln 100: nothing clamps it
    ours, theirs = clip_loss(images, texts, scale), literal_loss(images, texts, scale)
    torch.testing.assert_close(ours, theirs)
    inputs = [images, texts, scale]
    for mine, other in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", ["shared", "clip"])
def test_a_step_is_the_loss_of_images_and_texts(text: str) -> None:
    model, data = make(text=text), batch(4)
    texts = [model._text(report) for report in data.reports]
    expected = literal_loss(model.image_features(data.images), model.text_features(texts), model.logit_scale)
    torch.testing.assert_close(model.loss(data).total, expected, rtol=1e-4, atol=1e-5)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    without = dataclasses.replace(data, reports=[*data.reports[:3], ""])
    fewer = dataclasses.replace(data, images=data.images[:3], reports=data.reports[:3])
    torch.testing.assert_close(model.loss(without).total, model.loss(fewer).total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "trunk", [vision_transformer, clip_resnet, lambda: None], ids=["vit", "clip-resnet", "resnet"]
)
def test_everything_trains_with_clips_text(trunk: object) -> None:
    model = make(trunk(), text="clip").train()  # type: ignore[operator]
    model.loss(batch(4)).total.backward()
    assert isinstance(model.text, ClipText)
    silent = [
        key
        for key, value in model.named_parameters()
        if value.grad is None or not value.grad.isfinite().all()
    ]
    assert not silent


def test_impressions() -> None:
    both = "FINDINGS: Clear lungs.\nIMPRESSION: Normal."
    findings, unmarked = "FINDINGS: Clear lungs.\nCOMPARISON: None.", "Clear lungs. Normal heart."
    assert [make()._text(r) for r in (both, findings, unmarked, " ")] == [
        "Normal.",
        "Clear lungs.",
        unmarked,
        "",
    ]
    literal = make(missing_impression="literal")
    assert [literal._text(r) for r in (both, findings, unmarked, " ")] == [
        "Normal.",
        "NO IMPRESSION",
        unmarked,
        "",
    ]
    assert make(text_unit="report")._text(both) == both


def test_texts_that_repeat() -> None:
    data = dataclasses.replace(batch(4), reports=["IMPRESSION: Normal."] * 4)
    assert make(duplicates="negatives").loss(data).parts["contrastive"] > 1
    ignored = make().loss(data).parts
    assert ignored["contrastive"].item() == pytest.approx(0, abs=1e-6)
    assert ignored["repeated_texts"].item() == pytest.approx(0.75)


def test_published_prompts() -> None:
    assert prompts(EFFUSION, "present", "chexzero") == ("Pleural Effusion",)
    assert prompts(EFFUSION, "absent", "chexzero") == ("no Pleural Effusion",)
    assert prompts(HERNIA, "absent", "chexzero") == ("no hiatal hernia",)
    assert prompts(LEFT, "present", "chexzero") == ("left Pleural Effusion",)


def test_released_probabilities_leave_the_scale_out() -> None:
    released = make(text="clip", prompts="chexzero", prompt_temperature=1.0)
    images = batch(3).images
    v = functional.normalize(released.image_features(images), dim=-1)
    u = functional.normalize(released.text_features(["Pleural Effusion", "no Pleural Effusion"]), dim=-1)
    present, absent = (v @ u[0]).exp(), (v @ u[1]).exp()
    scores = released.score(images, [EFFUSION])[:, 0]
    torch.testing.assert_close(scores, present / (present + absent))
    assert 1 / (1 + math.e**2) < scores.min() and scores.max() < 1 / (1 + math.e**-2)
    sharper = make(text="clip", prompts="chexzero", prompt_temperature=0.07)
    assert not torch.allclose(sharper.score(images, [EFFUSION])[:, 0], scores)


@pytest.mark.parametrize("trunk", [vision_transformer, clip_resnet], ids=["vit", "clip-resnet"])
def test_dense_maps(trunk: object) -> None:
    model = make(trunk())  # type: ignore[operator]
    images = batch(2).images
    cells = model.cell_features(images)
    maps = model.trunk(images)
    if isinstance(model.head, TokenProjection):
        expected = maps[:, :, 1, 0] @ model.head.proj
    else:
        expected = model.head.c_proj(model.head.v_proj(maps[:, :, 1, 0]))
    torch.testing.assert_close(cells[:, 1, 0], expected, rtol=1e-4, atol=1e-5)
    assert model.heatmap(images, [EFFUSION, HERNIA]).shape == (2, 2, *maps.shape[2:])


def test_released_input_is_grey_values_around_their_mean() -> None:
    seen: list[Tensor] = []
    model = make(input="released")
    model.trunk.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    grey = torch.rand(2, 1, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (grey - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    model.image_features(images)
    expected = ((255 * grey - 101.48761) / 83.43944).expand(-1, 3, -1, -1)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)
    assert make()._input(images) is images


def released_state(model: CheXzero) -> dict[str, Tensor]:
    return {released_key(key): value.half().contiguous() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("trunk", [vision_transformer, clip_resnet], ids=["vit", "clip-resnet"])
def test_released_weights(trunk: object, tmp_path: Path) -> None:
    source, images = make(trunk(), text="clip"), batch(2).images  # type: ignore[operator]
    path, state = tmp_path / "best.pt", released_state(source)
    torch.save({**state, "context_length": torch.tensor(16)}, path)
    other = make(trunk(), text="clip")  # type: ignore[operator]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    report = other.load_released(path)
    assert report.ignored == {"context_length": "a size that OpenAI stores beside the weights"}
    assert all(value.dtype == torch.float32 for value in other.parameters())
    torch.testing.assert_close(
        other.score(images, [EFFUSION]), source.score(images, [EFFUSION]), rtol=0.02, atol=0.02
    )
    before = {key: value.clone() for key, value in other.state_dict().items()}
    for broken in (
        {**state, "visual.more": torch.zeros(1)},
        {k: v for k, v in state.items() if "ln_f" not in k},
    ):
        torch.save(broken, path)
        with pytest.raises(CheckpointError):
            other.load_released(path)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_names_are_clips() -> None:
    transformer, resnet = make(vision_transformer(), text="clip"), make(clip_resnet(), text="clip")
    names = {released_key(key) for model in (transformer, resnet) for key in model.state_dict()}
    assert names >= {
        "visual.class_embedding",
        "visual.proj",
        "visual.ln_post.weight",
        "visual.transformer.resblocks.1.attn.in_proj_bias",
        "visual.attnpool.positional_embedding",
        "visual.layer1.0.downsample.0.weight",
        "visual.layer4.0.bn3.running_var",
        "transformer.resblocks.0.mlp.c_fc.weight",
        "token_embedding.weight",
        "positional_embedding",
        "ln_final.bias",
        "text_projection",
        "logit_scale",
    }


def test_a_trunk_from_clip_brings_the_rest_along(tmp_path: Path) -> None:
    trunk = clip_resnet()
    path = tmp_path / "clip.safetensors"
    source = make(trunk, text="clip", temperature=0.5)
    save_file(released_state(source), path)
    again = clip_resnet()
    again.weights_file = path
    loaded = make(again, text="clip")
    assert loaded.logit_scale.item() == pytest.approx(math.log(2), abs=1e-3)
    again = clip_resnet()
    again.weights_file = path
    assert make(again).logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_released_weights_need_clips_towers(tmp_path: Path) -> None:
    for model in (make(), make(clip_resnet()), make(text="clip")):
        with pytest.raises(CheckpointError, match="recipe published"):
            model.load_released(tmp_path / "best.pt")


def test_published_sizes_are_clips() -> None:
    settings = CheXzeroSettings(text="clip")
    with torch.device("meta"):
        trunk = build_trunk(TrunkConfig(architecture="clip-vit-b32", last_stage=4), 224)
        parts = ingredients()
    model = CheXzero(settings, Ingredients(trunk, parts.text_encoder, (), ()))
    # CLIP ViT-B/32 as published.
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_277_313
    assert model.text.transformer.resblocks[0].attn.heads == 8
