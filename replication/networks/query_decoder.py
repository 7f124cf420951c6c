"""The decoder in which text queries look at image patches: pre-norm Transformer layers, batch first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.networks.dropout import Dropout

_LARGE = 2**17
"""Entries of a head's attention matrix from which on it is not written out on a CPU."""


@dataclass(frozen=True)
class Decoded:
    """What a decoder answers.

    Attributes:
        features: ``[B, Q, d]``, before the final layer normalisation.
        attention: head-averaged cross-attention of each layer, ``[layers, B, Q, K]``; ``None`` if not asked.
    """

    features: Tensor
    attention: Tensor | None


class Attention(nn.Module):
    """Multi-head attention with the parameters of ``torch.nn.MultiheadAttention``, name for name."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"d_model {width} is no multiple of the number of heads {heads}")
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        memory: Tensor | None = None,
        *,
        batch: int | None = None,
        mask: Tensor | None = None,
        want_maps: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """``[b, Q, d]`` looks at ``[B, K, d]`` (at itself where ``memory`` is ``None``); b is B or 1.

        Args:
            batch: repeat the attention of a single query set for this many images, so that each image has
                its own dropout; used for the layer whose input is the same for all images.
            mask: bool, True where looking is allowed; ``[Q, K]``, or anything that broadcasts to
                ``[B, heads, Q, K]``.
            want_maps: also return the attention averaged over heads, ``[B, Q, K]``.
        """
        width = query.shape[-1]
        if memory is None:
            projected = functional.linear(query, self.in_proj_weight, self.in_proj_bias)
            q, k, v = (self._split(part) for part in projected.chunk(3, dim=-1))
        else:
            weights, biases = self.in_proj_weight, self.in_proj_bias
            q = self._split(functional.linear(query, weights[:width], biases[:width]))
            projected = functional.linear(memory, weights[width:], biases[width:])
            k, v = (self._split(part) for part in projected.chunk(2, dim=-1))
        # Written out because its backward pass is twice as fast as that of the fused kernel in bf16 on
        # a CPU, and because the fused kernel gives no maps; on a GPU the fused one is used where it can be.
        # A CPU profits where a head's matrix is so large that reading and writing it takes the time, and
        # there float32 is the faster type.
        if q.is_cuda and not want_maps and batch is None:
            q = q.expand(k.shape[0], -1, -1, -1)
            rate = self.dropout.rate if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
            return self._merge(mixed), None
        if q.shape[2] * k.shape[2] > _LARGE and not (want_maps or self.dropout.active):
            with torch.autocast(q.device.type, enabled=False):
                q, k, v = q.expand(k.shape[0], -1, -1, -1).float(), k.float(), v.float()
                mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self._merge(mixed), None
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        maps = scores.softmax(dim=-1)
        if batch is not None:
            maps = maps.expand(batch, -1, -1, -1)
        maps = self.dropout(maps)
        return self._merge(maps @ v), maps.mean(dim=1) if want_maps else None

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        merged: Tensor = self.out_proj(x.transpose(1, 2).flatten(-2))
        return merged


class DecoderLayer(nn.Module):
    """Self-attention among queries (can be left out), cross-attention to patches, feed-forward; normalised
    before each.
    """

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, self_attention: bool = True
    ) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, dropout) if self_attention else None
        self.multihead_attn = Attention(width, heads, dropout)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width) if self_attention else None
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        y: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None,
        want_maps: bool,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Queries ``[b, Q, d]`` (b is B, or 1 where all images share them), patches ``[B, K, d]``."""
        if self.self_attn is not None and self.norm1 is not None:
            # With dropout every image must get draws of its own, so the shared queries are repeated here.
            own_draws = memory.shape[0] if y.shape[0] == 1 and self.dropout.active else None
            mixed, _ = self.self_attn(self.norm1(y), batch=own_draws, mask=mask)
            y = y + self.dropout(mixed)
        looked_at = None if memory_mask is None else memory_mask[:, None, None]
        mixed, maps = self.multihead_attn(self.norm2(y), memory, mask=looked_at, want_maps=want_maps)
        y = y + self.dropout(mixed)
        hidden = self.dropout(torch.relu(self.linear1(self.norm3(y))))
        return y + self.dropout(self.linear2(hidden)), maps


class QueryDecoder(nn.Module):
    """Pre-norm decoder layers of the released code of MedKLIP and MeDSLIP (``models/transformer.py``).

    No positional encodings; the memory is not normalised; the final layer normalisation belongs to the
    caller, because MeDSLIP's two decoders may share it. Parameter names are those of the released code.
    The first layer's self-attention sees only the queries, so it is computed once per batch.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        *,
        self_attention: bool = True,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, feedforward, dropout, self_attention) for _ in range(layers)
        )

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None = None,
        want_maps: bool = False,
        memory_mask: Tensor | None = None,
    ) -> Decoded:
        """Queries ``[Q, d]`` and patches ``[B, K, d]`` -> features ``[B, Q, d]`` and, if asked, maps.

        Args:
            mask: ``[Q, Q]`` bool, which query may look at which; ``None`` lets all look at all.
            memory_mask: ``[B, K]`` bool, which part of the memory may be looked at; ``None`` is all of it.
        """
        y, maps = queries.unsqueeze(0), []
        for layer in self.layers:
            y, attention = layer(y, memory, mask=mask, want_maps=want_maps, memory_mask=memory_mask)
            if attention is not None:
                maps.append(attention)
        return Decoded(y, torch.stack(maps) if maps else None)
