"""References without language: random directions, chance on average, nothing that learns."""

from __future__ import annotations

from pathlib import Path

import torch
from doubles import batch, ingredients
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from replication.method import Finding
from replication.networks.untrained import Untrained, UntrainedSettings

EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
NODULE = Finding("nodule", "nodule", "nodule")


def make(seed: int = 0) -> Untrained:
    torch.manual_seed(seed)
    return Untrained.build(UntrainedSettings(), ingredients()).eval()


def test_a_score_is_the_mean_feature_along_a_direction_and_the_mean_of_its_map() -> None:
    model, images = make(), batch(3).images
    directions = model.directions([EFFUSION, NODULE])
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(2))
    scores = model.score(images, [EFFUSION, NODULE])
    torch.testing.assert_close(scores, model.trunk(images).mean((2, 3)) @ directions.T, rtol=1e-4, atol=1e-5)
    maps = model.heatmap(images, [EFFUSION, NODULE])
    torch.testing.assert_close(maps.mean((2, 3)), scores)
    cell = model.trunk(images)[:, :, 1, 2]
    torch.testing.assert_close(maps[:, 1, 1, 2], cell @ directions[1], rtol=1e-4, atol=1e-5)


def test_directions_belong_to_a_finding_a_place_and_a_run() -> None:
    model = make()
    several = model.directions([EFFUSION, LEFT, NODULE])
    assert torch.equal(model.directions([NODULE])[0], several[2])
    assert torch.equal(make().directions([NODULE])[0], several[2])
    others = [several[0], several[1], several[2], make(1).directions([NODULE])[0]]
    for number, one in enumerate(others):
        for other in others[:number]:
            assert (one @ other).abs() < 0.9


def test_chance_on_average_over_directions() -> None:
    """Labels that a feature gives away: single AUCs are far from one half, their mean is not."""
    model, images = make(), batch(24, side=32).images
    features = model.trunk(images).mean((2, 3))
    labels = features[:, 0] > features[:, 0].median()
    scores = model.score(images, [Finding(f"f{number}", "") for number in range(200)])
    aucs = torch.tensor([roc_auc_score(labels, column) for column in scores.T])
    assert aucs.std() > 0.1
    assert abs(aucs.mean().item() - 0.5) < 4 * aucs.std().item() / 200**0.5


def test_the_directions_are_saved_with_the_weights(tmp_path: Path) -> None:
    model, other = make(), make(1)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other.directions([EFFUSION]), model.directions([EFFUSION]))


def test_the_loss_reads_no_image_and_changes_nothing() -> None:
    model = make().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = batch(4)
    data.images.fill_(float("nan"))
    assert model.loss(data).total.item() == 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
