"""MGCA: its losses beside literal twins, the switches of its hazards, maps and the released checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from doubles import batch, ingredients
from torch import Tensor
from torch.nn import functional

from baselines.mgca import (
    MGCA,
    MGCASettings,
    aggregate,
    clipped_weights,
    projection_head,
    prototype_loss,
    sinkhorn,
    token_losses,
)
from replication.config import load_recipes
from replication.errors import CheckpointError
from replication.knowledge.prompts import prompts
from replication.method import Finding

LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
NODULE = Finding("nodule", "nodule", "nodule")
REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.",
    "The lungs are clear.",
    "Right lower lobe pneumonia. There is no effusion.",
    "A large right pneumothorax is present.",
)


def make(last_stage: int = 3, **values: object) -> MGCA:
    torch.manual_seed(0)
    settings = MGCASettings.model_validate({"projection_dim": 16, "prototypes": 20, **values})
    model = MGCA.build(settings, ingredients(last_stage=last_stage)).eval()
    with torch.no_grad():  # weights of a trained model differ in norm; the prototypes must be normalised
        model.prototypes.weight.mul_(3)
    return model


def tokens_of(size: int = 3, patches: int = 5, words: int = 6, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, n, width, generator=generator).requires_grad_() for n in (patches, words)]


def literal_tokens(
    p: Tensor,
    w: Tensor,
    count: int,
    omega: Tensor,
    *,
    mask_pads: bool,
    unit_context: bool,
    patch_weights: Tensor | None,
) -> Tensor:
    """One image's patches and its text's words, of which ``count`` are no pads; cell by cell."""
    words = range(count if mask_pads else len(w))
    seen = []
    for m in range(len(w)):
        share = torch.softmax(torch.stack([w[m] @ patch / 0.1 for patch in p]), 0)
        seen.append(functional.normalize(sum(a * patch for a, patch in zip(share, p, strict=True)), dim=0))
    told = []
    for patch in p:
        share = torch.softmax(torch.stack([patch @ w[m] / 0.1 for m in range(count)]), 0)
        context = sum(a * w[m] for m, a in enumerate(share))
        told.append(functional.normalize(context, dim=0) if unit_context else context)
    total = torch.zeros(())
    for m in range(count):
        row = torch.stack([w[m] @ seen[k] / 0.1 for k in words]).logsumexp(0)
        column = torch.stack([w[k] @ seen[m] / 0.1 for k in words]).logsumexp(0)
        total = total + omega[m] * (row + column - 2 * w[m] @ seen[m] / 0.1) / 2
    for n in range(len(p)):
        row = torch.stack([p[n] @ told[k] / 0.1 for k in range(len(p))]).logsumexp(0)
        column = torch.stack([p[k] @ told[n] / 0.1 for k in range(len(p))]).logsumexp(0)
        share = 1 / len(p) if patch_weights is None else patch_weights[n]
        total = total + share * (row + column - 2 * p[n] @ told[n] / 0.1) / 2
    return total


@pytest.mark.parametrize("mask_pads", [True, False])
@pytest.mark.parametrize("unit_context", [True, False])
def test_token_losses_equal_their_twin(mask_pads: bool, unit_context: bool) -> None:
    leaves = tokens_of()
    patches, words = (functional.normalize(leaf, dim=-1) for leaf in leaves)
    counts = [6, 2, 4]
    pads = torch.arange(6) >= torch.tensor(counts).unsqueeze(1)
    omega = torch.rand(3, 6, generator=torch.Generator().manual_seed(2)).masked_fill(pads, 0)
    weights = None if unit_context else torch.rand(3, 5, generator=torch.Generator().manual_seed(4))
    how = {"mask_pads": mask_pads, "unit_context": unit_context}
    ours = token_losses(patches, words, pads, omega, weights, temperature=0.1, **how)
    theirs = torch.stack(
        [
            literal_tokens(
                patches[b],
                words[b],
                counts[b],
                omega[b],
                patch_weights=None if weights is None else weights[b],
                **how,
            )
            for b in range(3)
        ]
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours.sum(), leaves, retain_graph=True),
        torch.autograd.grad(theirs.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_pads_compete_only_officially() -> None:
    patches, words = (functional.normalize(leaf.detach(), dim=-1) for leaf in tokens_of())
    pads = torch.arange(6) >= torch.tensor([6, 2, 4]).unsqueeze(1)
    omega = clipped_weights(torch.ones(3, 6).masked_fill(pads, 0))
    moved = torch.where(pads.unsqueeze(-1), words.flip(-1), words)
    for mask_pads in (True, False):
        before, after = (
            token_losses(patches, w, pads, omega, temperature=0.1, mask_pads=mask_pads, unit_context=True)
            for w in (words, moved)
        )
        assert torch.allclose(before, after) == mask_pads


def test_weights_are_clipped_to_their_own_quantiles() -> None:
    attention = torch.tensor([[0.5, 0.1, 0.2, 0.0, 0.05, 0.0], [0.0] * 6, [0.0, 0.3, 0, 0, 0, 0]])
    some = torch.tensor([0.5, 0.1, 0.2, 0.05])
    clipped = some.clamp(torch.quantile(some, 0.1), torch.quantile(some, 0.9))
    expected = torch.zeros(3, 6)
    expected[0, [0, 1, 2, 4]] = clipped / clipped.sum()
    expected[2, 1] = 1
    torch.testing.assert_close(clipped_weights(attention), expected)
    assert (clipped_weights(attention)[0] > 0).sum() == 4


def literal_codes(scores: Tensor) -> Tensor:
    """Rows and columns of the K by B matrix scaled in turn."""
    q = scores.T / scores.sum()
    for _ in range(3):
        for k in range(q.shape[0]):
            q[k] = q[k] / q[k].sum() / q.shape[0]
        for b in range(q.shape[1]):
            q[:, b] = q[:, b] / q[:, b].sum() / q.shape[1]
    return (q * q.shape[1]).T


def literal_prototypes(v: Tensor, u: Tensor, weight: Tensor) -> Tensor:
    o_v, o_u = v @ weight.T, u @ weight.T
    q_v, q_u = (literal_codes((o.detach() / 0.05).exp()) for o in (o_v, o_u))
    losses = []
    for b in range(len(v)):
        losses.append(-(q_v[b] * (o_u[b] / 0.2).log_softmax(0)).sum())
        losses.append(-(q_u[b] * (o_v[b] / 0.2).log_softmax(0)).sum())
    return torch.stack(losses).mean()


def test_prototype_loss_equals_its_twin_and_leaves_pairs_out() -> None:
    generator = torch.Generator().manual_seed(5)
    v, u, weight = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (5, 5, 7))
    kept = [0, 1, 3, 4]
    keep = torch.tensor([b in kept for b in range(5)])

    def unit(x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1)

    ours = prototype_loss(
        unit(v), unit(u), unit(weight), keep, temperature=0.2, code_temperature=0.05, steps=3
    )
    theirs = literal_prototypes(unit(v)[kept], unit(u)[kept], unit(weight))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for mine, other in zip(
        torch.autograd.grad(ours, [v, u, weight]), torch.autograd.grad(theirs, [v, u, weight]), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_codes_use_prototypes_alike() -> None:
    scores = (torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 3).exp()
    codes = sinkhorn(scores, 50, torch.ones(64, dtype=torch.bool))
    torch.testing.assert_close(codes.sum(1), torch.ones(64))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 16.0), rtol=1e-2, atol=0)
    assert not sinkhorn(scores, 3, torch.zeros(64, dtype=torch.bool)).any()


def literal_loss(model: MGCA, images: Tensor, texts: tuple[str, ...]) -> Tensor:
    maps = model.trunk(images)
    v = functional.normalize(model.image_head(maps.mean((2, 3))), dim=-1)
    reports, words, weights = [], [], []
    encoder = model.text.encoder
    encoder.model.set_attn_implementation("eager")
    for text in texts:
        tokens = encoder.tokenize([text], 112)
        answer = encoder.model(input_ids=tokens.input_ids, output_attentions=True)
        attention = answer.attentions[-1][0, :, 0].mean(0).detach()
        rows: list[Tensor] = []
        shares: list[float] = []
        names = encoder.tokenizer.convert_ids_to_tokens(tokens.input_ids[0])
        for name, row, share in zip(names, answer.last_hidden_state[0], attention.tolist(), strict=True):
            if name.startswith("##"):
                rows[-1], shares[-1] = rows[-1] + row, shares[-1] + share
            else:
                rows.append(row)
                shares.append(share)
        reports.append(model.report_head(rows[0][None])[0])
        words.append(functional.normalize(model.word_head(torch.stack(rows[1:])), dim=-1))
        weights.append(clipped_weights(torch.tensor([shares[1:]]))[0])
    u = functional.normalize(torch.stack(reports), dim=-1)
    target = torch.arange(len(v))
    wholes = sum(functional.cross_entropy(s, target) for s in (v @ u.T / 0.07, u @ v.T / 0.07))
    patches = functional.normalize(model.patch_head(maps.movedim(1, -1).flatten(0, 2)), dim=-1)
    how = {"mask_pads": True, "unit_context": True, "patch_weights": None}
    tokens_loss = torch.stack(
        [
            literal_tokens(p, w, len(w), omega, **how)
            for p, w, omega in zip(patches.view(len(v), -1, 16), words, weights, strict=True)
        ]
    ).mean()
    prototypes = functional.normalize(model.prototypes.weight, dim=1)
    return wholes + tokens_loss + literal_prototypes(v, u, prototypes)


def test_loss_equals_its_twin() -> None:
    model, data = make(), dataclasses.replace(batch(3, side=48), reports=REPORTS[:3])
    ours = model.loss(data).total
    inputs = [p for p in model.parameters() if p.requires_grad]
    mine = torch.autograd.grad(ours, inputs)
    theirs = literal_loss(model, data.images, REPORTS[:3])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for one, other in zip(mine, torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3 * float(other.abs().max()) + 1e-5)


def test_images_without_a_report_do_not_count() -> None:
    model, data = make(), dataclasses.replace(batch(3, side=48), reports=REPORTS[:3])
    more = dataclasses.replace(
        data, images=torch.cat([data.images, data.images[:1] + 1]), reports=[*REPORTS[:3], " "]
    )
    for name, part in model.loss(data).parts.items():
        torch.testing.assert_close(model.loss(more).parts[name], part, rtol=1e-4, atol=1e-5)


def test_weights_of_the_losses() -> None:
    data = batch(4)
    chosen = {"global_weight": 0.5, "local_weight": 2.0, "prototype_weight": 3.0}
    outcome = make(**chosen).loss(data)
    expected = sum(w * p for w, p in zip(chosen.values(), outcome.parts.values(), strict=True))
    torch.testing.assert_close(outcome.total.detach(), expected)
    assert list(outcome.parts) == ["global", "local", "prototypes"]


def test_the_attention_of_a_word_is_its_own_or_the_next_tokens() -> None:
    model = make()
    tokens = model.text.tokenize(["the heart is enlarged", "the lungs"])
    length = tokens.input_ids.shape[1]
    hidden = torch.randn(2, length, 3, generator=torch.Generator().manual_seed(0))
    attention = torch.arange(2.0 * length).view(2, length)
    words, own, slots = aggregate(hidden, attention, tokens, model.pieces, "fixed")
    assert torch.equal(words[0], hidden[0])
    assert torch.equal(own[0], attention[0])
    assert slots.words.tolist() == [4, 2]
    shifted, following, fewer = aggregate(hidden, attention, tokens, model.pieces, "official")
    # The first text fills all positions: [SEP] is never reached and the last word is dropped.
    assert torch.equal(following[0], torch.tensor([1.0, 2, 3, 4, 0])[: length - 1] * (torch.arange(5) < 4))
    assert torch.equal(shifted[0, :4], hidden[0, :4])
    assert not shifted[0, 4].any()
    assert fewer.words.tolist() == [3, 2]
    assert torch.equal(following[1, :4], attention[1, 1:5])


@pytest.mark.parametrize(
    "change",
    [
        {"attention_shift": "official"},
        {"pad_columns": "official"},
        {"patch_context": "raw"},
        {"sentence_rule": "words"},
        {"text_layers": 1},
        {"input_side": 48},
    ],
)
def test_every_switch_changes_the_local_loss(change: dict[str, object]) -> None:
    data = batch(4)
    before, after = (make(**values).loss(data).parts["local"] for values in ({}, change))
    assert not torch.allclose(before, after, rtol=1e-4)


def test_the_word_rule_reads_words_and_no_short_reports() -> None:
    model = make(sentence_rule="words")
    reports = ["The heart, is\nlarge. Edema. 2. No effusion.", "Heart large.", "Edema."]
    assert model._reports(reports) == ["the heart is large no effusion", "", ""]
    assert make()._reports(reports)[1:] == reports[1:]


def test_training_keeps_prototypes_on_the_sphere() -> None:
    model, data = make().train(), batch(4)
    model.loss(data).total.backward()
    torch.testing.assert_close(model.prototypes.weight.norm(dim=1), torch.ones(20))
    assert model.prototypes.weight.grad is not None
    assert model.prototypes.weight.grad.any()
    resting = make()
    before = resting.prototypes.weight.clone()
    resting.loss(data)
    assert torch.equal(resting.prototypes.weight, before)


def test_prototypes_rest_for_some_steps() -> None:
    model, data = make(frozen_prototype_steps=2).train(), batch(4)
    moved = []
    for _ in range(4):
        model.zero_grad()
        model.loss(data).total.backward()
        moved.append(bool(model.prototypes.weight.grad.any()))  # type: ignore[union-attr]
    assert moved == [False, False, True, True]
    assert model.state_dict()["steps"].item() == 4


def test_heads_have_a_hidden_layer_and_end_without_scale() -> None:
    head = projection_head(4, 8, 3)
    answer = head(torch.randn(64, 4))
    torch.testing.assert_close(answer.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(answer.var(0, correction=0), torch.ones(3), rtol=1e-2, atol=0)
    assert set(head.state_dict()) >= {"0.weight", "1.running_mean", "3.bias", "4.running_var"}
    assert "4.weight" not in head.state_dict()


def test_four_stages_give_patches_of_the_third() -> None:
    model = make(last_stage=4)
    images = batch(2, side=64).images
    assert model.patch_head[0].in_features == 32
    assert model.image_head[0].in_features == 64
    assert model.heatmap(images, [NODULE]).shape == (2, 1, 4, 4)


def test_maps_are_the_attention_of_words_or_the_score_of_patches() -> None:
    model, images = make(), batch(2, side=96).images
    maps = model.heatmap(images, [NODULE, LEFT])
    patches = functional.normalize(model.patch_head(model.trunk(images)[1].flatten(1).T), dim=-1)
    each = []
    for text in prompts(LEFT, "present"):
        encoded = model._encode([text])
        words = functional.normalize(encoded.words[0, :-1], dim=-1)  # without [SEP]
        each.append(torch.stack([torch.softmax(patches @ word / 0.1, 0) for word in words]).mean(0))
    torch.testing.assert_close(maps[1, 1].flatten(), torch.stack(each).mean(0), rtol=1e-4, atol=1e-6)
    cosine = make(map="cosine").heatmap(images, [NODULE, LEFT])
    expected = model._compare(patches, [NODULE, LEFT])
    torch.testing.assert_close(cosine[1].flatten(1).T, expected, rtol=1e-4, atol=1e-5)


def test_the_faithful_variant_is_what_was_published() -> None:
    file = load_recipes("mgca")
    published, faithful = file.recipes["published"].model, file.variants["faithful"].model
    assert {key: published[key] for key in faithful} == faithful
    corrected = MGCASettings().model_dump()
    assert all(corrected[key] != value for key, value in faithful.items())


def released_state(model: MGCA) -> dict[str, Tensor]:
    """The model's weights under the authors' names, with what their files hold besides."""
    names = {
        "trunk.": "img_encoder_q.model.",
        "image_head.": "img_encoder_q.global_embed.head.",
        "patch_head.": "img_encoder_q.local_embed.head.",
        "text.encoder.model.": "text_encoder_q.model.",
        "report_head.": "text_encoder_q.global_embed.head.",
        "word_head.": "text_encoder_q.local_embed.head.",
        "prototypes.": "prototype_layer.",
    }
    state = {}
    for key, value in model.state_dict().items():
        if key == "steps":
            continue
        (prefix,) = (mine for mine in names if key.startswith(mine))
        convolution = prefix in ("patch_head.", "word_head.") and value.ndim == 2
        state[names[prefix] + key.removeprefix(prefix)] = (
            value.unsqueeze(-1) if convolution else value.clone()
        )
    return state


UNUSED = (
    "patch_local_atten_layer.in_proj_weight",
    "word_local_atten_layer.out_proj.bias",
    "text_encoder_q.model.encoder.layer.1.crossattention.self.query.weight",
)


def test_released_checkpoint(tmp_path: Path) -> None:
    author = make(last_stage=4)
    with torch.no_grad():
        for parameter in author.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    state = released_state(author)
    assert state["img_encoder_q.local_embed.head.0.weight"].shape == (64, 32, 1)
    extra = dict.fromkeys(UNUSED, torch.zeros(2))
    torch.save({"state_dict": state | extra, "global_step": 7}, tmp_path / "mgca.ckpt")
    ours = make(last_stage=4)
    report = ours.load_released(tmp_path / "mgca.ckpt")
    images = batch(2).images
    assert torch.equal(ours.score(images, [LEFT]), author.score(images, [LEFT]))
    assert torch.equal(ours.heatmap(images, [LEFT]), author.heatmap(images, [LEFT]))
    assert set(report.ignored) == {"global_step", *UNUSED}
    for change in (
        lambda s: s.pop("prototype_layer.weight"),
        lambda s: s.update({"text_encoder_q.model.encoder.layer.2.output.dense.bias": torch.zeros(32)}),
        lambda s: s.update({"prototype_layer.weight": torch.zeros(500, 16)}),
    ):
        damaged = dict(state)
        change(damaged)
        torch.save({"state_dict": damaged}, tmp_path / "damaged.ckpt")
        with pytest.raises(CheckpointError):
            ours.load_released(tmp_path / "damaged.ckpt")
