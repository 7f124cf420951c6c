"""Batch normalisation without padding, against torch's own on the real elements."""

from __future__ import annotations

import torch
from torch import nn

from replication.networks.masked_batch_norm import MaskedBatchNorm


def pair(width: int = 5) -> tuple[MaskedBatchNorm, nn.BatchNorm1d]:
    torch.manual_seed(0)
    ours, theirs = MaskedBatchNorm(width), nn.BatchNorm1d(width)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 2)
        theirs.bias.normal_()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_real_elements_are_normalised_as_if_they_were_alone() -> None:
    ours, theirs = pair()
    x, mask = torch.randn(4, 3, 5, requires_grad=True), torch.rand(4, 3) < 0.6
    weights = torch.randn(int(mask.sum()), 5)
    for _ in range(2):
        mine, expected = ours(x, mask)[mask], theirs(x[mask])
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
        inputs = [x, ours.weight], [x, theirs.weight]
        for a, b in zip(
            torch.autograd.grad((mine * weights).sum(), inputs[0]),
            torch.autograd.grad((expected * weights).sum(), inputs[1]),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[key])
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x, mask), theirs(x.flatten(0, 1)).view(4, 3, 5))


def test_without_a_mask_padding_counts() -> None:
    ours, theirs = pair()
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).view(4, 3, 5))
    masked = pair()[0](x, torch.tensor([[True, True, False]]).expand(4, 3))
    assert not torch.allclose(ours(x), masked)


def test_one_element_and_none() -> None:
    ours, _ = pair()
    x, mask = torch.randn(3, 5, requires_grad=True), torch.tensor([False, True, False])
    torch.testing.assert_close(ours(x, mask)[1], ours.bias)
    assert torch.isfinite(ours.running_var).all()
    torch.testing.assert_close(ours(x[:1]), ours.bias.unsqueeze(0))
    before = ours.running_mean.clone()
    nothing = ours(x, torch.zeros(3, dtype=torch.bool))
    (nothing.sum() * 0).backward()
    assert torch.equal(ours.running_mean, before)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
