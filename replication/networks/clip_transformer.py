"""The transformer of CLIP's text tower and of its vision transformer, with CLIP's parameter names."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.errors import ConfigError


class Transformer(nn.Module):
    """Pre-norm blocks: ``[B, N, width]`` -> ``[B, N, width]``.

    Args:
        causal: a token attends to itself and those before it.

    Raises:
        ConfigError: ``width`` is no multiple of ``heads``.
    """

    def __init__(self, width: int, layers: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                "The width of a transformer must be a multiple of its heads.",
                found=f"width {width}, {heads} heads",
            )
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock(width, heads, causal) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, width]``."""
        answer: Tensor = self.resblocks(x)
        return answer


class ResidualAttentionBlock(nn.Module):
    """Self-attention and a two-layer network of four times the width, each on normalised input."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads, causal)
        self.ln_1 = nn.LayerNorm(width)
        layers = {
            "c_fc": nn.Linear(width, 4 * width),
            "gelu": QuickGELU(),
            "c_proj": nn.Linear(4 * width, width),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, width]``."""
        x = x + self.attn(self.ln_1(x))
        answer: Tensor = x + self.mlp(self.ln_2(x))
        return answer


class SelfAttention(nn.Module):
    """Multi-head self-attention, its three input projections stacked in one matrix."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, width]``."""
        size, length, width = x.shape
        stacked = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = stacked.view(size, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        answer = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        projected: Tensor = self.out_proj(answer.transpose(1, 2).reshape(size, length, width))
        return projected


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU: ``x * sigmoid(1.702 x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)
