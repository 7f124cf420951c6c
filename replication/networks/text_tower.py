"""A text encoder of a method's own, trained with it from some layer upwards."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from replication.errors import ConfigError
from replication.knowledge.text_encoder import Pooling, TextEncoder, Tokens


class TextTower(nn.Module):
    """A copy of the shared text encoder whose embeddings and lower layers stay as they are.

    Args:
        text_encoder: is copied, never changed.
        frozen_share: share of the Transformer layers, from below, that stay frozen together with the
            embeddings; 0 trains everything, embeddings included, 1 trains nothing.
        pooling: of the last hidden state; ``max`` leaves ``[CLS]`` and ``[SEP]`` out.
        max_length: longest text in tokens.

    Raises:
        ConfigError: the encoder's layers cannot be told apart (it is no BERT-like encoder).
    """

    def __init__(
        self, text_encoder: nn.Module, *, frozen_share: float, pooling: Pooling, max_length: int
    ) -> None:
        super().__init__()
        if not isinstance(text_encoder, TextEncoder):
            raise ConfigError(
                "This method trains its text tower, which needs a text encoder of the suite.",
                found=type(text_encoder).__name__,
                allowed="replication.knowledge.text_encoder.TextEncoder",
            )
        self.encoder = copy.deepcopy(text_encoder)
        self.pooling, self.max_length = pooling, max_length
        self.width = text_encoder.width
        self.encoder.requires_grad_(True)
        if frozen_share > 0:
            _freeze(self.encoder.model, frozen_share, text_encoder.name)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokens of N texts on the tower's device."""
        return self.encoder.tokenize(texts, self.max_length).to(self.device)

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens of N texts -> pooled features ``[N, width]``."""
        return self.encoder.pool(self.encoder(tokens), tokens, self.pooling)


def _freeze(model: Any, share: float, name: str) -> None:
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    if layers is None or not hasattr(model, "embeddings"):
        raise ConfigError(
            "The lower layers of the text encoder cannot be found.",
            where=name,
            found=type(model).__name__,
            allowed="an encoder with .embeddings and .encoder.layer, such as BERT or RoBERTa",
            remedy="choose such an encoder, or frozen_share: 0",
        )
    model.embeddings.requires_grad_(False)
    for layer in layers[: round(share * len(layers))]:
        layer.requires_grad_(False)


def mean_direction(features: Tensor) -> Tensor:
    """The direction of the mean of unit vectors: ``[N, D]`` -> ``[D]``, for ensembles of prompts."""
    units = nn.functional.normalize(features.float(), dim=-1)
    return nn.functional.normalize(units.mean(dim=0), dim=0)


def spread(sizes: Sequence[int]) -> list[slice]:
    """Where groups of these sizes lie when they are laid end to end."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
