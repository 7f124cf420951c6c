"""KAD: its losses beside literal twins, entity strings, switches of its audit, released names, questions."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import batch, ingredients
from torch import nn
from torch.nn import functional

from baselines.kad import KAD, QUERIES, KADSettings, entity_texts, released_keys
from replication.errors import CheckpointError
from replication.knowledge.prompts import prompt_set, prompts
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES, pathology_index
from replication.method import Finding
from replication.network_config import TrunkConfig
from replication.networks.image_trunk import ResNetTrunk

SMALL = {"d_model": 16, "decoder_layers": 2, "heads": 2, "feedforward": 32, "dropout": 0.0}
FAITHFUL = {
    "unmentioned": "absent",
    "normalise": False,
    "contrast_scale": "log",
    "share_norm": True,
    "entity_blank": False,
    "questions": "asked",
    "initialisation": "released",
}
EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
MASS = Finding("mass", "mass", "mass")
COVID = Finding("covid", "covid pneumonia")


def make(**values: object) -> KAD:
    torch.manual_seed(0)
    return KAD.build(KADSettings.model_validate({**SMALL, **values}), ingredients()).eval()


def literal_existence(logits: torch.Tensor, triplets: torch.Tensor, absent: bool) -> torch.Tensor:
    """Cross-entropy over image-query pairs; -1 is ignored, or has become 0 before."""
    losses = []
    for b in range(len(triplets)):
        for number, name in enumerate(QUERIES.values()):
            column = triplets[b, :, pathology_index(name)].tolist()
            label = 1 if 1 in column else 0 if 0 in column or absent else -1
            if label >= 0:
                losses.append(functional.cross_entropy(logits[b, number], torch.tensor(label)))
    return torch.stack(losses).mean()


def literal_contrast(v: torch.Tensor, u: torch.Tensor, scale: float) -> torch.Tensor:
    """Kullback-Leibler divergence from the identity, summed and divided by B, both directions' mean."""
    logits, identity = scale * v @ u.T, torch.eye(len(v))
    to_text = functional.kl_div(logits.log_softmax(-1), identity, reduction="sum") / len(v)
    to_image = functional.kl_div(logits.T.log_softmax(-1), identity, reduction="sum") / len(v)
    return (to_text + to_image) / 2


@pytest.mark.parametrize("faithful", [True, False])
def test_losses_equal_their_twins(faithful: bool) -> None:
    """A6 and A9, each on its faithful and its corrected side, with gradients."""
    model, data = make(**(FAITHFUL if faithful else {}), existence_weight=0.5), batch()
    memory, _ = model._memory(data.images)
    queries = model.text_features(list(QUERIES))
    texts = model.text_features(entity_texts(data.triplets, blank=not faithful))
    of_image = literal_existence(model._ask(queries, memory).logits, data.triplets, faithful)
    of_text = literal_existence(model._ask(queries, texts.unsqueeze(1)).logits, data.triplets, faithful)
    if faithful:
        contrast = literal_contrast(memory.mean(1), texts, 2.6592600)
    else:
        units = [functional.normalize(x, dim=-1) for x in (memory.mean(1), texts)]
        contrast = literal_contrast(*units, 1 / 0.07)
    expected = 0.5 * (of_image + of_text) + contrast
    ours = model.loss(data)
    torch.testing.assert_close(ours.parts["exist_image"], of_image.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.parts["exist_text"], of_text.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.parts["contrastive"], contrast.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.total, expected, rtol=1e-5, atol=1e-6)
    weights = [model.patches.output.weight, model.text_head[2].weight, model.stream.classifier.weight]
    for mine, theirs in zip(
        torch.autograd.grad(ours.total, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_the_twins_tell_the_sides_apart() -> None:
    data = batch()
    base, weights = make(), make().state_dict()
    for switch in ({"unmentioned": "absent"}, {"normalise": False}, {"contrast_scale": "log"}):
        other = make(**switch)
        other.load_state_dict(weights)
        assert (other.loss(data).total - base.loss(data).total).abs() > 1e-4, switch


def test_the_text_branch_reads_one_token() -> None:
    model, data = make(), batch()
    assert set(model.loss(data).parts) == {"exist_image", "exist_text", "contrastive"}
    assert set(make(text_branch=False).loss(data).parts) == {"exist_image", "contrastive"}
    text = model.text_features(["effusion"])
    answer = model._ask(model.text_features(list(QUERIES)), text.unsqueeze(1), want_maps=True)
    assert torch.equal(answer.maps, torch.ones(2, 1, 41, 1))


def test_entity_strings() -> None:
    """A11: the released code puts no blank between an entity and its label."""
    cells = torch.full((3, 51, 75), -1, dtype=torch.int8)
    pleura, nowhere = ANATOMIES.index("left_pleural"), ANATOMIES.index("unspecified")
    cells[0, pleura, pathology_index("effusion")] = 1
    cells[0, pleura, pathology_index("pneumothorax")] = 0
    cells[0, nowhere, pathology_index("edema")] = 0
    cells[1, nowhere, pathology_index("tail_abnorm_obs")] = 1
    texts = entity_texts(cells, blank=True)
    assert texts == [
        " [ENT] left pleural space Anatomy Definitely Present"
        " [ENT] effusion Observation Definitely Present"
        " [ENT] pneumothorax Observation Definitely Absent [SEP] "
        " [ENT] edema Observation Definitely Absent [SEP] ",
        "",
        "",
    ]
    joined = entity_texts(cells, blank=False)[0]
    assert "left pleural spaceAnatomy Definitely Present [ENT] effusionObservation Definitely" in joined


def test_which_text_an_image_has() -> None:
    data = batch(2)
    silent = dataclasses.replace(data, triplets=torch.full_like(data.triplets, -1))
    assert make()._texts(silent) == list(data.reports)
    assert make()._texts(data) == entity_texts(data.triplets, blank=True)
    assert make(text_unit="report")._texts(data) == list(data.reports)


def test_an_image_without_a_text_is_neither_anchor_nor_negative() -> None:
    model, data = make(text_unit="report"), batch()
    some = dataclasses.replace(data, reports=[*data.reports[:3], " "])
    rest = dataclasses.replace(
        data, images=data.images[:3], reports=data.reports[:3], triplets=data.triplets[:3]
    )
    ours, theirs = model.loss(some).parts, model.loss(rest).parts
    for part in ("exist_text", "contrastive"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=1e-4, atol=1e-5)
    assert ours["exist_image"] != theirs["exist_image"]


def test_dropout_in_a_frozen_encoder() -> None:
    """A12: the released code leaves a frozen text encoder in training mode."""
    for noisy in (True, False):
        model = make(frozen_dropout=noisy).train()
        for module in model.text.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
        first, second = (model.text_features(["pleural effusion"]) for _ in range(2))
        assert torch.equal(first, second) == (not noisy)
    trainable = make(frozen_share=0.0).train()
    assert trainable.text.training
    assert any(p.requires_grad for p in trainable.text.parameters())
    assert not any(p.requires_grad for p in make().text.parameters())


def test_pooler_and_centre() -> None:
    texts = ["pleural effusion", "edema"]
    hidden = make(text_pooling="cls").text
    tokens = hidden.tokenize(texts)
    model = make()
    expected = model.text_head(torch.tanh(model.pooler(hidden(tokens))))  # type: ignore[misc]
    torch.testing.assert_close(model.text_features(texts), expected)
    centred = make(text_pooling="mean", centre_texts=True)
    names = centred.text(centred.text.tokenize(list(QUERIES)))
    torch.testing.assert_close(centred.text_centre, names.mean(0), rtol=1e-5, atol=1e-6)
    assert make(text_pooling="mean").text_centre.abs().max() == 0


def test_queries_are_the_published_ones() -> None:
    assert len(QUERIES) == 41
    assert [list(QUERIES)[i] for i in (0, 1, 8, 20, 29, 40)] == [
        "normal",
        "pleural effusion",
        "enlarged cardiomediastinum",
        "pleural thicken",
        "infiltration",
        "aspiration",
    ]
    assert set(QUERIES.values()) < set(PATHOLOGIES[:-2])
    assert len(set(QUERIES.values())) == 41
    published = [
        prompts(Finding(name, name.replace("_", " ")), "present", "kad")
        for name in ("effusion", "mass", "nodule", "pleural_thickening", "fibrosis")
    ]
    names = ["pleural effusion", "lung mass", "lung nodule", "pleural thicken", "fibrosis"]
    assert published == [(name,) for name in names]
    assert prompt_set("kad")["templates"]["absent"] == []


def test_questions() -> None:
    """Asked alone, names look at each other; beside the trained queries they cannot change an answer."""
    asked, trained = make(**FAITHFUL), make()
    names, mask, index = asked._questions([MASS, LEFT, COVID])
    assert (names, mask, index) == (
        ["lung mass", "left pleural effusion", "covid pneumonia"],
        None,
        [0, 1, 2],
    )
    names, mask, index = trained._questions([MASS, LEFT, COVID])
    assert [names[i] for i in index] == ["mass", "left pleural effusion", "covid pneumonia"]
    assert mask is not None
    assert mask[:, :41].all()
    assert torch.equal(mask[:, 41:], torch.cat([torch.zeros(41, 2), torch.eye(2)]).bool())
    images = batch(2).images
    with torch.no_grad():
        for model in (asked, trained):
            for layer in model.stream.decoder.layers:
                nn.init.normal_(layer.self_attn.in_proj_weight, std=0.5)
                nn.init.normal_(layer.multihead_attn.in_proj_weight, std=0.5)
    alone, beside = (
        [model.score(images, findings) for model in (asked, trained)]
        for findings in ([EFFUSION], [EFFUSION, COVID, LEFT])
    )
    assert not torch.allclose(alone[0][:, 0], beside[0][:, 0], atol=1e-6)
    torch.testing.assert_close(alone[1][:, 0], beside[1][:, 0])


def test_scores_and_maps() -> None:
    model, images = make(), batch(2, side=96).images
    memory, grid = model._memory(images)
    answer = model._ask(model.text_features(list(QUERIES)), memory, want_maps=True)
    expected = answer.logits.softmax(-1)[:, list(QUERIES).index("pleural effusion"), 1]
    torch.testing.assert_close(model.score(images, [EFFUSION])[:, 0], expected, rtol=1e-4, atol=1e-5)
    maps = model.heatmap(images, [EFFUSION])
    assert maps.shape == (2, 1, *grid) == (2, 1, 6, 6)
    torch.testing.assert_close(maps[:, 0].flatten(1), answer.maps[-1][:, 1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(maps[:, 0].flatten(1), answer.maps[0][:, 1], rtol=1e-3)


def test_shared_normalisation() -> None:
    """A10: one layer normalisation in three places."""
    one, three = make(share_norm=True), make()
    assert sum(isinstance(m, nn.LayerNorm) for m in three.children()) == 3
    assert sum(isinstance(m, nn.LayerNorm) for m in one.children()) == 1
    with torch.no_grad():
        for model in (one, three):
            model.norm.weight.mul_(2)
    queries, memory = torch.randn(3, 16), torch.randn(2, 4, 16)
    alike = make(share_norm=True)
    twice = alike.stream(2 * alike.norm(queries), 2 * alike.norm(memory), one.norm).logits
    torch.testing.assert_close(one._ask(queries, memory).logits, twice)


def released_file(model: KAD) -> dict[str, Any]:
    """Random weights under the released names."""
    ours = model.state_dict()
    drawn = {key: torch.randn_like(value.float()).to(value.dtype) for key, value in ours.items()}
    file: dict[str, Any] = {entry: {} for entry in ("model", "image_encoder", "text_encoder")}
    for theirs, mine in released_keys(set(ours) - {"text_centre"}).items():
        entry, _, key = theirs.partition(".")
        file[entry][key] = drawn[mine].clone()
    file["model"]["logit_scale"] = file["text_encoder"]["logit_scale"] = torch.tensor(2.66)
    file["image_encoder"] |= {"resnet.fc.weight": torch.ones(2, 2), "resnet.fc.bias": torch.ones(2)}
    file["image_encoder"]["resnet.layer4.0.conv1.weight"] = torch.ones(2)
    return {**file, "optimizer": {"state": {}}, "epoch": 7, "config": {"img_res": 224}}


def test_released_checkpoint(tmp_path: Path) -> None:
    model = make(**FAITHFUL)
    file = released_file(model)
    torch.save(file, tmp_path / "a.pt")
    report = model.load_released(tmp_path / "a.pt")
    assert set(report.mapped.values()) == set(model.state_dict()) - {"text_centre"}
    assert set(report.ignored) == {
        *("model.logit_scale", "text_encoder.logit_scale", "optimizer", "epoch", "config"),
        *(f"image_encoder.resnet.{key}" for key in ("fc.weight", "fc.bias", "layer4.0.conv1.weight")),
    }
    assert torch.equal(model.norm.weight, file["model"]["decoder_norm.weight"])
    assert torch.equal(model.trunk.conv1.weight, file["image_encoder"]["res_features.0.weight"])  # type: ignore[union-attr]
    assert torch.equal(model.text_head[2].bias, file["text_encoder"]["mlp_embed.2.bias"])
    assert model.pooler is not None
    assert torch.equal(model.pooler.weight, file["text_encoder"]["bert_model.pooler.dense.weight"])


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    model = make(**FAITHFUL)
    file = released_file(model)
    torch.save(file["model"], tmp_path / "decoder.pt")
    with pytest.raises(CheckpointError, match="no state_dict under model, image_encoder, text_encoder"):
        model.load_released(tmp_path / "decoder.pt")
    torch.save(file, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="leaves weights of the model out"):
        make().load_released(tmp_path / "a.pt")
    file["image_encoder"]["resnet.conv1.weight"] += 1
    torch.save(file, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="hold different values"):
        model.load_released(tmp_path / "b.pt")
    del file["model"]["mlp_head.0.bias"]
    torch.save(file, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"missing: model\.mlp_head\.0\.bias"):
        model.load_released(tmp_path / "c.pt")


def test_released_sizes() -> None:
    """Entries and parameters that the released classes have: 642 and 31.3 M, 79 and 25.2 M."""
    trunk = ResNetTrunk(TrunkConfig.model_validate({"last_stage": 4}))
    parts = dataclasses.replace(ingredients(), trunk=trunk)
    model = KAD(KADSettings(share_norm=True), parts)
    names = released_keys(set(model.state_dict()) - {"text_centre"})
    unused = {"image_encoder": 2, "model": 1}  # resnet.fc and logit_scale
    assert sum(key.startswith("image_encoder.") for key in names) + unused["image_encoder"] == 642
    assert sum(key.startswith("model.") for key in names) + unused["model"] == 79
    of_images = sum(p.numel() for part in (model.trunk, model.patches) for p in part.parameters())
    of_queries = sum(p.numel() for part in (model.stream, model.norm) for p in part.parameters())
    assert of_images + 2048 * 1000 + 1000 == pytest.approx(31.3e6, rel=2e-3)
    assert of_queries + 1 == pytest.approx(25.2e6, rel=2e-3)
    assert math.log(1 / 0.07) == pytest.approx(2.659, abs=1e-3)
