"""Masked language modelling on top of a text tower: what is masked, the head, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.errors import ConfigError
from replication.knowledge.text_encoder import TextEncoder, Tokens
from replication.networks.distributed import mean_where

SHARE = 0.15
"""Of the word pieces that are to be guessed: 80 % masked, 10 % replaced at random, 10 % left."""


class Masked(NamedTuple):
    """Corrupted texts.

    Attributes:
        tokens: ``[B, L]``, with the corruption. positions: ``[N]``, which of the ``B * L`` are to be guessed.
        targets: ``[N]``, what they were.
    """

    tokens: Tokens
    positions: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> Masked:
        """The same texts on another device."""
        return Masked(self.tokens.to(device), self.positions.to(device), self.targets.to(device))


def mask_words(tokens: Tokens, encoder: TextEncoder, generators: Sequence[torch.Generator]) -> Masked:
    """Corrupt texts (on the CPU, so that nothing has to wait for a device).

    Args:
        generators: one for each text, so that its masks do not depend on the texts around it.

    Raises:
        ConfigError: the tokeniser has no mask token.
    """
    mask_id = encoder.tokenizer.mask_token_id
    if mask_id is None:
        raise ConfigError(
            "The tokeniser has no mask token.", where=encoder.name, remedy="set mlm_weight to 0"
        )
    ids = tokens.input_ids
    # Token by token, so that they do not depend on the padding either.
    texts = [torch.rand((1, ids.shape[1], 3), generator=each) for each in generators]
    drawn = torch.cat([torch.empty(0, ids.shape[1], 3), *texts])
    pick, fate, word = drawn.unbind(-1)
    chosen = (pick < SHARE) & encoder.content_mask(tokens)
    other = (word * len(encoder.tokenizer)).long()
    guess = torch.where(fate < 0.8, int(mask_id), torch.where(fate < 0.9, other, ids))
    positions = chosen.flatten().nonzero().squeeze(1)
    corrupted = Tokens(torch.where(chosen, guess, ids), tokens.attention_mask)
    return Masked(corrupted, positions, ids.flatten()[positions])


class MaskedWordHead(nn.Module):
    """BERT's head ``cls.predictions``; its output matrix is the word embedding of the tower."""

    def __init__(self, width: int, vocabulary_size: int) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)}
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """``[N, D]`` states and ``[V, D]`` word embeddings -> ``[N, V]`` logits."""
        hidden = self.transform["LayerNorm"](functional.gelu(self.transform["dense"](states)))
        return functional.linear(hidden, embeddings, self.bias)


def masked_word_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of ``[N, V]`` logits, over all processes; 0 where nothing is to be guessed."""
    values = functional.cross_entropy(logits.float(), targets, reduction="none")
    return mean_where(values, torch.ones_like(values, dtype=torch.bool))


def word_embeddings(encoder: TextEncoder) -> Tensor:
    """The word embedding ``[V, D]`` of an encoder."""
    model: Any = encoder.model
    weight: Tensor = model.get_input_embeddings().weight
    return weight
