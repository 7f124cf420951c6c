"""CARZero: fusion and loss against literal twins, pads, prompts, attention maps, released checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from doubles import REPORTS, batch, ingredients
from torch import Tensor
from torch.nn import functional

from baselines.carzero import CARZero, CARZeroSettings, Fusion, matching_loss
from replication.errors import CheckpointError, ConfigError
from replication.knowledge.prompts import prompts
from replication.method import Finding

SMALL = {"d_model": 16, "decoder_layers": 2, "heads": 2, "feedforward": 16, "dropout": 0.0}
EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
NODULE = Finding("nodule", "nodule", "nodule")


def make(last_stage: int = 3, **values: object) -> CARZero:
    torch.manual_seed(0)
    settings = CARZeroSettings.model_validate({**SMALL, **values})
    return CARZero.build(settings, ingredients(last_stage=last_stage)).eval()


def attend(query: Tensor, memory: Tensor, weights: torch.nn.Module, heads: int) -> tuple[Tensor, Tensor]:
    """One query ``[d]`` over a memory ``[K, d]``, head by head."""
    w, b = weights.in_proj_weight.chunk(3), weights.in_proj_bias.chunk(3)
    q, k, v = query @ w[0].T + b[0], memory @ w[1].T + b[1], memory @ w[2].T + b[2]
    outcomes, maps = [], []
    for one_q, one_k, one_v in zip(q.chunk(heads), k.chunk(heads, dim=1), v.chunk(heads, dim=1), strict=True):
        chances = (one_k @ one_q / len(one_q) ** 0.5).softmax(0)
        outcomes.append(chances @ one_v)
        maps.append(chances)
    return weights.out_proj(torch.cat(outcomes)), torch.stack(maps).mean(0)


def literal_logit(fusion: Fusion, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One query and one memory: the logit, and the attention averaged over heads and layers."""
    norm = fusion.decoder_norm
    x, memory, maps = norm(query), norm(memory), []
    for layer in fusion.decoder.layers:
        seen, attention = attend(layer.norm2(x), memory, layer.multihead_attn, SMALL["heads"])
        x = x + seen
        x = x + layer.linear2(layer.linear1(layer.norm3(x)).relu())
        maps.append(attention)
    return fusion.mlp_head(norm(x))[0], torch.stack(maps).mean(0)


def literal_words(model: CARZero, text: str) -> list[Tensor]:
    """[CLS], the words and [SEP] of one text, a word being the sum of its pieces over the last layers."""
    encoder = model.text.encoder
    tokens = encoder.tokenize([text], model.settings.max_length)
    output = encoder.model(tokens.input_ids, tokens.attention_mask, output_hidden_states=True)
    hidden = sum(state[0] for state in output.hidden_states[1:][-model.settings.text_layers :])
    words: list[Tensor] = []
    pieces = encoder.tokenizer.convert_ids_to_tokens(tokens.input_ids[0])
    for piece, vector in zip(pieces, hidden, strict=True):
        if piece.startswith("##"):
            words[-1] = words[-1] + vector
        else:
            words.append(vector)
    return [model.text_head(word) for word in words]


def literal_logits(model: CARZero, images: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Pair by pair: image-to-text ``[B, N]`` and text-to-image ``[N, B]`` logits, with pads or without."""
    slots = model.settings.max_length
    image_sides, text_sides = [], []
    for image in images:
        cells = model.trunk(image[None])[0].flatten(1).T
        whole = model.global_head(cells.mean(0))
        image_sides.append((whole, torch.stack([whole, *map(model.local_head, cells)])))
    for text in texts:
        words = literal_words(model, text)
        whole = torch.stack(words).sum(0) / slots
        pads = [] if model.settings.mask_pads else [torch.zeros_like(whole)] * (slots - len(words))
        text_sides.append((whole, torch.stack([whole, *words, *pads])))
    to_text = [
        torch.stack([literal_logit(model.fusion, t[0], i[1])[0] for t in text_sides]) for i in image_sides
    ]
    to_image = [
        torch.stack([literal_logit(model.fusion, i[0], t[1])[0] for i in image_sides]) for t in text_sides
    ]
    return torch.stack(to_text), torch.stack(to_image)


def literal_loss(to_text: Tensor, to_image: Tensor) -> Tensor:
    target = torch.arange(len(to_text))
    sides = (to_text, to_text.T, to_image, to_image.T)
    return sum((functional.cross_entropy(side, target) for side in sides), torch.zeros(())) / 2


@pytest.mark.parametrize("mask_pads", [True, False])
def test_loss_equals_its_twin(mask_pads: bool) -> None:
    model, data = make(mask_pads=mask_pads, max_length=40), batch(4)
    texts = model._texts(data)
    expected = literal_loss(*literal_logits(model, data.images, texts))
    ours = model.loss(data).total
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    inputs = [p for p in model.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(expected, inputs)
    for mine, other in zip(torch.autograd.grad(ours, inputs), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-4)


def test_pads_are_looked_at_in_the_released_code_only() -> None:
    """Released: a text of the same words scores otherwise when there are more slots behind it."""
    images = batch(2).images
    for mask_pads in (False, True):
        scores = [
            make(mask_pads=mask_pads, max_length=length, score="positive").score(images, [EFFUSION])
            for length in (24, 97)
        ]
        # The whole text is a sum divided by the number of slots; the normalisation takes the factor away.
        assert torch.allclose(*scores, rtol=1e-3, atol=1e-4) == mask_pads


def test_images_without_a_report_do_not_count() -> None:
    data, model = batch(4), make()
    without = dataclasses.replace(data, reports=[*data.reports[:3], " "])
    texts = model._texts(without)
    assert texts[3] == ""
    expected = literal_loss(*literal_logits(model, data.images[:3], texts[:3]))
    torch.testing.assert_close(model.loss(without).total, expected, rtol=1e-4, atol=1e-5)


def test_matching_loss_of_left_out_pairs_has_no_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 5, requires_grad=True)
    keep = torch.tensor([True, False, True, True, False])
    loss = matching_loss(logits, keep)
    kept = logits[keep][:, keep]
    target = torch.arange(3)
    expected = (functional.cross_entropy(kept, target) + functional.cross_entropy(kept.T, target)) / 2
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert matching_loss(logits, torch.zeros(5, dtype=torch.bool)).item() == 0


def test_texts_are_sentences_drawn_by_the_batch_seed() -> None:
    data = batch(64)
    model = make()
    assert model._texts(data) == model._texts(data)
    assert model._texts(data) != model._texts(dataclasses.replace(data, seed=1))
    assert make(text_unit="report")._texts(data)[:4] == list(REPORTS)
    bare = make(sentence_rule="words")._texts(data)
    assert "no pneumothorax is seen" in bare
    assert all(text == text.lower() and "." not in text for text in bare)
    whole = make(sentence_rule="words", text_unit="report")._texts(batch(4))
    assert whole[1] == "the lungs are clear no pleural effusion or pneumothorax"


def test_scores_are_means_over_prompts_and_directions() -> None:
    images, model = batch(3).images, make()
    means = {}
    for polarity in ("present", "absent"):
        to_text, to_image = literal_logits(model, images, list(prompts(LEFT, polarity)))
        means[polarity] = ((to_text + to_image.T) / 2).mean(1)
    score = model.score(images, [NODULE, LEFT])[:, 1]
    torch.testing.assert_close(score, means["present"] - means["absent"], rtol=1e-3, atol=1e-5)
    positive = make(score="positive")
    torch.testing.assert_close(positive.score(images, [LEFT])[:, 0], means["present"], rtol=1e-3, atol=1e-5)


def test_published_prompts() -> None:
    assert prompts(EFFUSION, "present", "carzero") == ("There is pleural effusion",)
    assert prompts(EFFUSION, "absent", "carzero") == ()
    images = batch(2).images
    published = make(prompts="carzero", score="positive")
    assert not torch.allclose(
        published.score(images, [EFFUSION]), make(score="positive").score(images, [EFFUSION])
    )
    with pytest.raises(ConfigError, match=r"(?s)absent.*carzero.*score to positive"):
        make(prompts="carzero").score(images, [EFFUSION])


def test_prompts_are_encoded_anew_after_training() -> None:
    images, model = batch(2).images, make()
    before = model.score(images, [EFFUSION])
    model.train()
    with torch.no_grad():
        model.text_head.weight.mul_(torch.linspace(-1, 1, 16).unsqueeze(1))
    model.eval()
    assert not torch.allclose(model.score(images, [EFFUSION]), before)


def test_maps_are_the_attention_to_cells() -> None:
    images, model = batch(2, side=96).images, make()
    maps = model.heatmap(images, [NODULE, EFFUSION])
    assert maps.shape == (2, 2, 6, 6)
    cells = model.trunk(images[1:])[0].flatten(1).T
    whole = model.global_head(cells.mean(0))
    memory = torch.stack([whole, *map(model.local_head, cells)])
    expected = []
    for text in prompts(EFFUSION, "present"):
        query = torch.stack(literal_words(model, text)).sum(0) / 97
        expected.append(literal_logit(model.fusion, query, memory)[1][1:].view(6, 6))
    torch.testing.assert_close(maps[1, 1], torch.stack(expected).mean(0), rtol=1e-4, atol=1e-6)


def test_four_stages_give_cells_of_the_third() -> None:
    model = make(last_stage=4)
    assert model.heatmap(batch(1).images, [EFFUSION]).shape[2:] == (4, 4)
    assert model.local_head.in_features == model.global_head.in_features // 2


def test_text_as_wide_as_the_decoder_is_not_projected() -> None:
    model = make(d_model=32)
    assert not list(model.text_head.parameters())
    assert torch.isfinite(model.loss(batch(2)).total)


def test_head_is_scaled_by_feedforward() -> None:
    widths = [layer.out_features for layer in Fusion(CARZeroSettings()).mlp_head if hasattr(layer, "weight")]
    assert widths == [1024, 512, 256, 1]
    assert [type(layer).__name__ for layer in make(head="linear").fusion.mlp_head] == ["Linear"]


def released(model: CARZero) -> dict[str, Tensor]:
    """A checkpoint as the authors' code names it, with what no forward pass reads."""
    names = {
        "trunk.": "img_encoder.model.",
        "global_head.": "img_encoder.global_embedder.",
        "local_head.": "img_encoder.local_embedder.",
        "text.encoder.model.": "text_encoder.model.",
        "fusion.": "fusion_module.",
    }
    state = {}
    for key, value in model.state_dict().items():
        ours = next(name for name in names if key.startswith(name))
        state[f"CARZero.{names[ours]}{key.removeprefix(ours)}"] = value.clone()
    for part in ("weight", "bias"):
        state[f"CARZero.fusion_module.decoder.norm.{part}"] = model.fusion.decoder_norm.state_dict()[part]
    for layer in range(model.settings.decoder_layers):
        prefix = f"CARZero.fusion_module.decoder.layers.{layer}"
        state[f"{prefix}.self_attn.in_proj_weight"] = torch.ones(48, 16)
        state[f"{prefix}.norm1.weight"] = torch.ones(16)
    state["CARZero.fusion_module.logit_scale"] = torch.zeros(())
    state["CARZero.text_encoder.model.pooler.dense.weight"] = torch.ones(32, 32)
    state["CARZero.img_encoder.local_embedder.weight"] = model.local_head.weight[..., None, None].clone()
    return state


def test_a_released_checkpoint_of_the_convolutional_base_loads(tmp_path: Path) -> None:
    torch.manual_seed(1)
    settings = CARZeroSettings.model_validate({**SMALL, "d_model": 32})
    source = CARZero.build(settings, ingredients(last_stage=4)).eval()
    state = released(source)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "best.ckpt")
    target = make(last_stage=4, d_model=32)
    report = target.load_released(tmp_path / "best.ckpt")
    images = batch(2).images
    assert torch.equal(target.score(images, [EFFUSION]), source.score(images, [EFFUSION]))
    assert report.ignored["CARZero.fusion_module.logit_scale"] == "the logits have no temperature"
    assert "CARZero.fusion_module.decoder.layers.1.self_attn.in_proj_weight" in report.ignored
    assert len(report.mapped) + len(report.ignored) == len(state) + 1

    state["CARZero.fusion_module.surprise"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "more.ckpt")
    with pytest.raises(CheckpointError, match=r"left over: CARZero\.fusion_module\.surprise"):
        target.load_released(tmp_path / "more.ckpt")
    del state["CARZero.fusion_module.surprise"], state["CARZero.fusion_module.mlp_head.3.bias"]
    torch.save({"state_dict": state}, tmp_path / "less.ckpt")
    with pytest.raises(CheckpointError, match=r"missing: CARZero\.fusion_module\.mlp_head\.3\.bias"):
        target.load_released(tmp_path / "less.ckpt")


def test_the_published_vision_transformer_is_refused(tmp_path: Path) -> None:
    state = {"CARZero.img_encoder.model.blocks.0.norm1.weight": torch.ones(4)}
    torch.save({"state_dict": state}, tmp_path / "vit.ckpt")
    with pytest.raises(CheckpointError, match=r"(?s)vision transformer.*remedy"):
        make().load_released(tmp_path / "vit.ckpt")
