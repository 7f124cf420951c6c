"""ConVIRT: the contrastive loss, both directions and their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pieces import Check, piece
from replication.networks.losses import info_nce


@piece("convirt_ntxent")
def convirt_ntxent(stored: dict[str, Any]) -> Iterator[Check]:
    """Three quarters image-to-text, one quarter text-to-image, and each direction alone."""
    images, texts = (stored[name].clone().requires_grad_() for name in ("img", "txt"))
    loss = info_nce(images, texts, temperature=stored["tau"], image_weight=stored["alpha_img2txt"])
    yield Check("loss", loss, stored["loss"])
    for name, ours, theirs in zip(
        ("images", "texts"), torch.autograd.grad(loss, [images, texts]), stored["grads"], strict=True
    ):
        yield Check(f"gradient of {name}", ours, theirs)
    for weight, key in ((1.0, "loss_alpha1(img2txt only)"), (0.0, "loss_alpha0")):
        one_way = info_nce(images, texts, temperature=stored["tau"], image_weight=weight)
        yield Check(key, one_way, stored[key])
