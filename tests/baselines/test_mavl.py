"""MAVL: losses and heads beside literal twins in the released layout, switches, scores, released names."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import batch, ingredients, text_encoder, triplets
from torch import distributed, multiprocessing, nn
from torch.nn import functional

from baselines.mavl import (
    CONCEPTS,
    KEPT,
    MAVL,
    MAVLSettings,
    global_contrast,
    released_keys,
    text_scores,
)
from replication.errors import CheckpointError, ConfigError
from replication.knowledge.aspects import load_aspects
from replication.knowledge.descriptions import DESCRIPTIONS, EXTRA_DESCRIPTIONS
from replication.knowledge.vocabulary import PATHOLOGIES
from replication.method import Finding
from replication.network_config import TrunkConfig
from replication.networks.image_trunk import ResNetTrunk
from replication.networks.triplet_losses import existence_labels

SMALL = {"d_model": 16, "decoder_layers": 2, "heads": 2, "feedforward": 32, "dropout": 0.0}
EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
FIBROSIS = Finding("fibrosis", "fibrosis", "tail_abnorm_obs")
COVID = Finding("covid", "covid pneumonia")


def make(**values: object) -> MAVL:
    torch.manual_seed(0)
    return MAVL.build(MAVLSettings.model_validate({**SMALL, **values}), ingredients()).eval()


def test_concepts_and_rows_of_the_book() -> None:
    """Disease-major: a description, then the eight aspects in alphabetical order."""
    assert len(CONCEPTS) == 9
    assert CONCEPTS[0] == "description"
    assert list(CONCEPTS[1:]) == sorted(CONCEPTS[1:])
    model, index = make(), PATHOLOGIES.index("effusion")
    texts = [DESCRIPTIONS["effusion"], *load_aspects().pathologies[index]]
    expected = text_encoder().embed(texts, pooling="cls", max_length=128)
    rows = model.concept_book.features[9 * index : 9 * index + 9]
    assert model.concept_book.features.shape == (675, 32)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)


def test_global_contrast_equals_its_twin() -> None:
    """In the released layout: one flat list of queries, every ninth of which is of one concept."""
    torch.manual_seed(0)
    labels = existence_labels(triplets(5).transpose(1, 2))
    labels[3] = -1
    images, queries = torch.randn(5, 16, requires_grad=True), torch.randn(675, 16, requires_grad=True)
    temp = torch.linspace(2.0, 3.0, 9).requires_grad_()
    ours = global_contrast(images, queries.unflatten(0, (75, 9)), labels, temp.exp())

    told = [b for b in range(5) if b != 3]
    target = (labels[told] == 1).float()
    similarity = functional.normalize(images[told], dim=-1) @ functional.normalize(queries, dim=-1).T
    losses = []
    for k in range(9):
        logits = temp[k].exp() * similarity[:, k::9]
        to_text = -(target * functional.log_softmax(logits, dim=1)).mean(dim=0).mean()
        to_image = -(target.T * functional.log_softmax(logits.T, dim=1)).mean(dim=0).mean()
        losses.append(to_text + to_image)
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
    leaves = [images, queries, temp]
    for mine, theirs in zip(
        torch.autograd.grad(ours, leaves, retain_graph=True),
        torch.autograd.grad(expected, leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
    assert torch.equal(torch.autograd.grad(ours, images)[0][3], torch.zeros(16))


def test_a_silent_batch_costs_nothing() -> None:
    images = torch.randn(3, 16, requires_grad=True)
    loss = global_contrast(images, torch.randn(75, 9, 16), torch.full((3, 75), -1), torch.ones(9))
    loss.backward()
    assert loss.item() == 0
    assert images.grad is not None
    assert torch.equal(images.grad, torch.zeros(3, 16))


def gradients(data: dict[str, torch.Tensor], rows: slice) -> tuple[torch.Tensor, ...]:
    """Gradients of shared weights of images and texts, as data-parallel training averages them."""
    weights = [data[name].clone().requires_grad_() for name in ("image_weight", "text_weight")]
    concepts = (data["texts"] @ weights[1]).unflatten(0, (75, 9))
    images = data["images"][rows] @ weights[0]
    loss = global_contrast(images, concepts, data["labels"][rows], torch.full((9,), 5.0))
    found = torch.autograd.grad(loss, weights)
    if distributed.is_initialized():
        for gradient in found:
            distributed.all_reduce(gradient)
            gradient /= distributed.get_world_size()
    return found


def process(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    data = torch.load(f"{folder}/data.pt", weights_only=True)
    torch.save(gradients(data, slice(3 * rank, 3 * rank + 3)), f"{folder}/gradient{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = existence_labels(triplets(6).transpose(1, 2))
    labels[4] = -1
    data = {"labels": labels, "images": torch.randn(6, 5), "texts": torch.randn(675, 5)}
    data |= {"image_weight": torch.randn(5, 8), "text_weight": torch.randn(5, 8)}
    torch.save(data, tmp_path / "data.pt")
    multiprocessing.spawn(process, args=(31500 + os.getpid() % 2000, str(tmp_path)), nprocs=2)
    expected = gradients(data, slice(None))
    for rank in range(2):
        ours = torch.load(tmp_path / f"gradient{rank}.pt", weights_only=True)
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_heads_read_the_released_layout() -> None:
    """Both heads see a disease's nine features one after the other; the second is a strided convolution."""
    model, data = make(), batch(2)
    maps = model.trunk(data.images)
    queries = model.queries(model.concept_book.features)
    memory = model.patch_output(model.patch_hidden(maps)).flatten(2).transpose(1, 2)
    decoded = model.norm(model.decoder(queries, memory).features)
    features = model._answer(queries, maps).features
    for disease in (0, 20, 74):
        nine = torch.cat([decoded[:, 9 * disease + k] for k in range(9)], dim=-1)
        assert torch.equal(features[:, disease], nine)
    assert model.location is not None
    located = model.location(decoded.transpose(1, 2)).transpose(1, 2)
    book = model.anatomy_book.features
    ours = model._similarities(features, book)
    torch.testing.assert_close(ours, located @ book.T, rtol=1e-4, atol=1e-4)
    weights = list(model.location.parameters())
    probe = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad((ours * probe).sum(), weights, retain_graph=True),
        torch.autograd.grad((located @ book.T * probe).sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


def test_dropout_takes_whole_queries() -> None:
    model = make(dropout=0.5).train()
    ours = model._drop(torch.ones(4, 75, 9 * 16)).unflatten(2, (9, 16))
    assert set(ours.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(ours.amin(-1), ours.amax(-1))
    assert 0.45 < ours[..., 0].eq(0).float().mean() < 0.55
    with pytest.warns(UserWarning, match="3D input"):
        theirs = nn.Dropout2d(0.5)(torch.ones(675, 4, 16))
    assert torch.equal(theirs.amin(-1), theirs.amax(-1))
    assert torch.equal(model.eval()._drop(ours.flatten(2)), ours.flatten(2))


def test_switches_reach_the_loss() -> None:
    data = batch()
    base = make().loss(data)
    parts = base.parts
    assert set(parts) == {"exist", "position", "global"}
    total = parts["exist"] + parts["position"] + 0.1 * parts["global"]
    torch.testing.assert_close(base.total.detach(), total)
    weighted = make(position_weight=0.5, global_weight=2.0).loss(data)
    total = parts["exist"] + 0.5 * parts["position"] + 2 * parts["global"]
    torch.testing.assert_close(weighted.total.detach(), total)
    bare = make(position_weight=0.0, global_weight=0.0)
    assert set(bare.loss(data).parts) == {"exist"}
    assert not [name for name, _ in bare.named_parameters() if name.startswith(("location", "pool", "log_"))]
    for switch in ({"positive": "random"}, {"negatives": "not_one"}):
        other = make(**switch).loss(data).parts
        assert other["position"] != parts["position"], switch
        assert (other["exist"], other["global"]) == (parts["exist"], parts["global"])


def test_the_random_positive_follows_the_batch_seed() -> None:
    model, data = make(positive="random"), batch()
    first, again, other = (
        model.loss(dataclasses.replace(data, seed=seed)).parts["position"] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_without_self_attention() -> None:
    """A query then knows nothing of the others."""
    model, maps = make(self_attention=False), make().trunk(batch(2).images)
    assert not [name for name, _ in model.named_parameters() if "self_attn" in name or "norm1" in name]
    queries = model.queries(model.concept_book.features)
    few = model._answer(queries[:18], maps).features
    torch.testing.assert_close(few, model._answer(queries, maps).features[:, :2], rtol=1e-4, atol=1e-5)


def test_excluded_classes_teach_nothing() -> None:
    data = batch()
    changed = data.triplets.clone()
    changed[..., [index for index, name in enumerate(PATHOLOGIES) if name not in KEPT]] = 1
    other = dataclasses.replace(data, triplets=changed)
    model = make(exclude_classes=True, global_weight=0.0)
    assert len(model.trained) == 15
    assert model.loss(data).parts["exist"] == model.loss(other).parts["exist"]
    assert make().loss(data).parts["exist"] != make().loss(other).parts["exist"]


def test_an_empty_batch() -> None:
    data = dataclasses.replace(batch(2), triplets=torch.full((2, 51, 75), -1, dtype=torch.int8))
    assert make().loss(data).total.item() == 0
    assert make(empty_batch="nan").loss(data).total.isnan()


def literal_text_scores(cosines: torch.Tensor, finding: int, scale: torch.Tensor) -> torch.Tensor:
    """``[B, 675]`` cosines -> ``[B]``: softmax over a reference and the finding, mean of all."""
    values = []
    for reference in (0, 1):
        for k in range(9):
            pair = cosines[:, [9 * reference + k, 9 * finding + k]] * scale[k]
            values.append(pair.softmax(-1)[:, 1])
    return torch.stack(values).mean(0)


@pytest.mark.parametrize("temperature", ["none", "trained"])
def test_scores_by_text(temperature: str) -> None:
    """V17: the released softmax has no temperature."""
    model, images = make(mode="text", text_temperature=temperature), batch(3).images
    assert model.pool is not None
    pooled = model.pool(model.trunk(images))
    queries = model.queries(model.concept_book.features)
    cosines = functional.normalize(pooled, dim=-1) @ functional.normalize(queries, dim=-1).T
    scale = torch.ones(9) if temperature == "none" else torch.full((9,), 1 / 0.07)
    expected = literal_text_scores(cosines, PATHOLOGIES.index("effusion"), scale)
    torch.testing.assert_close(model.score(images, [EFFUSION])[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_text_scores_of_the_references_themselves() -> None:
    images, references = torch.randn(4, 8), torch.randn(1, 9, 8)
    torch.testing.assert_close(text_scores(images, references, references, 3.0), torch.full((4, 1), 0.5))


def test_which_findings_are_scored_by_text() -> None:
    images = batch(2).images
    by_finding, feature, text = (make(mode=mode) for mode in ("by_finding", "feature", "text"))
    both = [EFFUSION, COVID]
    expected = torch.stack([feature.score(images, both)[:, 0], text.score(images, both)[:, 1]], dim=1)
    torch.testing.assert_close(by_finding.score(images, both), expected)
    assert not torch.allclose(feature.score(images, both)[:, 1], expected[:, 1])
    tail, own = make(fibrosis="tail"), make(fibrosis="own_prompt")
    assert torch.equal(
        tail.score(images, [FIBROSIS]), make(fibrosis="tail", mode="feature").score(images, [FIBROSIS])
    )
    assert torch.equal(own.score(images, [FIBROSIS]), text.score(images, [FIBROSIS]))
    without = make(global_weight=0.0)
    assert torch.isfinite(without.score(images, both)).all()
    with pytest.raises(ConfigError, match="need the global loss"):
        make(mode="text", global_weight=0.0)


def test_questions_of_findings_without_a_class() -> None:
    model = make()
    questions = model._questions([EFFUSION, COVID, FIBROSIS])
    assert questions.index == [PATHOLOGIES.index("effusion"), 75, 76]
    assert questions.texts.shape == (693, 32)
    texts = [EXTRA_DESCRIPTIONS["covid"], *load_aspects().findings["covid"]]
    expected = torch.stack([model.concept_book.later(text) for text in texts])
    assert torch.equal(questions.texts[675:684], expected)
    mask = questions.mask
    assert mask is not None
    assert mask[:, :675].all()
    assert not mask[:675, 675:].any()
    assert torch.equal(mask[675:, 675:], torch.eye(2).bool().repeat_interleave(9, 0).repeat_interleave(9, 1))


def test_relation_scores() -> None:
    images, model = batch(2).images, make()
    features = model._answer(model.queries(model.concept_book.features), model.trunk(images)).features
    index = PATHOLOGIES.index("effusion")
    where = model._similarities(features, model.anatomy_book.features)[:, index].log_softmax(-1)[:, 4]
    present = model.classifier(features).log_softmax(-1)[:, index, 1]
    torch.testing.assert_close(model.score(images, [LEFT])[:, 0], where + present, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.score(images, [EFFUSION])[:, 0], present.exp(), rtol=1e-4, atol=1e-5)
    alone = make(relation_with_existence=False).score(images, [LEFT])[:, 0]
    torch.testing.assert_close(alone, where, rtol=1e-4, atol=1e-4)


def test_heatmaps_merge_the_chosen_aspects() -> None:
    """V6: the released script takes four of the nine."""
    images = batch(2, side=96).images
    model = make()
    queries = model.queries(model.concept_book.features)
    answer = model._answer(queries, model.trunk(images), want_maps=True)
    assert answer.attention is not None
    index = 9 * PATHOLOGIES.index("effusion")
    maps = answer.attention.mean(0)[:, index : index + 9]
    four = ["description", "patterns", "shape", "texture"]
    for values, expected in (
        ({}, maps.mean(1)),
        ({"grounding_concepts": four}, maps[:, [0, 6, 7, 8]].mean(1)),
        ({"grounding_merge": "max"}, maps.amax(1)),
    ):
        ours = make(**values).heatmap(images, [EFFUSION, COVID])
        assert ours.shape == (2, 2, 6, 6)
        torch.testing.assert_close(ours[:, 0].flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_released_names_cover_the_model(tmp_path: Path) -> None:
    model = make()
    ours = {key: value for key, value in model.state_dict().items() if "_book." not in key}
    keys = released_keys(ours)
    assert sorted(keys.values()) == sorted(ours)
    state = {f"module.{theirs}": torch.randn_like(ours[mine].float()) for theirs, mine in keys.items()}
    torch.save(state, tmp_path / "a.pth")
    assert model.load_released(tmp_path / "a.pth").mapped == keys
    assert torch.equal(model.log_scale, state["module.temp"])
    assert torch.equal(model.patch_hidden[1].weight, state["module.res_l1.1.weight"])
    del state["module.temp"]
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="missing: temp"):
        model.load_released(tmp_path / "b.pth")


class WideEncoder(nn.Module):
    """Features of the released width, without a network."""

    def embed(self, texts: list[str], **_: Any) -> torch.Tensor:
        return torch.randn(len(texts), 768)


def test_released_shapes() -> None:
    """The released model has 353 entries and 19,654,220 parameters."""
    parts = dataclasses.replace(ingredients(), trunk=ResNetTrunk(TrunkConfig()), text_encoder=WideEncoder())
    model = MAVL(MAVLSettings(), parts)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if "_book." not in key}
    keys = released_keys(shapes)
    assert len(keys) == 353
    assert sum(p.numel() for p in model.parameters()) == 19_654_220
    named = {theirs: shapes[mine] for theirs, mine in keys.items()}
    assert named["temp"] == (9,)
    assert named["pool.positional_embedding"] == (197, 1024)
    assert named["pool.c_proj.weight"] == (256, 1024)
    assert named["res_l1.0.weight"] == (1024, 1024, 1, 1)
    assert named["res_l1.1.weight"] == (1,)
    assert named["location_emb.weight"] == (768, 256, 9)
    assert named["classifier.weight"] == (2, 2304)
    assert named["decoder.layers.3.linear2.weight"] == (256, 1024)
    assert named["backbone.6.5.bn3.bias"] == (1024,)
