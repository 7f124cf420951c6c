"""Every piece of the alignment methods' numerical reference, outputs and stored gradients."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pieces
import pytest
import torch
from pieces import PIECES

for module in pkgutil.iter_modules(pieces.__path__):
    importlib.import_module(f"pieces.{module.name}")


@pytest.fixture(scope="module")
def losses(reference: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(reference / "losses.pt", weights_only=True)
    # This entry is about the first texts of the other and has no inputs of its own.
    found["gloria_zeroshot"]["inputs"] = found["gloria"]["inputs"]
    return found


def test_no_piece_is_left_out(losses: dict[str, Any]) -> None:
    assert set(PIECES) == set(losses) - {"_meta"}


@pytest.mark.parametrize("name", sorted(PIECES))
def test_piece_agrees_with_the_released_code(name: str, losses: dict[str, Any]) -> None:
    checks = list(PIECES[name](losses[name]))
    assert checks
    for check in checks:
        theirs = torch.as_tensor(check.theirs).detach().double()
        ours = check.ours.detach().double()
        assert ours.shape == theirs.shape, check.what
        scale = theirs.abs().max().clamp_min(1e-12)
        assert ((ours - theirs).abs().max() / scale).item() <= check.tolerance, check.what
