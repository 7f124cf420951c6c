"""BioViL: its reconstructed losses against literal twins, projection and pooling, maps, released weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import batch, ingredients
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from baselines.biovil import BioViL, BioViLSettings, released_keys, shuffled
from replication.draws import Draws
from replication.errors import CheckpointError
from replication.knowledge.prompts import prompts
from replication.method import Batch, Finding
from replication.networks.masked_words import mask_words, masked_word_loss, word_embeddings
from replication.networks.smoothing import smooth
from replication.networks.word_regions import Temperatures, local_losses

PNEUMONIA = Finding("pneumonia", "pneumonia", "pneumonia")
EFFUSION = Finding("effusion", "pleural effusion", "effusion")
SECTIONS = (
    "FINDINGS: The heart is enlarged. No pneumothorax.\nIMPRESSION: There is a small left pleural effusion.",
    "FINDINGS: The lungs are clear.\nIMPRESSION: No pneumothorax.",
    "FINDINGS: Right lower lobe pneumonia.",
    "IMPRESSION: There is no effusion.",
)


def make(**values: object) -> BioViL:
    torch.manual_seed(0)
    settings = BioViLSettings.model_validate({"projection_dim": 16, **values})
    return BioViL.build(settings, ingredients()).eval()


def with_sections() -> Batch:
    return dataclasses.replace(batch(4), reports=list(SECTIONS))


def literal_contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Pair by pair, mean of both directions."""
    total = torch.zeros(())
    for i in range(len(a)):
        row = torch.stack([functional.cosine_similarity(a[i], other, dim=0) for other in b]) / temperature
        column = torch.stack([functional.cosine_similarity(other, b[i], dim=0) for other in a]) / temperature
        total = total - (row.log_softmax(0)[i] + column.log_softmax(0)[i]) / 2
    return total / len(a)


def literal_text(model: BioViL, text: str) -> Tensor:
    states = model.text.encoder(model.text.tokenize([text]))[0, 0]
    return model.cls_projection_head(states)


def literal_image(model: BioViL, image: Tensor) -> Tensor:
    """Cell by cell: project, then average."""
    cells = model.trunk(image[None])[0].flatten(1).T
    projected = [model.projector(cell.view(1, -1, 1, 1)).flatten() for cell in cells]
    return torch.stack(projected).mean(0)


def test_losses_equal_their_twins() -> None:
    model, data = make(mlm_weight=0.0), with_sections()
    outcome = model.loss(data)
    texts = [
        "There is a small left pleural effusion.",
        "No pneumothorax.",
        "Right lower lobe pneumonia.",
        "There is no effusion.",
    ]
    findings = ["The heart is enlarged. No pneumothorax.", "The lungs are clear."]
    u = torch.stack([literal_text(model, text) for text in texts])
    v = torch.stack([literal_image(model, image) for image in data.images])
    f = torch.stack([literal_text(model, text) for text in findings])
    whole, sections = literal_contrast(v, u, 0.5), literal_contrast(f, u[:2], 0.5)
    torch.testing.assert_close(outcome.parts["global"], whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outcome.parts["sections"], sections, rtol=1e-4, atol=1e-5)
    inputs = [p for p in model.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(whole + sections, inputs)
    for mine, other in zip(torch.autograd.grad(outcome.total, inputs), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-4)


def test_parts_are_weighted() -> None:
    outcome = make(mlm_weight=0.1, section_weight=2.0, local_weight=0.5).loss(with_sections())
    parts = outcome.parts
    assert set(parts) == {"global", "sections", "masked_words", "local"}
    expected = parts["global"] + 2 * parts["sections"] + 0.1 * parts["masked_words"] + 0.5 * parts["local"]
    torch.testing.assert_close(outcome.total.detach(), expected)
    assert set(make(mlm_weight=0.0, section_weight=0.0).loss(with_sections()).parts) == {"global"}


def test_pairs_without_a_text_do_not_count() -> None:
    data, model = with_sections(), make(local_weight=1.0, mlm_weight=0.0)
    without = dataclasses.replace(data, reports=[*data.reports[:3], ""])
    fewer = dataclasses.replace(data, images=data.images[:3], reports=data.reports[:3])
    torch.testing.assert_close(model.loss(without).total, model.loss(fewer).total, rtol=1e-4, atol=1e-5)
    nothing = make(local_weight=1.0).loss(dataclasses.replace(data, reports=[""] * 4)).total
    nothing.backward()
    assert nothing.item() == 0


def test_masked_words() -> None:
    encoder = make().text.encoder
    texts = ["the lungs are clear no effusion or pneumothorax is seen"] * 400
    tokens = encoder.tokenize(texts, 32)
    masked = mask_words(tokens, encoder, Draws(0, len(texts)).generators("masks"))
    content = encoder.content_mask(tokens)
    before, after = tokens.input_ids.flatten(), masked.tokens.input_ids.flatten()
    chosen = torch.zeros_like(before, dtype=torch.bool)
    chosen[masked.positions] = True
    assert torch.equal(before[masked.positions], masked.targets)
    assert torch.equal(before[~chosen], after[~chosen])
    assert content.flatten()[masked.positions].all()
    count = len(masked.positions)
    assert count / content.sum().item() == pytest.approx(0.15, abs=0.02)
    hidden = after[masked.positions] == encoder.tokenizer.mask_token_id
    kept = after[masked.positions] == masked.targets
    assert hidden.float().mean().item() == pytest.approx(0.8, abs=0.05)
    assert kept.float().mean().item() == pytest.approx(0.1, abs=0.05)
    again = mask_words(tokens, encoder, Draws(0, len(texts)).generators("masks"))
    assert torch.equal(again.tokens.input_ids, masked.tokens.input_ids)


def test_the_loss_of_masked_words_is_that_of_guessing_them() -> None:
    # A seed that masks some words of these short texts.
    model, data = make(), dataclasses.replace(with_sections(), seed=3)
    texts = [model._texts(report, torch.Generator()).image for report in data.reports]
    encoder = model.text.encoder
    masked = mask_words(encoder.tokenize(texts, 128), encoder, data.draws().generators("masks"))
    states = encoder(masked.tokens)
    values = []
    for position, target in zip(masked.positions.tolist(), masked.targets, strict=True):
        row, column = divmod(position, states.shape[1])
        assert model.mlm is not None
        logits = model.mlm(states[row, column], word_embeddings(encoder))
        values.append(functional.cross_entropy(logits, target))
    expected = torch.stack(values).mean()
    torch.testing.assert_close(model.loss(data).parts["masked_words"], expected, rtol=1e-4, atol=1e-5)
    assert masked_word_loss(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)).item() == 0


def test_masks_in_some_texts_leave_the_others_alone() -> None:
    data = with_sections()
    all_texts, one = make().loss(data).parts, make(mlm_share=0.25).loss(data).parts
    torch.testing.assert_close(one["global"], all_texts["global"])
    first = dataclasses.replace(data, images=data.images[:1], reports=data.reports[:1])
    torch.testing.assert_close(
        one["masked_words"], make().loss(first).parts["masked_words"], rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ValidationError):
        BioViLSettings(mlm_share=0.0)


def test_the_local_loss_equals_its_twin() -> None:
    torch.manual_seed(0)
    regions, words = torch.randn(3, 5, 4), torch.randn(3, 6, 4)
    used = torch.arange(6) < torch.tensor([[6], [3], [1]])
    keep = torch.ones(3, dtype=torch.bool)
    scores = torch.zeros(3, 3)
    for b in range(3):
        for i in range(3):
            spoken = words[i][used[i]]
            first = (regions[b] @ spoken.T).softmax(1)
            attention = (4 * first).softmax(0)
            context = attention.T @ regions[b]
            scores[b, i] = (5 * functional.cosine_similarity(context, spoken)).logsumexp(0)
    logits, target = 10 * scores, torch.arange(3)
    expected = [functional.cross_entropy(logits, target), functional.cross_entropy(logits.T, target)]
    ours = local_losses(regions, words, used, keep, Temperatures(), "sum")
    torch.testing.assert_close(ours, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_texts_of_a_report() -> None:
    draws = torch.Generator()
    read = [tuple(make()._texts(report, draws)) for report in (*SECTIONS, "Clear lungs. Normal.", " ")]
    assert read == [
        ("There is a small left pleural effusion.", "The heart is enlarged. No pneumothorax."),
        ("No pneumothorax.", "The lungs are clear."),
        ("Right lower lobe pneumonia.", ""),
        ("There is no effusion.", ""),
        ("Clear lungs. Normal.", ""),
        ("", ""),
    ]
    assert tuple(make(text_unit="report")._texts(SECTIONS[0], draws)) == (SECTIONS[0], "")


def test_shuffled_sentences_are_the_same_sentences() -> None:
    text = "A b. C d! E f? G 1.5 cm."
    draws = {shuffled(text, torch.Generator().manual_seed(seed)) for seed in range(20)}
    assert len(draws) > 5
    assert all(sorted(draw) == sorted(text) for draw in draws)
    assert all("1.5 cm." in draw for draw in draws)
    data = dataclasses.replace(with_sections(), reports=["A small effusion. Clear lungs. No nodule."] * 4)
    model = make(shuffle_sentences=True, mlm_weight=0.0)
    assert model.loss(data).total.item() == model.loss(data).total.item()


def test_cells_are_projected_before_they_are_averaged() -> None:
    model, images = make(), batch(2).images
    maps = model.projected(images)
    torch.testing.assert_close(model.image_features(images), maps.mean((2, 3)))
    averaged_first = model.projector(model.trunk(images).mean((2, 3), keepdim=True)).flatten(1)
    assert not torch.allclose(model.image_features(images), averaged_first, atol=1e-4)
    torch.testing.assert_close(model.cell_features(images)[:, 1, 2], maps[:, :, 1, 2])


def test_published_prompts() -> None:
    present, absent = (prompts(PNEUMONIA, polarity, "biovil") for polarity in ("present", "absent"))
    assert present[0] == "Findings consistent with pneumonia"
    assert (len(present), len(absent)) == (4, 4)
    assert "No evidence of acute pleural effusion" in prompts(EFFUSION, "absent", "biovil")


def test_prompts_are_averaged_before_they_are_normalised() -> None:
    images = batch(3).images
    answers = {}
    for ensemble in ("raw", "unit"):
        model = make(prompts="biovil", ensemble=ensemble, score="cosine")
        with torch.no_grad():  # lengths that differ, so that it matters
            model.cls_projection_head.dense_to_output.bias.add_(torch.linspace(-1, 1, 16))
        u = torch.stack([literal_text(model, text) for text in prompts(PNEUMONIA, "present", "biovil")])
        u = functional.normalize(u, dim=-1) if ensemble == "unit" else u
        v = functional.normalize(model.image_features(images), dim=-1)
        expected = v @ functional.normalize(u.mean(0), dim=0)
        answers[ensemble] = model.score(images, [PNEUMONIA])[:, 0]
        torch.testing.assert_close(answers[ensemble], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answers["raw"], answers["unit"], rtol=1e-5, atol=1e-6)


def test_marks_at_the_end_of_a_prompt_are_taken_off() -> None:
    model = make()
    plain = model.text_features(["No pneumothorax is seen"])
    torch.testing.assert_close(model.text_features(["No pneumothorax is seen. !?"]), plain)
    assert not torch.allclose(model._text_features(["No pneumothorax is seen."]), plain)


def test_maps_are_smoothed_cosines_with_the_positive_prompts() -> None:
    model, images = make(), batch(2, side=96).images
    plain = make(smoothing=0.0).heatmap(images, [EFFUSION, PNEUMONIA])
    units = functional.normalize(model.cell_features(images), dim=-1)
    u = torch.stack([literal_text(model, text.rstrip(".")) for text in prompts(EFFUSION, "present")]).mean(0)
    expected = units @ functional.normalize(u, dim=0)
    torch.testing.assert_close(plain[:, 0], expected, rtol=1e-4, atol=1e-5)
    maps = model.heatmap(images, [EFFUSION, PNEUMONIA])
    theirs = np.stack([gaussian_filter(one, 1.5) for one in plain.flatten(0, 1).numpy()])
    torch.testing.assert_close(maps.flatten(0, 1), torch.from_numpy(theirs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(maps, plain, atol=1e-3)


@pytest.mark.parametrize(("shape", "sigma"), [((15, 15), 1.5), ((2, 7), 1.5), ((14, 14), 0.6)])
def test_smoothing_is_scipys(shape: tuple[int, int], sigma: float) -> None:
    values = np.random.default_rng([7]).standard_normal(shape)
    ours = smooth(torch.from_numpy(values), sigma)
    np.testing.assert_allclose(ours.numpy(), gaussian_filter(values, sigma), rtol=1e-5, atol=1e-6)


def test_released_input_is_in_zero_to_one() -> None:
    seen: list[Tensor] = []
    model = make(input="released")
    model.trunk.stages, original = (lambda x: seen.append(x) or original(x)), model.trunk.stages  # type: ignore[method-assign,func-returns-value]
    grey = torch.rand(2, 1, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    model.image_features((grey - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    torch.testing.assert_close(seen[0], grey.expand(-1, 3, -1, -1), rtol=1e-4, atol=1e-5)


def test_a_previous_image_changes_the_difference_alone() -> None:
    model, images = make(temporal=True), batch(2).images
    assert model.temporal is not None
    fused = model.temporal(model.trunk(images))
    changed = model.temporal(model.trunk(images), model.trunk(images.flip(0)))
    half = fused.shape[1] // 2
    torch.testing.assert_close(fused[:, :half], changed[:, :half])
    assert not torch.allclose(fused[:, half:], changed[:, half:])
    constant = model.temporal.missing_previous_emb.expand_as(fused[:, half:])
    torch.testing.assert_close(fused[:, half:], constant)
    with pytest.raises(ValueError, match="temporal"):
        make().projected(images, images)
    model.train().loss(with_sections()).total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in model.temporal.vit_pooler.parameters())


def write_released(model: BioViL, folder: Path, **changes: Tensor | None) -> Path:
    """Both files under the authors' names; ``None`` leaves an entry out."""
    keys = released_keys(model.state_dict())
    state: dict[str, Tensor] = {theirs: model.state_dict()[ours] for theirs, ours in keys.items()}
    state |= {"encoder.encoder.fc.weight": torch.zeros(2, 3), "encoder.encoder.fc.bias": torch.zeros(2)}
    if model.mlm is not None:
        embedding = model.text.encoder.model.embeddings.word_embeddings.weight
        state |= {"cls.predictions.decoder.weight": embedding, "cls.predictions.decoder.bias": model.mlm.bias}
    state |= {"bert.embeddings.position_ids": torch.arange(4)}
    state |= {key: value for key, value in changes.items() if value is not None}
    state = {key: value for key, value in state.items() if changes.get(key, value) is not None}
    text = {key: value for key, value in state.items() if key.startswith(("bert.", "cls"))}
    torch.save({key: value for key, value in state.items() if key not in text}, folder / "image.pt")
    torch.save(text, folder / "pytorch_model.bin")
    return folder / "image.pt"


@pytest.mark.parametrize("temporal", [False, True])
def test_released_weights(temporal: bool, tmp_path: Path) -> None:
    source, other = make(temporal=temporal), make(temporal=temporal)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5)
    report = other.load_released(write_released(source, tmp_path))
    assert set(report.ignored) == {
        "encoder.encoder.fc.weight",
        "encoder.encoder.fc.bias",
        "bert.embeddings.position_ids",
    }
    assert all(torch.equal(source.state_dict()[key], value) for key, value in other.state_dict().items())


def test_names_are_the_released_ones() -> None:
    keys = set(released_keys(make(temporal=True).state_dict()))
    assert keys >= {
        "encoder.encoder.layer1.0.conv1.weight",
        "encoder.backbone_to_vit.weight",
        "encoder.missing_previous_emb",
        "encoder.vit_pooler.type_embed",
        "encoder.vit_pooler.blocks.2.attn.proj_q.weight",
        "encoder.vit_pooler.norm_post.bias",
        "projector.model.0.weight",
        "projector.model.1.running_var",
        "projector.model.3.bias",
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls_projection_head.dense_to_hidden.weight",
        "cls_projection_head.LayerNorm.bias",
        "cls_projection_head.dense_to_output.bias",
    }


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("projector.model.3.bias", None, r"projector\.model\.3\.bias"),
        ("bert.surplus", torch.zeros(1), "surplus"),
        ("cls.seq_relationship.bias", torch.zeros(2), "seq_relationship"),
        ("cls.predictions.decoder.bias", torch.ones(3), "shape"),
    ],
)
def test_anything_else_is_refused(key: str, value: Tensor | None, match: str, tmp_path: Path) -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        model.load_released(write_released(make(), tmp_path, **{key: value}))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_text_model_must_lie_beside_the_image_model(tmp_path: Path) -> None:
    path = write_released(make(), tmp_path)
    without = make(mlm_weight=0.0)
    assert any(key.startswith("cls.predictions.") for key in without.load_released(path).ignored)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="CXR-BERT"):
        without.load_released(path)
