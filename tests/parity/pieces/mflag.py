"""M-FLAG: orthogonality and alignment, and the gradients of their sum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from baselines.mflag import MFLAGSettings, alignment, orthogonality
from pieces import Check, piece


@piece("mflag")
def mflag(stored: dict[str, Any]) -> Iterator[Check]:
    """With the configured batch size in the denominator, as the released code has it."""
    names = ("img_emb", "proj_img", "proj_txt")
    features, images, texts = (stored[name].clone().requires_grad_() for name in names)
    orthogonal = orthogonality(
        features,
        torch.ones(len(features), dtype=torch.bool),
        off_diagonal=MFLAGSettings().off_diagonal,
        denominator=stored["config_batch_size"],
    )
    align = alignment(images, texts).mean()
    yield Check("orthogonal", orthogonal, stored["orthogonal"])
    yield Check("align", align, stored["align"])
    gradients = torch.autograd.grad(orthogonal + align, [features, images, texts])
    for name, ours, theirs in zip(names, gradients, stored["grads"], strict=True):
        yield Check(f"gradient of {name}", ours, theirs)
