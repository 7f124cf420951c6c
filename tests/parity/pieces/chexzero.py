"""CheXzero: tiny CLIPs with a modified ResNet and with a vision transformer, through the method itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from doubles import ingredients
from torch import Tensor
from torch.nn import functional

from baselines.chexzero import CheXzero, CheXzeroSettings, clip_loss, released_key
from pieces import Check, piece
from replication.knowledge.text_encoder import Tokens
from replication.method import ImageTrunk, Ingredients
from replication.networks.clip_trunk import ClipResNetTrunk, ClipVisionTransformerTrunk


def method(given: dict[str, Any], trunk: ImageTrunk, image_grid: int) -> CheXzero:
    """The method around a trunk, with the reference's weights in float32."""
    released: dict[str, Tensor] = given["sd"]
    vocabulary, width = released["token_embedding.weight"].shape
    settings = CheXzeroSettings(
        text="clip",
        projection_dim=released["text_projection"].shape[1],
        vocabulary_size=vocabulary,
        d_model=width,
        decoder_layers=2,
        heads=2,
        grid=image_grid,
        max_length=len(released["positional_embedding"]),
    )
    parts = ingredients()
    model = CheXzero(settings, Ingredients(trunk, parts.text_encoder, parts.label_names, parts.descriptions))
    keys = {released_key(key): key for key in model.state_dict()}
    assert set(keys) == set(released)
    model.load_state_dict({ours: released[theirs] for theirs, ours in keys.items()})
    return model.eval()


@torch.no_grad()
def checks(given: dict[str, Any], model: CheXzero) -> Iterator[Check]:
    ends = given["tokens"].argmax(dim=-1, keepdim=True)
    mask = (torch.arange(given["tokens"].shape[1]) <= ends).long()
    images = model.image_features(given["image"].float())
    texts = model.text_head(model.text(Tokens(given["tokens"], mask)))
    yield Check("image features", images, given["image_features"])
    yield Check("text features", texts, given["text_features"])
    v, u = functional.normalize(images, dim=-1), functional.normalize(texts, dim=-1)
    yield Check("logits", model.logit_scale.exp() * v @ u.T, given["logits_per_image"])
    yield Check("loss", clip_loss(images, texts, model.logit_scale), given["train_loss"])
    probability = (v @ u[0] - v @ u[1]).sigmoid()
    yield Check("probability", probability, given["zero_shot_prob(pos=text0,neg=text1; no logit scale)"])


@piece("chexzero_tiny_rn")
def chexzero_tiny_rn(given: dict[str, Any]) -> Iterator[Check]:
    yield from checks(given, method(given, ClipResNetTrunk(4, (1, 1, 1, 1)), 2))


@piece("chexzero_tiny_vit")
def chexzero_tiny_vit(given: dict[str, Any]) -> Iterator[Check]:
    trunk = ClipVisionTransformerTrunk(image_size=64, patch=16, width=64, layers=2, heads=1)
    yield from checks(given, method(given, trunk, 4))
