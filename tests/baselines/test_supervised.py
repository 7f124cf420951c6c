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


def test_only_known_labels_count() -> None:
    model, data = make(), batch(4)
    logits = model.classifier(model.trunk(data.images).mean((2, 3)))
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
    expected = model.classifier(model.trunk(images).mean((2, 3))).sigmoid()[:, 2]
    torch.testing.assert_close(scores[:, 1], expected)


def test_the_map_averages_to_the_logit() -> None:
    model, images = make(), batch(3).images
    maps = model.heatmap(images, [EFFUSION, COVID])
    logit = torch.logit(model.score(images, [EFFUSION]))[:, 0]
    torch.testing.assert_close(maps[:, 0].mean((1, 2)), logit, rtol=1e-4, atol=1e-4)
    assert torch.equal(maps[:, 1], torch.zeros(3, 4, 4))


def test_labels_are_needed() -> None:
    with pytest.raises(ConfigError, match="needs labels"):
        Supervised.build(SupervisedSettings(), dataclasses.replace(ingredients(), label_names=()))
