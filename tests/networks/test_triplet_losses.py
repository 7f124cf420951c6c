"""Labels, negatives and cross-entropies of the triplet matrix, against slow twins."""

from __future__ import annotations

import math

import pytest
import torch
from doubles import triplets
from torch.nn import functional

from replication.draws import Draws
from replication.networks.triplet_losses import (
    candidate_loss,
    existence_labels,
    existence_loss,
    prototype_similarity,
    sample_negatives,
    sample_positive,
)


def literal_labels(cells: torch.Tensor) -> torch.Tensor:
    labels = torch.full(cells.shape[:2], -1)
    for b in range(cells.shape[0]):
        for q in range(cells.shape[1]):
            if any(cell == 0 for cell in cells[b, q]):
                labels[b, q] = 0
            if any(cell == 1 for cell in cells[b, q]):
                labels[b, q] = 1
    return labels


def test_existence_labels_and_loss() -> None:
    cells = triplets(3)
    labels = existence_labels(cells)
    assert torch.equal(labels.long(), literal_labels(cells))
    assert set(labels.unique().tolist()) == {-1, 0, 1}
    logits = torch.randn(3, 51, 2, requires_grad=True)
    losses = []
    for b in range(3):
        for q in range(51):
            if labels[b, q] >= 0:
                losses.append(functional.cross_entropy(logits[b, q], labels[b, q].long()))
    expected = torch.stack(losses).mean()
    ours = existence_loss(logits, labels)
    torch.testing.assert_close(ours, expected)
    (theirs_grad,) = torch.autograd.grad(expected, logits)
    (ours_grad,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(ours_grad, theirs_grad)


@pytest.mark.parametrize("rule", ["not_one", "absent_only_then_unmentioned"])
def test_negatives_are_distinct_and_never_present(rule: str) -> None:
    cells = triplets(4)
    index, valid = sample_negatives(cells, 7, rule, Draws(0, len(cells)))
    assert index.shape == valid.shape == (4, 51, 7)
    assert valid.all()
    assert (cells.gather(-1, index) != 1).all()
    assert (index.sort(-1).values.diff(dim=-1) > 0).all()


def test_the_rules_differ_in_what_they_draw_from() -> None:
    cells = torch.full((1, 1, 51), -1, dtype=torch.int8)
    cells[..., 0] = 1
    cells[..., 1:4] = 0
    absent_drawn = {"not_one": 0, "absent_only_then_unmentioned": 0}
    for rule in absent_drawn:
        for seed in range(200):
            index, _ = sample_negatives(cells, 7, rule, Draws(seed, len(cells)))
            absent_drawn[rule] += int((cells.gather(-1, index) == 0).sum())
    assert absent_drawn["absent_only_then_unmentioned"] == 3 * 200
    assert absent_drawn["not_one"] == pytest.approx(200 * 3 * 7 / 50, rel=0.25)


def test_negatives_are_uniform_and_repeatable() -> None:
    cells = torch.full((400, 1, 10), -1, dtype=torch.int8)
    cells[..., 3] = 1
    index, _ = sample_negatives(cells, 3, "not_one", Draws(0, len(cells)))
    counts = torch.bincount(index.flatten(), minlength=10).tolist()
    assert counts[3] == 0
    assert all(
        abs(count - 400 * 3 / 9) < 5 * math.sqrt(400 * 3 / 9) for i, count in enumerate(counts) if i != 3
    )
    again, _ = sample_negatives(cells, 3, "not_one", Draws(0, len(cells)))
    assert torch.equal(index, again)


def test_too_few_negatives_are_marked() -> None:
    cells = torch.ones((1, 1, 10), dtype=torch.int8)
    cells[..., 4:6] = -1
    index, valid = sample_negatives(cells, 7, "not_one", Draws(0, len(cells)))
    assert valid.sum() == 2
    assert set(index[valid].tolist()) == {4, 5}
    loss = candidate_loss(torch.zeros(1, 1), torch.zeros(1, 1, 7), valid, torch.ones(1, 1, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)


def test_positive_is_a_present_cell_drawn_uniformly() -> None:
    cells = torch.full((600, 1, 6), -1, dtype=torch.int8)
    cells[..., [1, 4]] = 1
    drawn = sample_positive(cells, Draws(0, len(cells)))
    assert set(drawn.unique().tolist()) == {1, 4}
    assert 240 < (drawn == 1).sum() < 360


def test_prototype_similarity_is_the_dot_product_with_the_mean() -> None:
    cells, book, features = triplets(2), torch.randn(75, 16), torch.randn(2, 51, 16)
    ours = prototype_similarity(features @ book.T, cells)
    for b in range(2):
        for q in range(51):
            rows = [book[k] for k in range(75) if cells[b, q, k] == 1]
            if rows:
                expected = features[b, q] @ torch.stack(rows).mean(0)
                assert ours[b, q].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


def test_nothing_labelled_gives_zero_with_gradient_or_nan() -> None:
    logits = torch.randn(2, 5, 2, requires_grad=True)
    nothing = torch.full((2, 5), -1)
    loss = existence_loss(logits, nothing)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, torch.zeros_like(logits))
    assert existence_loss(logits, nothing, empty=float("nan")).isnan()
