"""LoVT: its losses against literal twins, padding, swaps, attention maps, released weights."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from doubles import REPORTS, batch, ingredients
from torch.nn import functional

from baselines.lovt import CrossAttention, LoVT, LoVTSettings, local_losses, near_cells
from replication.errors import CheckpointError
from replication.knowledge.prompts import prompts
from replication.knowledge.report_sentences import sentences_of
from replication.method import Finding
from replication.networks.attention_pool import MeanQueryPool
from replication.networks.sentence_features import encode_sentences

EFFUSION = Finding("effusion", "pleural effusion", "effusion")
NODULE = Finding("nodule", "nodule", "nodule")


def make(seed: int = 0, **values: object) -> LoVT:
    torch.manual_seed(seed)
    settings = LoVTSettings.model_validate({"projection_dim": 16, "heads": 2, **values})
    return LoVT.build(settings, ingredients()).eval()


def literal_local(
    own: torch.Tensor, attended: torch.Tensor, positives: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """One direction for one sample without padding, element by element."""
    total = torch.zeros(())
    for i in range(len(own)):
        scores = torch.stack([functional.cosine_similarity(own[i], b, dim=0) / 0.3 for b in attended])
        share = positives[i] / positives[i].sum()
        total = total + weights[i] / weights.sum() * (scores.logsumexp(0) - (share * scores).sum())
    return total


def literal_loss(model: LoVT, images: torch.Tensor, reports: list[str]) -> torch.Tensor:
    """Pair by pair, nothing padded; the model is in evaluation mode."""
    encoder, near = model.text.encoder, near_cells(4, 4, 0.5, 1.0)
    v, u, local = [], [], torch.zeros(())
    for image, report in zip(images, reports, strict=True):
        cells = model.trunk(image[None]).flatten(2).transpose(1, 2)
        pooled, cell_weights = model.image_pool.attention(cells.mean(1, keepdim=True), cells, cells)
        v.append(model.image_global(pooled[0])[0])
        sentences = sentences_of(report)
        hidden = encoder(encoder.tokenize([" ".join(sentences)], 100))[0, 1:-1]
        counts = [
            len(encoder.tokenizer(sentence, add_special_tokens=False)["input_ids"]) for sentence in sentences
        ]
        told = torch.stack([part.max(0).values for part in hidden.split(counts)])[None]
        pooled, sentence_weights = model.sentence_pool.attention(told.mean(1, keepdim=True), told, told)
        u.append(model.text_global(pooled[0])[0])
        regions, words = model.image_local(cells)[0], model.text_local(told)[0]
        attention = model.attention
        scores = attention.key_projection(regions) @ attention.key_projection(words).T / 4
        for own, other, probabilities, positives, weights in (
            (regions, words, scores.softmax(1), near, cell_weights[0, 0].detach()),
            (words, regions, scores.T.softmax(1), torch.eye(len(words)), sentence_weights[0, 0].detach()),
        ):
            attended = attention.output_projection(probabilities @ attention.value_projection(other))
            attended = attention.norm(attended)
            local = local + literal_local(own, attended, positives, weights)
            local = local + literal_local(attended, own, positives, weights)
    a, b = functional.normalize(torch.stack(v), dim=-1), functional.normalize(torch.stack(u), dim=-1)
    logits, target = a @ b.T / 0.1, torch.arange(len(v))
    total = 0.75 * functional.cross_entropy(logits, target) + 0.25 * functional.cross_entropy(
        logits.T, target
    )
    return total + 0.375 * local / len(v)


def test_loss_equals_its_twin() -> None:
    model, data = make(), batch(4)
    expected, ours = literal_loss(model, data.images, list(data.reports)), model.loss(data).total
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    inputs = [p for p in model.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(expected, inputs)
    for mine, other in zip(torch.autograd.grad(ours, inputs), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-4)


def test_local_losses_equal_their_twin() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 6, 8, requires_grad=True), torch.randn(3, 6, 8, requires_grad=True)
    weights, positives = torch.rand(3, 6), torch.rand(6, 6)
    counts = [6, 4, 1]
    mask = torch.arange(6) < torch.tensor(counts).unsqueeze(1)
    both = local_losses(a, b, positives, weights, mask, temperature=0.3)
    expected = [
        torch.stack(
            [
                literal_local(x[i, :n], y[i, :n], positives[:n, :n], weights[i, :n])
                for i, n in enumerate(counts)
            ]
        )
        for x, y in ((a, b), (b, a))
    ]
    for ours, theirs in zip(both, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        for mine, other in zip(
            torch.autograd.grad(ours.sum(), [a, b], retain_graph=True),
            torch.autograd.grad(theirs.sum(), [a, b]),
            strict=True,
        ):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_near_cells() -> None:
    near = near_cells(3, 5, 0.5, 2.0)
    diagonal = math.hypot(3, 5)
    for i in range(15):
        for j in range(15):
            d = math.hypot(i // 5 - j // 5, i % 5 - j % 5) / diagonal
            assert near[i, j].item() == pytest.approx(math.exp(-2 * d) if d <= 0.5 else 0, abs=1e-6)
    assert torch.equal(near_cells(3, 5, 0.0, 1.0), torch.eye(15))


def test_images_without_a_report_do_not_count() -> None:
    model, data = make(), batch(4)
    without = dataclasses.replace(data, reports=[*data.reports[:3], ""])
    expected = literal_loss(model, data.images[:3], list(data.reports[:3]))
    torch.testing.assert_close(model.loss(without).total, expected, rtol=1e-4, atol=1e-5)
    model.train()
    without = model.loss(dataclasses.replace(data, reports=["", "No effusion is seen.", "", ""]))
    without.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_what_the_mean_query_is_divided_by() -> None:
    torch.manual_seed(0)
    pool, short = MeanQueryPool(8, 2), torch.randn(1, 2, 8)
    padded, mask = functional.pad(short, (0, 0, 0, 3)), torch.tensor([[True, True, False, False, False]])
    alone, weights = pool(short)
    ours, own_weights = pool(padded, mask)
    torch.testing.assert_close(ours, alone)
    torch.testing.assert_close(own_weights[:, :2], weights)
    faithful, _ = pool(padded, mask, padded=True)
    assert not torch.allclose(faithful, alone, atol=1e-4)
    query = padded.mean(1, keepdim=True)
    torch.testing.assert_close(faithful, pool.attention(query, short, short)[0][:, 0])
    torch.testing.assert_close(pool.dense(short)[:, 0], pool(short[:, :1])[0])


def test_a_report_depends_on_its_batch_in_the_released_code_only() -> None:
    reports = [sentences_of(REPORTS[1]), ["No effusion is seen."] * 6]
    moved = {}
    for value in ("sentences", "padded"):
        model = make(mean_query=value)
        alone, together = (
            model._pool_sentences(*encode_sentences(model.text, chosen, "max"))[0][0]
            for chosen in (reports[:1], reports)
        )
        moved[value] = (alone - together).abs().max().item()
    assert moved["sentences"] < 1e-5
    assert moved["padded"] > 1e-3


def test_pads_count_in_the_released_statistics_only() -> None:
    """An image without a report brings nothing but pads."""
    moved = {}
    for value in ("sentences", "padded"):
        means = []
        for reports in (REPORTS[1:3], (*REPORTS[1:3], "")):
            model = make(batch_norm=value).train()
            model.loss(dataclasses.replace(batch(len(reports)), reports=reports))
            means.append(model.text_local.norm.running_mean)
        moved[value] = (means[0] - means[1]).abs().max().item()
    assert moved["sentences"] < 1e-6
    assert moved["padded"] > 1e-3


def test_pads_of_the_attention_count_in_the_released_statistics_only() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(8)
    state = attention.state_dict()
    regions, sentences = torch.randn(2, 9, 8), torch.randn(2, 4, 8)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    answers = {}
    for padded in (False, True):
        attention.load_state_dict(state)
        answers[padded] = attention(regions, sentences, mask, padded=padded)[1]
    assert not torch.allclose(answers[False][0], answers[True][0], atol=1e-4)
    attention.load_state_dict(state)
    real = attention(regions, sentences, torch.ones_like(mask), padded=False)
    torch.testing.assert_close(attention(regions, sentences, torch.ones_like(mask), padded=True)[1], real[1])


def test_sentences_change_places_in_training_only() -> None:
    model, data = make(), batch(400)
    plain = [sentences_of(report) for report in data.reports]
    assert model._sentences(data) == plain
    model.train()
    swapped = model._sentences(data)
    assert swapped == model._sentences(data)
    assert swapped != model._sentences(dataclasses.replace(data, seed=1))
    assert all(sorted(a) == sorted(b) for a, b in zip(swapped, plain, strict=True))
    # Of two sentences each swap moves none or both, so that after any they stand as before half of the time.
    stayed = [a == b for a, b in zip(swapped, plain, strict=True) if len(b) == 2]
    assert sum(stayed) / len(stayed) == pytest.approx(0.4 + 0.6 / 2, abs=0.08)
    assert make(swap_probability=0.0).train()._sentences(data) == plain


def test_maps_are_the_attention_of_prompts() -> None:
    model, images = make(), batch(2, side=96).images
    maps = model.heatmap(images, [NODULE, EFFUSION])
    assert maps.shape == (2, 2, 6, 6)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 2))
    regions = model.image_local(model.trunk(images).flatten(2).transpose(1, 2))
    expected = []
    for text in prompts(EFFUSION, "present"):
        hidden = model.text.encoder(model.text.encoder.tokenize([text], 100))[:, 1:-1]
        key = model.attention.key_projection(model.text_local(hidden.max(1).values[:, None]))[0, 0]
        expected.append((model.attention.key_projection(regions) @ key / 4).softmax(-1))
    torch.testing.assert_close(maps[:, 1].flatten(1), torch.stack(expected).mean(0), rtol=1e-4, atol=1e-6)
    cells = make(heatmap="cells").heatmap(images, [EFFUSION])
    assert not torch.allclose(cells[:, 0], maps[:, 1])
    assert not hasattr(make(local_weight=0.0), "attention")
    assert make(local_weight=0.0).heatmap(images, [EFFUSION]).shape == cells.shape


def test_a_cell_map_is_the_score_of_each_cell() -> None:
    model, images = make(heatmap="cells"), batch(2).images
    maps = model.heatmap(images, [EFFUSION])
    one = model.trunk(images)[:, :, 2:3, 1:2].flatten(2).transpose(1, 2)
    features = model.image_global(model.image_pool(one)[0])
    expected = model._compare(functional.normalize(features, dim=-1), [EFFUSION])
    torch.testing.assert_close(maps[:, :, 2, 1], expected, rtol=1e-4, atol=1e-5)


def test_uniform_weights_and_the_global_loss_alone() -> None:
    data = batch(4)
    total, parts = make().loss(data).total, make().loss(data).parts
    assert total.item() == pytest.approx(
        parts["global"].item() + 0.375 * (parts["local_image"] + parts["local_text"]).item(), rel=1e-5
    )
    assert make(local_weights="uniform").loss(data).parts["local_text"] != parts["local_text"]
    alone = make(local_weight=0.0).loss(data)
    assert set(alone.parts) == {"global"}


def released(model: LoVT) -> dict[str, torch.Tensor]:
    """The model's weights as the authors' checkpoint names and shapes them."""
    names = {
        "trunk.": "model_a.encoder.feature_extractor.backbone_layers.",
        "image_pool.": "model_a.encoder.global_aggregator.",
        "image_global.": "model_a.project_global.",
        "image_local.": "model_a.project_local.",
        "text.encoder.model.": "model_b.encoder.language_model.",
        "sentence_pool.": "model_b.encoder.global_aggregator.",
        "text_global.": "model_b.project_global.",
        "text_local.": "model_b.project_local.",
        "attention.": "ll_attention.",
    }
    state = {}
    for key, value in model.state_dict().items():
        (ours,) = (name for name in names if key.startswith(name))
        theirs = key.replace(ours, names[ours], 1)
        convolution = "project_local.projection" in theirs and value.ndim == 2
        state[theirs] = (value.unsqueeze(-1) if convolution else value).clone()
    return state


def test_released_weights(tmp_path: Path) -> None:
    source, path = make(), tmp_path / "lovt.ckpt"
    extra = {
        "chexpert_bin_scan.head.weight": torch.zeros(1),
        "loss_module.ll_alignments_a.0.pos_weights": torch.zeros(7, 7),
        "model_b.encoder.language_model.pooler.dense.weight": torch.zeros(2, 2),
    }
    torch.save({"state_dict": {**released(source), **extra}, "epoch": 3}, path)
    model, images = make(seed=1), batch(2).images
    report = model.load_released(path)
    assert set(report.ignored) == {"epoch", *extra}
    torch.testing.assert_close(model.score(images, [EFFUSION]), source.score(images, [EFFUSION]))
    torch.testing.assert_close(model.heatmap(images, [EFFUSION]), source.heatmap(images, [EFFUSION]))
    for wrong in ("model_a.project_global.norm.weight", "ll_attention.key_projection.bias"):
        fewer = {key: value for key, value in released(source).items() if key != wrong}
        torch.save({"state_dict": fewer}, path)
        with pytest.raises(CheckpointError, match=wrong.replace(".", r"\.")):
            model.load_released(path)
    torch.save({"state_dict": {**released(source), "surprise": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="surprise"):
        model.load_released(path)
