"""Sentence prototypes: a bank of learnt vectors that sentences are replaced by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PrototypeBank(nn.Module):
    """A sentence becomes a mixture of learnt prototypes, chosen by dot product."""

    def __init__(self, prototypes: int, width: int, temperature: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(prototypes, width)
        self.temperature = temperature

    def __len__(self) -> int:
        return self.embed.num_embeddings

    def logits(self, sentences: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., K]``, float32."""
        with torch.autocast(sentences.device.type, enabled=False):
            return sentences.float() @ self.embed.weight.T

    def forward(self, sentences: Tensor, noise: Tensor | None) -> Tensor:
        """``[..., D]`` and Gumbel noise ``[..., K]`` -> ``[..., D]``."""
        logits = self.logits(sentences)
        with torch.autocast(sentences.device.type, enabled=False):
            noisy = logits if noise is None else logits + noise
            return (noisy / self.temperature).softmax(dim=-1) @ self.embed.weight


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, on the CPU."""
    return -torch.empty(*shape).exponential_(generator=generator).log()
