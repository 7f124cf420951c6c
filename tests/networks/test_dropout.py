"""The fast dropout drops at its rate, keeps the mean, and follows torch's generator."""

from __future__ import annotations

import pytest
import torch

from replication.networks.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_rate_mean_and_independence(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 999)
    y = Dropout(rate).train()(x)
    dropped = (y == 0).float()
    assert dropped.mean().item() == pytest.approx(rate, abs=2e-3)
    assert y.mean().item() == pytest.approx(1.0, abs=3e-3)
    for shift in (1, 2, 3, 4):  # four values come from one draw: neighbours must not be related
        together = (dropped[:, shift:] * dropped[:, :-shift]).mean().item()
        assert together == pytest.approx(rate**2, abs=3e-3)


def test_gradient_is_that_of_the_mask() -> None:
    torch.manual_seed(0)
    x = torch.ones(50, requires_grad=True)
    y = Dropout(0.3).train()(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_repeatable_and_absent_in_evaluation() -> None:
    module, x = Dropout(0.2), torch.randn(64)
    torch.manual_seed(3)
    first = module(x)
    torch.manual_seed(3)
    assert torch.equal(first, module(x))
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


def test_rate_must_leave_something() -> None:
    with pytest.raises(ValueError, match="dropout rate"):
        Dropout(1.0)
