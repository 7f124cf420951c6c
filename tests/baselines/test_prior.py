"""PRIOR: its three stages against literal twins, hazards of the released code, scores, released weights."""

from __future__ import annotations

import dataclasses
from itertools import permutations
from pathlib import Path

import pytest
import torch
from doubles import REPORTS, batch, ingredients
from torch import nn
from torch.nn import functional

from baselines.prior import (
    GREY,
    PRIOR,
    PRIORSettings,
    arrange,
    divergence,
    mutual_prediction,
    sentence_contrast,
)
from replication.errors import CheckpointError, ConfigError
from replication.knowledge.prompts import prompt_set, prompts
from replication.knowledge.report_sentences import sentences_of
from replication.method import Finding
from replication.networks.input_range import grey_to_rgb, renormalise
from replication.networks.prototype_bank import PrototypeBank, gumbel

EFFUSION = Finding("effusion", "pleural effusion", "effusion")
NODULE = Finding("nodule", "nodule", "nodule")
SMALL = {
    "projection_dim": 16,
    "pool_heads": 2,
    "heads": 2,
    "decoder_layers": 2,
    "feedforward": 32,
    "dropout": 0.0,
    "prototypes": 12,
    "queries": 5,
    "reconstruction_stride": 4,
}


def make(seed: int = 0, **values: object) -> PRIOR:
    torch.manual_seed(seed)
    return PRIOR.build(PRIORSettings.model_validate({**SMALL, **values}), ingredients()).eval()


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return functional.cosine_similarity(a, b, dim=0)


def literal_global(a: list[torch.Tensor], b: list[torch.Tensor], scale: torch.Tensor) -> torch.Tensor:
    logits = torch.stack([torch.stack([scale * cosine(x, y) for y in b]) for x in a])
    target = torch.arange(len(a))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def literal_contrast(sentences: torch.Tensor, contexts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return literal_global(list(contexts), list(sentences), scale)


def literal_parts(model: PRIOR, images: torch.Tensor, reports: list[str]) -> dict[str, torch.Tensor]:
    """Image by image and sentence by sentence; the model is in evaluation mode, nothing is sampled."""
    stage, encoder, attention = model.settings.stage, model.text.encoder, model.cross_attention
    v, u, again = [], [], []
    sums: dict[str, list[torch.Tensor]] = {}
    for image, report in zip(images, reports, strict=True):
        maps = model.trunk(image[None])
        v.append(model.image_global(model.image_pool(maps))[0])
        cells = model.image_local(maps[0].flatten(1).T)
        texts = sentences_of(report)
        hidden = encoder(encoder.tokenize([" ".join(texts)], 100))[0, 1:-1]
        counts = [len(encoder.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        sentences = torch.stack([model.text_local(part).mean(0) for part in hidden.split(counts)])
        told = sentences
        if stage > 1:
            bank = model.bank.embed.weight
            told = ((sentences @ bank.T) / 0.9).softmax(1) @ bank
            sums.setdefault("prototype", []).extend((told - sentences).abs().mean(1))
        u.append(model.sentence_pool(told[None])[0])
        to_sentences = (attention.query1(cells) @ attention.key2(told).T / 4).sigmoid()
        to_cells = (attention.query2(told) @ attention.key1(cells).T / 4).sigmoid()
        from_text = to_sentences @ attention.value2(told)
        from_image = to_cells @ attention.value1(cells)
        both = [
            cosine(model.predictor(x), y.detach()) + cosine(model.predictor(y), x.detach())
            for x, y in zip(cells, from_text, strict=True)
        ]
        sums.setdefault("local_image", []).append(-torch.stack(both).mean() / 2)
        scale = model.local_logit_scale.exp()
        sums.setdefault("local_text", []).append(literal_contrast(told, from_image, scale))
        if stage < 3:
            continue
        square = torch.cat([cells, from_text], dim=1).T.reshape(1, 32, *maps.shape[2:])
        small = functional.avg_pool2d(renormalise(image[None], *GREY)[:, :1], 4)
        rebuilt = model.image_decoder(square)
        sums.setdefault("reconstruction", []).append((rebuilt - small).abs().mean())
        made = model.sentence_decoder(model.prototype_queries, cells[None])[0]
        targets = torch.cat([told, torch.zeros(5 - len(told), 16)])
        best = min(permutations(range(5)), key=lambda order: (made[list(order)] - targets).abs().sum().item())
        ordered = made[list(best)]
        sums.setdefault("generation", []).append((ordered - targets).abs().mean())
        ordered = ordered[: len(told)]
        p, q = (sentences @ bank.T).log_softmax(1), (ordered @ bank.T).log_softmax(1)
        sums.setdefault("consistency", []).extend((p.exp() * (p - q)).sum(1))
        mixed = ((ordered @ bank.T) / 0.9).softmax(1) @ bank
        again.append(model.sentence_pool(mixed[None])[0])
    parts = {name: torch.stack(values).mean() for name, values in sums.items()}
    parts["global"] = literal_global(v, u, model.logit_scale.exp())
    if stage == 3:
        parts["generated_global"] = literal_global(again, u, model.logit_scale.exp())
    return parts


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_loss_equals_its_twin(stage: int) -> None:
    model, data = make(stage=stage, temperature=0.1, local_temperature=0.1), batch(4)
    expected, ours = literal_parts(model, data.images, list(data.reports)), model.loss(data)
    assert set(ours.parts) == set(expected)
    for name, part in ours.parts.items():
        torch.testing.assert_close(part, expected[name].detach(), rtol=1e-3, atol=1e-4, msg=name)
    weights = {"prototype": 10, "generation": 10, "global": 10 if stage == 3 else 1}
    total = torch.stack([weights.get(name, 1) * part for name, part in expected.items()]).sum()
    torch.testing.assert_close(ours.total, total, rtol=1e-4, atol=1e-4)
    inputs = [p for p in model.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(total, inputs)
    for mine, other in zip(torch.autograd.grad(ours.total, inputs), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-3)


def test_stages_build_what_they_train() -> None:
    one, two, three = (make(stage=stage) for stage in (1, 2, 3))
    assert not hasattr(one, "bank")
    assert not hasattr(two, "image_decoder")
    assert len(list(one.parameters())) < len(list(two.parameters())) < len(list(three.parameters()))
    for model in (one, two, three):
        model.train().loss(batch(4)).total.backward()
        assert all(p.grad is not None for p in model.parameters())


def test_images_without_a_report_do_not_count() -> None:
    model, data = make(temperature=0.1), batch(4)
    without = model.loss(dataclasses.replace(data, reports=["", *data.reports[1:]]))
    expected = literal_parts(model, data.images[1:], list(data.reports[1:]))
    for name, part in without.parts.items():
        torch.testing.assert_close(part, expected[name].detach(), rtol=1e-3, atol=1e-4, msg=name)


def test_local_losses_equal_their_twins() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 5, 8, requires_grad=True), torch.randn(3, 5, 8, requires_grad=True)
    counts, scale = [5, 3, 1], torch.tensor(7.0)
    mask = torch.arange(5) < torch.tensor(counts).unsqueeze(1)
    predictor = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))
    contrast = torch.stack([literal_contrast(a[i, :n], b[i, :n], scale) for i, n in enumerate(counts)])
    prediction = torch.stack(
        [
            -torch.stack(
                [
                    cosine(predictor(x), y.detach()) / 2 + cosine(predictor(y), x.detach()) / 2
                    for x, y in zip(a[i], b[i], strict=True)
                ]
            ).mean()
            for i in range(3)
        ]
    )
    for ours, theirs in (
        (sentence_contrast(a, b, mask, scale), contrast),
        (mutual_prediction(a, b, predictor), prediction),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        for mine, other in zip(
            torch.autograd.grad(ours.sum(), [a, b], retain_graph=True),
            torch.autograd.grad(theirs.sum(), [a, b], retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    nothing = sentence_contrast(a, b, torch.zeros_like(mask), scale)
    assert torch.equal(nothing, torch.zeros(3))
    torch.testing.assert_close(
        divergence(a[0], b[0]).sum(),
        functional.kl_div(a[0].log_softmax(1), b[0].softmax(1), reduction="sum"),
    )


def test_the_assignment_is_the_best_one_or_the_released_one() -> None:
    torch.manual_seed(0)
    targets = torch.randn(1, 3, 4)
    shuffled = targets[:, [1, 2, 0]].clone().requires_grad_()
    fixed = arrange(shuffled, targets, backwards=False)
    torch.testing.assert_close(fixed, targets)
    official = arrange(shuffled, targets, backwards=True)
    assert (official - targets).abs().mean() > 0.5
    swapped = targets[:, [1, 0, 2]]
    torch.testing.assert_close(arrange(swapped, targets, backwards=True), targets)
    (gradient,) = torch.autograd.grad((fixed * torch.arange(3.0).view(1, 3, 1)).sum(), shuffled)
    assert gradient[0, :, 0].tolist() == [1, 2, 0]


def test_prototypes_are_a_mixture_and_noise_changes_it() -> None:
    torch.manual_seed(0)
    bank, x = PrototypeBank(6, 4, 0.5), torch.randn(2, 3, 4)
    expected = (x @ bank.embed.weight.T / 0.5).softmax(-1) @ bank.embed.weight
    torch.testing.assert_close(bank(x, None), expected)
    noise = gumbel((2, 3, 6), torch.Generator().manual_seed(1))
    assert torch.equal(noise, gumbel((2, 3, 6), torch.Generator().manual_seed(1)))
    torch.testing.assert_close(
        bank(x, noise), ((x @ bank.embed.weight.T + noise) / 0.5).softmax(-1) @ bank.embed.weight
    )
    many = gumbel((100_000,), torch.Generator().manual_seed(0))
    assert many.mean().item() == pytest.approx(0.5772, abs=0.02)


def test_sampled_prototypes_are_the_released_behaviour_only() -> None:
    images, data = batch(2).images, batch(4)
    mean, sample = make(), make(gumbel_eval="sample")
    assert mean.loss(data).total == mean.loss(dataclasses.replace(data, seed=5)).total
    assert sample.loss(data).total != sample.loss(dataclasses.replace(data, seed=5)).total
    assert not torch.allclose(mean.score(images, [EFFUSION]), sample.score(images, [EFFUSION]))
    together = sample.score(images, [NODULE, EFFUSION])[:, 1:]
    torch.testing.assert_close(together, make(gumbel_eval="sample").score(images, [EFFUSION]))
    mean.train()
    assert (
        mean.loss(data).parts["prototype"] != mean.loss(dataclasses.replace(data, seed=5)).parts["prototype"]
    )


def test_queries_see_those_before_them_in_the_released_code_only() -> None:
    cells = torch.randn(2, 9, 16)
    for value, expected in (("full", True), ("causal", False)):
        model = make(query_attention=value)
        changed = model.prototype_queries.clone()
        changed[:, -1] = torch.randn(16)
        first = model.sentence_decoder(model.prototype_queries, cells)[:, 0]
        moved = not torch.allclose(first, model.sentence_decoder(changed, cells)[:, 0], atol=1e-6)
        assert moved is expected


def test_a_token_is_a_cell_unless_the_map_is_viewed_as_released() -> None:
    maps = torch.arange(2 * 3 * 4.0).view(1, 6, 2, 2)
    cells, released = make()._tokens(maps), make(token_layout="official_view", heatmap="cells")._tokens(maps)
    assert cells[0, 1].tolist() == maps[0, :, 0, 1].tolist()
    assert released[0, 1].tolist() == [6, 7, 8, 9, 10, 11]
    channels_last = maps.contiguous(memory_format=torch.channels_last)
    assert torch.equal(make(token_layout="official_view", heatmap="cells")._tokens(channels_last), released)
    with pytest.raises(ConfigError, match="heatmap"):
        make(token_layout="official_view")


@pytest.mark.parametrize("layout", ["permuted", "official_view"])
def test_the_image_is_decoded_from_the_tokens_where_they_came_from(layout: str) -> None:
    """With projections that do nothing the decoder sees the map itself, in either layout."""
    model = make(token_layout=layout, heatmap="cells")
    maps, seen = torch.randn(2, 16, 3, 4), []
    model.image_decoder.forward = lambda x: seen.append(x) or torch.zeros(2, 1, 12, 16)  # type: ignore[method-assign, func-returns-value]
    tokens = model._tokens(maps)
    model._rebuild(tokens, 2 * tokens, torch.randn(2, 3, 48, 64), (3, 4))
    torch.testing.assert_close(seen[0], torch.cat([maps, 2 * maps], dim=1))


def test_sentences_are_shuffled_in_training_only_and_cut_to_the_queries() -> None:
    model, data = make(), batch(40)
    plain = [sentences_of(report) for report in data.reports]
    assert model._sentences(data, data.draws()) == plain
    model.train()
    shuffled = model._sentences(data, data.draws())
    assert shuffled != plain
    assert all(sorted(a) == sorted(b) for a, b in zip(shuffled, plain, strict=True))
    long = dataclasses.replace(data, reports=[" ".join([REPORTS[0]] * 3)] * 40)
    assert torch.isfinite(model.loss(long).total)


def test_maps_are_the_attention_between_prompts_and_cells() -> None:
    model, images = make(), batch(2, side=96).images
    maps = model.heatmap(images, [NODULE, EFFUSION])
    assert maps.shape == (2, 2, 6, 6)
    attention, cells = (
        model.cross_attention,
        model.image_local(model.trunk(images).flatten(2).transpose(1, 2)),
    )
    expected = []
    for text in prompts(EFFUSION, "present"):
        told = model._told([text])[0, 0]
        forth = (attention.query1(cells) @ attention.key2(told) / 4).sigmoid()
        back = (attention.key1(cells) @ attention.query2(told) / 4).sigmoid()
        expected.append((forth + back) / 2)
    torch.testing.assert_close(maps[:, 1].flatten(1), torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(make(heatmap="cells").heatmap(images, [EFFUSION])[:, 0], maps[:, 1])


def test_released_score() -> None:
    images, findings = batch(3).images, [EFFUSION, NODULE]
    model = make(rule="released", prompts="prior", score="cosine")
    assert prompts(EFFUSION, "present", "prior") == ("Pleural Effusion is observed",)
    assert prompts(NODULE, "present", "prior") == ("nodule is observed",)
    assert not prompts(NODULE, "absent", "prior")
    assert set(prompt_set("prior")["findings"]) == {
        "atelectasis",
        "cardiomegaly",
        "consolidation",
        "edema",
        "effusion",
    }
    logits, attention = [], []
    for finding in findings:
        text = prompts(finding, "present", "prior")
        u = model.text_features(text)
        logits.append(100 * functional.cosine_similarity(model.image_features(images), u))
        attention.append(model.heatmap(images, [finding]).mean((1, 2, 3)))
    expected = torch.stack(logits, 1).softmax(1) + 0.5 * torch.stack(attention, 1).softmax(1)
    torch.testing.assert_close(model.score(images, findings), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model.score(images, findings).sum(1), torch.full((3,), 1.5))


def test_a_grey_convolution_becomes_one_of_three_channels() -> None:
    torch.manual_seed(0)
    grey, weight = torch.rand(2, 1, 9, 9), torch.randn(4, 1, 3, 3)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    images = (grey - mean) / std
    expected = functional.conv2d((grey - GREY[0]) / GREY[1], weight, padding=1)
    ours = functional.conv2d(images, grey_to_rgb(weight, *GREY), padding=1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert grey_to_rgb(torch.randn(4, 3, 3, 3), *GREY).shape[1] == 9


def released(model: PRIOR) -> dict[str, torch.Tensor]:
    """The model's weights as the authors' checkpoint names them, with a grey first convolution."""
    names = {
        "trunk.": "image_encoder.encoder.",
        "image_pool.": "image_encoder.atten_pool.",
        "text.encoder.model.": "text_encoder.encoder.",
        "image_global.": "global_image_projection.",
        "image_local.": "local_image_projection.",
        "text_local.": "local_text_projection.",
        "sentence_pool.": "global_text_attention.",
        "cross_attention.": "local_cross_attention.",
        "bank.": "sentence_bank.",
        "sentence_decoder.model.": "sentence_decoder.",
    }
    state = {}
    for key, value in model.state_dict().items():
        ours = next((name for name in names if key.startswith(name)), "")
        state[names.get(ours, "") + key.removeprefix(ours)] = value.clone()
    grey = torch.randn(8, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    model.trunk.state_dict()["conv1.weight"].copy_(grey_to_rgb(grey, *GREY))
    return {**state, "image_encoder.encoder.conv1.weight": grey}


def test_released_weights(tmp_path: Path) -> None:
    source, path, images = make(), tmp_path / "prior.ckpt", batch(2).images
    state = released(source)
    extra = {
        "global_text_projection.weight": torch.zeros(2, 2),
        "sentence_decoder.embeddings.word_embeddings.weight": torch.zeros(5, 16),
        "text_encoder.encoder.embeddings.position_ids": torch.zeros(1, 9),
    }
    torch.save({"state_dict": {**state, **extra}, "global_step": 3}, path)
    model = make(seed=1)
    report = model.load_released(path)
    assert set(report.ignored) == {"global_step", *extra}
    for key in ("logit_scale", "prototype_queries", "image_decoder.output_head.0.bias", "predictor.2.weight"):
        assert report.mapped[key] == key
    torch.testing.assert_close(model.score(images, [EFFUSION]), source.score(images, [EFFUSION]))
    assert model.loss(batch(4)).total.item() == pytest.approx(source.loss(batch(4)).total.item(), rel=1e-5)
    for wrong in ("sentence_bank.embed.weight", "image_encoder.atten_pool.positional_embedding"):
        torch.save({"state_dict": {key: value for key, value in state.items() if key != wrong}}, path)
        with pytest.raises(CheckpointError, match=wrong.replace(".", r"\.")):
            model.load_released(path)
    torch.save({"state_dict": {**state, "surprise": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="surprise"):
        model.load_released(path)
    torch.save({"state_dict": {**state, "image_encoder.encoder.conv1.weight": torch.zeros(8, 3, 7, 7)}}, path)
    with pytest.raises(CheckpointError, match="shape"):
        model.load_released(path)


def test_a_stride_that_cannot_be_rebuilt() -> None:
    with pytest.raises(ConfigError, match="stride"):
        make(reconstruction_stride=3)
    with pytest.raises(ConfigError, match="heads"):
        make(pool_heads=3)
