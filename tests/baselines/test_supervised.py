"""The supervised reference: masked loss, honest answers to what it has no label for, activation maps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from doubles import batch, ingredients
from torch.nn import functional

from baselines.supervised import Supervised, SupervisedSettings
from replication.errors import ConfigError
from replication.method import Finding

EFFUSION, COVID = Finding("effusion", "pleural effusion", "effusion"), Finding("covid", "covid")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")


def make() -> Supervised:
    torch.manual_seed(0)
    return Supervised.build(SupervisedSettings(), ingredients()).eval()


def pooled(model: Supervised, images: torch.Tensor) -> torch.Tensor:
    cells = model.trunk(images).flatten(2)
    return torch.cat([cells.mean(-1), cells.max(-1).values], dim=1)


def test_only_known_labels_count() -> None:
    model, data = make(), batch(4)
    logits = model.classifier(pooled(model, data.images))
    values = []
    for row, labels in zip(logits, data.labels.tolist(), strict=True):
        for logit, label in zip(row, labels, strict=True):
            if label >= 0:
                values.append(functional.binary_cross_entropy_with_logits(logit, torch.tensor(float(label))))
    torch.testing.assert_close(model.loss(data).total, torch.stack(values).mean())
    unknown = dataclasses.replace(data, labels=torch.full_like(data.labels, -1))
    assert model.loss(unknown).total.item() == 0


def test_scores_by_name_and_half_for_the_unknown() -> None:
    model, images = make(), batch(3).images
    scores = model.score(images, [COVID, EFFUSION, LEFT])
    assert torch.equal(scores[:, 0], torch.full((3,), 0.5))
    assert torch.equal(scores[:, 1], scores[:, 2])
    expected = model.classifier(pooled(model, images)).sigmoid()[:, 2]
    torch.testing.assert_close(scores[:, 1], expected)


def test_a_cell_of_the_map_is_the_logit_of_an_image_of_that_cell_alone() -> None:
    model, images = make(), batch(3).images
    maps = model.heatmap(images, [EFFUSION, COVID])
    cell = model.trunk(images)[:, :, 1, 2]
    expected = model.classifier(torch.cat([cell, cell], dim=1))[:, 2]
    torch.testing.assert_close(maps[:, 0, 1, 2], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(maps[:, 1], torch.zeros(3, 4, 4))


def test_labels_are_needed() -> None:
    with pytest.raises(ConfigError, match="needs labels"):
        Supervised.build(SupervisedSettings(), dataclasses.replace(ingredients(), label_names=()))


def test_shuffled_labels_are_those_of_other_images_of_the_batch() -> None:
    torch.manual_seed(0)
    control = Supervised.build(SupervisedSettings(labels="shuffled"), ingredients()).eval()
    model, data = make(), batch(8)
    assert control.loss(data).total.item() == control.loss(data).total.item()
    assert control.loss(data).total.item() != model.loss(data).total.item()
    other = dataclasses.replace(data, seed=data.seed + 1)
    assert control.loss(data).total.item() != control.loss(other).total.item()
    # Where all images have the same labels, there is nothing to shuffle.
    same = dataclasses.replace(data, labels=data.labels[:1].expand(len(data), -1).clone())
    torch.testing.assert_close(control.loss(same).total, model.loss(same).total)
