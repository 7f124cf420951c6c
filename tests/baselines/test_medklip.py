"""MedKLIP: position loss against a literal twin, switches of its audit, released names, scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from doubles import batch, ingredients, triplets
from torch.nn import functional

from baselines.medklip import EXCLUDED, MedKLIP, MedKLIPSettings, released_keys
from replication.draws import Draws
from replication.errors import CheckpointError
from replication.knowledge.vocabulary import PATHOLOGIES
from replication.method import Finding
from replication.networks.triplet_losses import position_loss, sample_negatives, sample_positive

SMALL = {"d_model": 16, "decoder_layers": 2, "heads": 2, "feedforward": 32, "dropout": 0.0}
EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")


def make(**values: object) -> MedKLIP:
    torch.manual_seed(0)
    settings = MedKLIPSettings.model_validate({**SMALL, **values})
    return MedKLIP.build(settings, ingredients()).eval()


@pytest.mark.parametrize("kind", ["random", "prototype"])
def test_position_loss_equals_its_twin(kind: str) -> None:
    """K12: one drawn anatomy, or the mean of all present ones."""
    torch.manual_seed(0)
    cells, book = triplets(2).transpose(1, 2), torch.randn(51, 12)
    features = torch.randn(2, 75, 12, requires_grad=True)
    draws = Draws(1, len(cells))
    positive = sample_positive(cells, draws)
    negatives, valid = sample_negatives(cells, 7, "not_one", draws)
    values = []
    for b in range(2):
        for q in range(75):
            present = [k for k in range(51) if cells[b, q, k] == 1]
            if not present:
                continue
            assert int(positive[b, q]) in present
            target = book[positive[b, q]] if kind == "random" else book[present].mean(0)
            logits = torch.stack([target, *book[negatives[b, q]]]) @ features[b, q]
            values.append(functional.cross_entropy(logits, torch.tensor(0)))
    expected = torch.stack(values).mean()
    ours = position_loss(features @ book.T, cells, positive if kind == "random" else None, negatives, valid)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    theirs_grad, ours_grad = (torch.autograd.grad(loss, features)[0] for loss in (expected, ours))
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-4, atol=1e-6)


def test_switches_reach_the_loss() -> None:
    data = batch()
    base = make().loss(data)
    torch.testing.assert_close(base.total.detach(), base.parts["exist"] + base.parts["position"])
    half = make(position_weight=0.5).loss(data)
    torch.testing.assert_close(half.total.detach(), half.parts["exist"] + 0.5 * half.parts["position"])
    without = make(position_weight=0.0)
    assert set(without.loss(data).parts) == {"exist"}
    assert not any("contrast" in name for name, _ in without.named_parameters())
    assert make(positive="random").loss(data).parts["position"] != base.parts["position"]
    assert make(negatives="not_one").loss(data).parts["position"] != base.parts["position"]
    assert make(positive="random").loss(data).parts["exist"] == base.parts["exist"]


def test_the_random_positive_follows_the_batch_seed() -> None:
    model, data = make(positive="random"), batch()
    again = model.loss(dataclasses.replace(data, seed=0)).parts["position"]
    other = model.loss(dataclasses.replace(data, seed=1)).parts["position"]
    assert model.loss(data).parts["position"] == again
    assert other != again


def test_excluded_classes_teach_nothing() -> None:
    """The excluded columns may hold anything."""
    data = batch()
    changed = data.triplets.clone()
    for name in EXCLUDED:
        changed[..., PATHOLOGIES.index(name)] = 1
    other = dataclasses.replace(data, triplets=changed)
    assert len(make(exclude_classes=True).trained) == 68
    assert (
        make(exclude_classes=True).loss(data).parts["exist"]
        == (make(exclude_classes=True).loss(other).parts["exist"])
    )
    assert make().loss(data).parts["exist"] != make().loss(other).parts["exist"]


def test_an_empty_batch() -> None:
    data = dataclasses.replace(batch(2), triplets=torch.full((2, 51, 75), -1, dtype=torch.int8))
    assert make().loss(data).total.item() == 0
    assert make(positive="random").loss(data).total.item() == 0
    assert make(empty_batch="nan").loss(data).total.isnan()


def test_relation_scores() -> None:
    images, model = batch(2).images, make()
    answer, _ = model._answer(images, model.pathology_book.features)
    index = PATHOLOGIES.index("effusion")
    projected = model.stream.contrast(answer.features[:, index])
    where = (projected @ model.anatomy_book.features.T).log_softmax(-1)[:, 4]
    present = answer.logits[:, index].log_softmax(-1)[:, 1]
    torch.testing.assert_close(model.score(images, [LEFT])[:, 0], where + present, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.score(images, [EFFUSION])[:, 0], present.exp(), rtol=1e-4, atol=1e-5)
    alone = make(relation_with_existence=False).score(images, [LEFT])[:, 0]
    torch.testing.assert_close(alone, where, rtol=1e-4, atol=1e-4)


def test_heatmaps_are_attention() -> None:
    maps = make().heatmap(batch(2, side=96).images, [EFFUSION, Finding("covid", "covid pneumonia"), LEFT])
    assert maps.shape == (2, 3, 6, 6)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 3))
    assert torch.equal(maps[:, 0], maps[:, 2])


def test_released_names_cover_the_model(tmp_path: Path) -> None:
    model = make()
    ours = {key: value for key, value in model.state_dict().items() if "_book." not in key}
    keys = released_keys(ours)
    assert sorted(keys.values()) == sorted(ours)
    state = {f"module.{theirs}": torch.randn_like(ours[mine].float()) for theirs, mine in keys.items()}
    torch.save(state, tmp_path / "a.pth")
    assert model.load_released(tmp_path / "a.pth").mapped == keys
    assert torch.equal(model.queries.weight, state["module.disease_embedding_layer.weight"])
    medslip_like = {key.replace("disease", "pathology"): value for key, value in state.items()}
    torch.save(medslip_like, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"nearest: pathology_embedding_layer\.weight"):
        model.load_released(tmp_path / "b.pth")
