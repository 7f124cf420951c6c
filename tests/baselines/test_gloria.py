"""GLoRIA: its losses beside literal twins, its text rules, prompts, scores, maps and released checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path

import pytest
import torch
from doubles import batch, ingredients
from torch import Tensor
from torch.nn import functional

import baselines.gloria as module
import replication.networks.word_regions as word_regions
from baselines.gloria import (
    GLoRIA,
    GLoRIASettings,
    standardised,
)
from replication.config import load_recipes
from replication.errors import CheckpointError, ConfigError
from replication.knowledge.prompts import prompt_set, prompts
from replication.knowledge.word_sentences import word_sentences
from replication.method import Finding
from replication.networks.word_regions import (
    Temperatures,
    local_losses,
    local_similarity,
)

EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
NODULE = Finding("nodule", "nodule", "nodule")
EDEMA = Finding("edema", "edema", "edema")
SHARP = Temperatures()


def make(**values: object) -> GLoRIA:
    torch.manual_seed(0)
    return GLoRIA.build(GLoRIASettings.model_validate(values), ingredients()).eval()


def literal_similarity(regions: Tensor, words: Tensor, aggregation: str = "sum") -> tuple[Tensor, Tensor]:
    """One image ``[R, D]`` and the used words of one text ``[T, D]``: similarity and attention ``[T, R]``."""
    shares = torch.stack([torch.softmax(torch.stack([r @ w for w in words]), 0) for r in regions])
    attention = torch.stack([torch.softmax(4 * shares[:, t], 0) for t in range(len(words))])
    terms = []
    for t, word in enumerate(words):
        context = sum(share * region for share, region in zip(attention[t], regions, strict=True))
        terms.append(5 * functional.cosine_similarity(word, context, dim=0))
    every = torch.stack(terms)
    value = {"sum": every.exp().sum(), "mean": every.exp().mean(), "max": every.exp().max()}[aggregation]
    return value.log(), attention


def literal_local(regions: Tensor, words: Tensor, counts: list[int], keep: list[int], how: str) -> Tensor:
    """Cross-entropy of images over texts, then of texts over images, pair by pair."""
    table = {
        (i, j): 10 * literal_similarity(regions[i], words[j, : counts[j]], how)[0] for i in keep for j in keep
    }
    to_text = [torch.stack([table[i, j] for j in keep]).logsumexp(0) - table[i, i] for i in keep]
    to_image = [torch.stack([table[j, i] for j in keep]).logsumexp(0) - table[i, i] for i in keep]
    return torch.stack([torch.stack(to_text).mean(), torch.stack(to_image).mean()])


def drawn(size: int = 4, cells: int = 6, length: int = 5, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    regions = torch.randn(size, cells, width, generator=generator).requires_grad_()
    return regions, torch.randn(size, length, width, generator=generator).requires_grad_()


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_local_losses_equal_their_twin(how: str) -> None:
    regions, words = drawn()
    counts, keep = [3, 5, 1, 4], [0, 1, 3]
    used = torch.arange(5) < torch.tensor(counts).unsqueeze(1)
    kept = torch.tensor([number in keep for number in range(4)])
    ours = local_losses(regions, words, used, kept, SHARP, how)  # type: ignore[arg-type]
    theirs = literal_local(regions, words, counts, keep, how)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for mine, other in zip(
        torch.autograd.grad(ours.sum(), [regions, words]),
        torch.autograd.grad(theirs.sum(), [regions, words]),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
        assert not mine[2].any()
        assert mine[3].any()


def test_images_in_turns_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    regions, words = drawn()
    used = torch.ones(words.shape[:2], dtype=torch.bool)
    whole = local_similarity(regions, words, used, SHARP, "sum")
    expected = torch.autograd.grad(whole.square().sum(), [regions, words])
    monkeypatch.setattr(
        word_regions, "_ATTENTION_CELLS", 3 * words.shape[0] * words.shape[1] * regions.shape[1]
    )
    parts = local_similarity(regions, words, used, SHARP, "sum")
    torch.testing.assert_close(parts, whole)
    for mine, other in zip(
        torch.autograd.grad(parts.square().sum(), [regions, words]), expected, strict=True
    ):
        torch.testing.assert_close(mine, other)


def encode(model: GLoRIA, text: str) -> tuple[list[str], Tensor, Tensor]:
    """Slot names, slots ``[S, D]`` and the sum of a text, by a walk over its tokens."""
    encoder = model.text.encoder
    tokens = encoder.tokenize([text], 97)
    states = encoder.model(input_ids=tokens.input_ids, output_hidden_states=True).hidden_states
    hidden = sum(states[1:])[0]
    names: list[str] = []
    rows: list[Tensor] = []
    for piece, row in zip(encoder.tokenizer.convert_ids_to_tokens(tokens.input_ids[0]), hidden, strict=True):
        if piece.startswith("##"):
            names[-1], rows[-1] = names[-1] + piece[2:], rows[-1] + row
        else:
            names.append(piece)
            rows.append(row)
    return names, torch.stack(rows), torch.stack(rows).sum(0)


def literal_images(model: GLoRIA, images: Tensor) -> tuple[Tensor, Tensor]:
    maps = model.trunk(images)
    return model.local_head(maps).flatten(2).transpose(1, 2), model.global_head(maps.mean((2, 3)))


def literal_loss(model: GLoRIA, images: Tensor, texts: list[str]) -> Tensor:
    regions, whole = literal_images(model, images)
    encoded = [encode(model, text) for text in texts]
    v = functional.normalize(whole, dim=-1)
    u = functional.normalize(torch.stack([total for _, _, total in encoded]), dim=-1)
    slots = [rows[:-1] for _, rows, _ in encoded]  # [CLS] and words, without [SEP]
    words = torch.nn.utils.rnn.pad_sequence(slots, batch_first=True)
    local = literal_local(regions, words, [len(rows) for rows in slots], list(range(len(texts))), "sum")
    target = torch.arange(len(v))
    whole_losses = [functional.cross_entropy(side, target) for side in (10 * v @ u.T, 10 * u @ v.T)]
    return local.sum() + sum(whole_losses)


def test_loss_equals_its_twin() -> None:
    model, data = make(), batch(3)
    texts = model._texts(data)
    ours, theirs = model.loss(data).total, literal_loss(model, data.images, texts)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    inputs = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(theirs, inputs)
    for mine, other in zip(torch.autograd.grad(ours, inputs), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-2 * float(other.abs().max()) + 1e-6)


def test_images_without_a_text_do_not_count() -> None:
    model, data = make(), batch(4)
    without = dataclasses.replace(data, reports=[*data.reports[:3], ""])
    fewer = dataclasses.replace(data, images=data.images[:3], reports=data.reports[:3])
    texts = model._texts(without)
    expected = literal_loss(model, fewer.images, texts[:3])
    torch.testing.assert_close(model.loss(without).total, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_the_losses() -> None:
    data = batch(4)
    parts = make().loss(data).parts
    for name, zero in (("local", "global_weight"), ("global", "local_weight")):
        torch.testing.assert_close(make(**{zero: 0.0}).loss(data).total, parts[name])
    torch.testing.assert_close(make().loss(data).total, parts["local"] + parts["global"])


def test_four_stages_give_regions_of_the_third() -> None:
    torch.manual_seed(0)
    model = GLoRIA.build(GLoRIASettings(), ingredients(last_stage=4)).eval()
    images = batch(2, side=64).images
    assert model.local_head.in_channels == 32
    assert model.global_head.in_features == 64
    assert model.heatmap(images, [NODULE]).shape == (2, 1, 4, 4)
    torch.testing.assert_close(
        model._regions(images)[1], model.global_head(model.trunk(images).mean((2, 3))), rtol=1e-4, atol=1e-5
    )


def test_released_caption_lengths_do_not_count_bracketed_words() -> None:
    """A word that begins with "[" is taken for no word, so the text ends a word early."""
    data = dataclasses.replace(batch(2), reports=["The heart \u4e2d is enlarged now", "The lungs are clear"])
    plain, released = make(), make(caption_lengths="released")
    assert not torch.allclose(plain.loss(data).total, released.loss(data).total)
    known = dataclasses.replace(data, reports=["The heart is enlarged", "The lungs are clear"])
    torch.testing.assert_close(plain.loss(known).total, released.loss(known).total)


def literal_scores(model: GLoRIA, images: Tensor, texts: tuple[str, ...], *, released: bool) -> Tensor:
    """Best mean of local and global similarity, image by image."""
    regions, whole = literal_images(model, images)
    best = []
    for cells, v in zip(regions, whole, strict=True):
        values = []
        for text in texts:
            _, rows, total = encode(model, text)
            if released:
                rows = functional.pad(rows, (0, 0, 0, 97 - len(rows)))[1 : 1 + min(96, len(text))]
            else:
                rows = rows[1:-1]
            local = literal_similarity(cells, rows, "max")[0]
            values.append((local + functional.cosine_similarity(v, total, dim=0)) / 2)
        best.append(torch.stack(values).max())
    return torch.stack(best)


def test_scores_take_the_best_prompt() -> None:
    model, images = make(), batch(3).images
    present = literal_scores(model, images, prompts(LEFT, "present"), released=False)
    absent = literal_scores(model, images, prompts(LEFT, "absent"), released=False)
    torch.testing.assert_close(
        model.score(images, [LEFT])[:, 0], (present - absent).sigmoid(), rtol=1e-4, atol=1e-5
    )
    several = make(score="positive").score(images, [NODULE, LEFT])
    torch.testing.assert_close(several[:, 1], present, rtol=1e-4, atol=1e-5)


def test_released_caption_lengths_are_characters() -> None:
    """Prompts are compared up to as many slots as they have characters: [SEP] and pads take part."""
    images = batch(3).images
    released = make(caption_lengths="released", score="positive", prompts="gloria")
    texts = prompts(EDEMA, "present", "gloria")
    expected = literal_scores(released, images, texts, released=True)
    ours = released.score(images, [EDEMA])[:, 0]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    words = make(score="positive", prompts="gloria")
    assert not torch.allclose(words.score(images, [EDEMA])[:, 0], ours)
    # The pads, of cosine 0, are a floor that no local similarity falls below.
    assert (
        make(**{**released.settings.model_dump(), "similarity": "local"}).score(images, [EDEMA]) >= 0
    ).all()


def test_the_map_is_the_mean_attention_of_the_words() -> None:
    model, images = make(), batch(2, side=96).images
    maps = model.heatmap(images, [NODULE, LEFT])
    regions, _ = literal_images(model, images)
    each = [
        literal_similarity(regions[1], encode(model, text)[1][1:-1])[1].mean(0)
        for text in prompts(LEFT, "present")
    ]
    torch.testing.assert_close(maps[1, 1].flatten(), torch.stack(each).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 2), rtol=1e-4, atol=1e-5)


def test_sentence_rules() -> None:
    report = "The HEART is very large. No effusion is seen. Edema."
    data = dataclasses.replace(batch(200), reports=[report] * 200)
    assert set(make()._texts(data)) == {"The HEART is very large.", "No effusion is seen."}
    assert set(make(sentence_rule="words")._texts(data)) == {"the heart is very large", "no effusion is seen"}
    assert set(make(sentence_rule="released")._texts(data)) == {"the heart is very large"}
    assert set(make(text_unit="report", sentence_rule="words")._texts(data)) == {
        " ".join(word_sentences(report))
    }
    assert make()._texts(data) == make()._texts(data)
    assert make()._texts(data) != make()._texts(dataclasses.replace(data, seed=1))


def test_the_released_rule_empties_prompts_of_one_word() -> None:
    images = batch(2).images
    scores = {
        (rule, name): make(prompts="short", score="positive", sentence_rule=rule).score(
            images, [Finding(name, name)]
        )
        for rule in ("words", "released")
        for name in ("pneumothorax", "edema")
    }
    assert torch.equal(scores["released", "pneumothorax"], scores["released", "edema"])
    assert not torch.allclose(scores["words", "pneumothorax"], scores["words", "edema"])


def test_published_prompts_are_the_draws_of_the_released_code() -> None:
    chosen = prompt_set("gloria")
    generator = random.Random(6)
    sizes = []
    for name, parts in chosen["dictionary"].items():
        every = [" ".join(words) for words in itertools.product(*parts.values())]
        sizes.append(len(every))
        assert chosen["findings"][name]["present"] == generator.sample(every, 5)
    assert sizes == [210, 15, 192, 18, 54]
    assert prompts(NODULE, "present", "gloria") == ("there is nodule",)


def test_prompts_that_deny_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prompts", lambda finding, polarity, style: ())
    with pytest.raises(ConfigError, match="say a finding is present"):
        make().score(batch(1).images, [NODULE])


def test_prompts_are_encoded_anew_after_training() -> None:
    images, model = batch(2).images, make()
    before = model.score(images, [EFFUSION])
    model.train()
    with torch.no_grad():
        model.text.encoder.model.encoder.layer[1].output.dense.weight.neg_()
    model.eval()
    assert not torch.allclose(model.score(images, [EFFUSION]), before)


def test_standardised_columns() -> None:
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 4 + 1
    ours = standardised(scores)
    for row, column in itertools.product(range(6), range(3)):
        values = scores[:, column]
        deviation = ((values - values.mean()).square().sum() / 6).sqrt()
        expected = (values[row] - values.mean()) / deviation
        torch.testing.assert_close(ours[row, column], expected)
    assert torch.equal(standardised(scores[:1]), scores[:1])


def test_the_faithful_variant_is_what_was_published() -> None:
    file = load_recipes("gloria")
    published, faithful = file.recipes["published"].model, file.variants["faithful"].model
    assert {key: published[key] for key in faithful} == faithful
    corrected = GLoRIASettings().model_dump()
    assert all(corrected[key] != value for key, value in faithful.items())


def released_state(model: GLoRIA) -> dict[str, Tensor]:
    """The model's weights under the authors' names, with what their files hold besides."""
    names = {
        "trunk.": "gloria.img_encoder.model.",
        "global_head.": "gloria.img_encoder.global_embedder.",
        "local_head.": "gloria.img_encoder.local_embedder.",
        "text.encoder.model.": "gloria.text_encoder.model.",
    }
    state = {}
    for key, value in model.state_dict().items():
        (prefix,) = (mine for mine in names if key.startswith(mine))
        state[names[prefix] + key.removeprefix(prefix)] = value.clone()
    state["gloria.text_encoder.model.pooler.dense.weight"] = torch.zeros(32, 32)
    state["gloria.text_encoder.model.embeddings.position_ids"] = torch.zeros(1, 160)
    return state


def test_released_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(1)
    author = GLoRIA.build(GLoRIASettings(), ingredients(last_stage=4)).eval()
    with torch.no_grad():
        for parameter in author.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    state = released_state(author)
    assert {"gloria.img_encoder.local_embedder.weight", "gloria.img_encoder.global_embedder.bias"} <= set(
        state
    )
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "gloria.ckpt")
    torch.manual_seed(2)
    ours = GLoRIA.build(GLoRIASettings(), ingredients(last_stage=4)).eval()
    report = ours.load_released(tmp_path / "gloria.ckpt")
    images = batch(2).images
    assert torch.equal(ours.score(images, [LEFT]), author.score(images, [LEFT]))
    assert set(report.ignored) == {
        "epoch",
        "gloria.text_encoder.model.pooler.dense.weight",
        "gloria.text_encoder.model.embeddings.position_ids",
    }
    for change in (
        lambda s: s.pop("gloria.img_encoder.local_embedder.weight"),
        lambda s: s.update({"gloria.img_encoder.model.fc.weight": torch.zeros(2, 2)}),
        lambda s: s.update({"gloria.img_encoder.local_embedder.weight": torch.zeros(2, 2, 1, 1)}),
    ):
        damaged = dict(state)
        change(damaged)
        torch.save({"state_dict": damaged}, tmp_path / "damaged.ckpt")
        with pytest.raises(CheckpointError):
            ours.load_released(tmp_path / "damaged.ckpt")
