"""A text encoder of a method's own, trained with it from some layer upwards."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

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
        layers: how many of the lowest Transformer layers there are at most; ``None`` keeps all.

    Raises:
        ConfigError: the encoder's layers cannot be told apart (it is no BERT-like encoder).
    """

    def __init__(
        self,
        text_encoder: nn.Module,
        *,
        frozen_share: float,
        pooling: Pooling,
        max_length: int,
        layers: int | None = None,
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
        if not torch.cuda.is_available():
            # On CPUs the fused attention has a slow gradient: a fifth of a step of `biovil` in bfloat16.
            model: Any = self.encoder.model
            model.set_attn_implementation("eager")
        if layers is not None:
            _shorten(self.encoder.model, layers, text_encoder.name)
        if frozen_share > 0:
            _freeze(self.encoder.model, frozen_share, text_encoder.name)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def tokenize(
        self, texts: Sequence[str], *, padding: Literal["longest", "max_length"] | int = "longest"
    ) -> Tokens:
        """Tokens of N texts on the tower's device."""
        return self.encoder.tokenize(texts, self.max_length, padding=padding).to(self.device)

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens of N texts -> pooled features ``[N, width]``."""
        return self.encoder.pool(self.encoder(tokens), tokens, self.pooling)

    def hidden_states(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """What the embeddings and then each layer answer, ``[N, L, width]`` each."""
        output = self.encoder.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
        )
        states: tuple[Tensor, ...] = output.hidden_states
        return states

    @torch.no_grad()
    def cls_attention(self, states: tuple[Tensor, ...], tokens: Tokens) -> Tensor:
        """How much ``[CLS]`` attends to each token in the last layer, mean over heads: ``[N, L]`` float32.

        Computed from the ``hidden_states`` for this one row, without dropout and as a constant, so that the
        layers can keep their fast attention, which returns no weights.
        """
        layer: Any = _layers(self.encoder.model, self.encoder.name)[-1]
        attention = layer.attention.self
        with torch.autocast(self.device.type, enabled=False):
            inputs = states[-2].float()
            heads = (inputs.shape[0], -1, attention.num_attention_heads, attention.attention_head_size)
            query = attention.query(inputs[:, :1]).view(heads).transpose(1, 2)
            key = attention.key(inputs).view(heads).permute(0, 2, 3, 1)
            logits = (query @ key).squeeze(2) / attention.attention_head_size**0.5
            blocked = tokens.attention_mask.unsqueeze(1) == 0
            shares: Tensor = logits.masked_fill(blocked, float("-inf")).softmax(dim=-1)
            return shares.mean(dim=1)


def _layers(model: Any, name: str) -> nn.ModuleList:
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    if layers is None or not hasattr(model, "embeddings"):
        raise ConfigError(
            "The layers of the text encoder cannot be found.",
            where=name,
            found=type(model).__name__,
            allowed="an encoder with .embeddings and .encoder.layer, such as BERT or RoBERTa",
            remedy="choose such an encoder, or keep and train all of it (frozen_share: 0)",
        )
    found: nn.ModuleList = layers
    return found


def _freeze(model: Any, share: float, name: str) -> None:
    layers = _layers(model, name)
    model.embeddings.requires_grad_(False)
    for layer in layers[: round(share * len(layers))]:
        layer.requires_grad_(False)


def _shorten(model: Any, most: int, name: str) -> None:
    model.encoder.layer = _layers(model, name)[:most]
    model.config.num_hidden_layers = len(model.encoder.layer)


def mean_direction(features: Tensor) -> Tensor:
    """The direction of the mean of unit vectors: ``[N, D]`` -> ``[D]``, for ensembles of prompts."""
    units = nn.functional.normalize(features.float(), dim=-1)
    return nn.functional.normalize(units.mean(dim=0), dim=0)


def spread(sizes: Sequence[int]) -> list[slice]:
    """Where groups of these sizes lie when they are laid end to end."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
