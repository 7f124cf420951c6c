"""ConVIRT: its loss against a literal twin, sentence sampling, prompts, per-cell maps."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from doubles import REPORTS, batch, ingredients
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from baselines.convirt import ConVIRT, ConVIRTSettings
from replication.knowledge.prompts import prompts
from replication.knowledge.report_sentences import sample_sentence, sentences_of
from replication.method import Finding

EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
NODULE = Finding("nodule", "nodule", "nodule")


def make(**values: object) -> ConVIRT:
    torch.manual_seed(0)
    settings = ConVIRTSettings.model_validate({"projection_dim": 16, **values})
    return ConVIRT.build(settings, ingredients()).eval()


def literal_loss(model: ConVIRT, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Pair by pair: three quarters image-to-text, one quarter text-to-image, cross-modal negatives only."""
    encoder = model.text.encoder
    v = [functional.normalize(model.image_head(model.trunk(x[None]).mean((2, 3)))[0], dim=0) for x in images]
    u = []
    for text in texts:
        tokens = encoder.tokenize([text], 128)
        pieces = encoder(tokens)[0, 1:-1]  # without [CLS] and [SEP]
        u.append(functional.normalize(model.text_head(pieces.max(0).values), dim=0))
    total = torch.zeros(())
    for i in range(len(v)):
        row = torch.stack([v[i] @ other for other in u]) / 0.1
        column = torch.stack([other @ u[i] for other in v]) / 0.1
        total = total - 0.75 * row.log_softmax(0)[i] - 0.25 * column.log_softmax(0)[i]
    return total / len(v)


def test_loss_equals_its_twin() -> None:
    model, data = make(), batch(4)
    texts = model._texts(data)
    expected, ours = literal_loss(model, data.images, texts), model.loss(data).total
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    inputs = [p for p in model.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(expected, inputs)
    for mine, other in zip(torch.autograd.grad(ours, inputs), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-4)


def test_sentences() -> None:
    report = "FINDINGS: Lungs are clear. Nodule of 1.5 cm!\nNo effusion is seen\n\nImpression: normal. OK."
    assert sentences_of(report) == [
        "FINDINGS: Lungs are clear.",
        "Nodule of 1.5 cm!",
        "No effusion is seen",
    ]
    assert sentences_of("Normal. Clear.") == ["Normal.", "Clear."]
    assert sentences_of("  \n ") == []
    assert sample_sentence("", 0.3) == ""


@given(st.text(alphabet="ab .!?\n", max_size=60), st.floats(0, 1, exclude_max=True))
def test_a_sampled_sentence_is_part_of_its_report(report: str, draw: float) -> None:
    sentence = sample_sentence(report, draw)
    assert sentence in report
    assert bool(sentence) == bool(report.strip())


def test_sentences_are_drawn_uniformly_and_by_the_batch_seed() -> None:
    model = make()
    data = batch(400)
    texts = model._texts(data)
    assert texts == model._texts(data)
    assert texts != model._texts(dataclasses.replace(data, seed=1))
    first = [text for text, report in zip(texts, data.reports, strict=True) if report == REPORTS[0]]
    for sentence in sentences_of(REPORTS[0]):
        assert first.count(sentence) == pytest.approx(100 / 3, abs=5 * math.sqrt(100 * 2 / 9))
    assert make(text_unit="report")._texts(data)[:4] == list(REPORTS)


def test_images_without_a_report_do_not_count() -> None:
    data = batch(4)
    model = make()
    without = dataclasses.replace(data, reports=[*data.reports[:3], ""])
    fewer = dataclasses.replace(data, images=data.images[:3], reports=data.reports[:3])
    texts = model._texts(without)
    assert texts[3] == ""
    expected = literal_loss(model, fewer.images, texts[:3])
    torch.testing.assert_close(model.loss(without).total, expected, rtol=1e-4, atol=1e-5)
    nothing = model.loss(dataclasses.replace(data, reports=[""] * 4))
    nothing.total.backward()
    assert nothing.total.item() == 0


def test_duplicates_can_be_ignored() -> None:
    data = dataclasses.replace(batch(4), reports=["No effusion is seen."] * 4)
    assert make().loss(data).parts["contrastive"] > 1
    ignored = make(duplicates="ignored").loss(data).parts
    assert ignored["contrastive"].item() == pytest.approx(0, abs=1e-6)
    assert ignored["repeated_texts"].item() == pytest.approx(0.75)


def test_scores_compare_positive_with_negative_prompts() -> None:
    images, model = batch(3).images, make()
    cosine = make(score="cosine")
    v = functional.normalize(model.image_head(model.trunk(images).mean((2, 3))), dim=-1)
    directions = {}
    for polarity in ("present", "absent"):
        texts = prompts(LEFT, polarity)
        features = functional.normalize(model.text_head(model.text(model.text.tokenize(texts))), dim=-1)
        directions[polarity] = functional.normalize(features.mean(0), dim=0)
    both = torch.stack([v @ directions["absent"], v @ directions["present"]], -1) / 0.1
    torch.testing.assert_close(
        model.score(images, [LEFT])[:, 0], both.softmax(-1)[:, 1], rtol=1e-4, atol=1e-5
    )
    expected = v @ directions["present"]
    torch.testing.assert_close(cosine.score(images, [LEFT])[:, 0], expected, rtol=1e-4, atol=1e-5)
    several = model.score(images, [NODULE, LEFT, EFFUSION])
    torch.testing.assert_close(several[:, 1:2], model.score(images, [LEFT]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(several[:, 1], several[:, 2])
    assert not torch.allclose(make(prompts="short").score(images, [LEFT]), model.score(images, [LEFT]))


def test_prompts_are_encoded_anew_after_training() -> None:
    images, model = batch(2).images, make()
    before = model.score(images, [EFFUSION])
    model.train()
    with torch.no_grad():
        model.text_head[2].weight.mul_(torch.linspace(-1, 1, 16).unsqueeze(1))
    model.eval()
    assert not torch.allclose(model.score(images, [EFFUSION]), before)


def test_a_map_is_the_score_of_each_cell() -> None:
    model = make()
    images = batch(2, side=96).images
    maps = model.heatmap(images, [EFFUSION, NODULE])
    assert maps.shape == (2, 2, 6, 6)
    one_cell = model.image_head(model.trunk(images)[:, :, 2, 3])
    expected = model._compare(functional.normalize(one_cell, dim=-1), [EFFUSION, NODULE])
    torch.testing.assert_close(maps[:, :, 2, 3], expected, rtol=1e-4, atol=1e-5)


def test_frozen_share_freezes_the_lower_layers() -> None:
    model = make(frozen_share=0.5)
    model.loss(batch(4)).total.backward()
    layers = model.text.encoder.model.encoder.layer
    assert all(p.grad is None for p in layers[0].parameters())
    assert all(p.grad is not None for p in layers[1].parameters())
