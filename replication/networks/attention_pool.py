"""Attention pools of CLIP and LoVT: the mean of some tokens asks the tokens, and the answer is one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.errors import ConfigError


class AttentionPool(nn.Module):
    """Tokens ``[B, N, width]`` -> ``[B, output_dim]``: the answer to the query of their mean.

    The attended tokens are the mean token and all N; only the mean token's answer is computed. PRIOR pools
    sentences with it, CLIP's ResNets cells (``AttentionPool2d``). Parameter names are CLIP's; the weights are
    drawn from N(0, 1 / width).

    Args:
        width: of a token. heads: of the attention. output_dim: ``None`` is ``width``.

    Raises:
        ConfigError: ``width`` is no multiple of ``heads``.
    """

    def __init__(self, width: int, heads: int, output_dim: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                "The width of an attention pool must be a multiple of its heads.",
                found=f"width {width}, {heads} heads",
            )
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, output_dim or width)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, N, width]`` and, where some are padding, ``mask`` ``[B, N]`` (true = token).

        Padding is neither averaged nor attended; without any token the answer is that of a zero mean token.
        """
        return self._pool(_with_mean(tokens, mask), mask)

    def dense(self, tokens: Tensor) -> Tensor:
        """``[..., width]`` -> ``[..., output_dim]``: what a token answers if it alone is attended."""
        answer: Tensor = self.c_proj(self.v_proj(tokens))
        return answer

    def _pool(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The answer of the first of ``[B, 1 + N, width]`` tokens; it is never padding."""
        size, width = len(tokens), tokens.shape[-1]
        query = self.q_proj(tokens[:, :1])
        q, k, v = (
            x.view(size, -1, self.heads, width // self.heads).transpose(1, 2)
            for x in (query, self.k_proj(tokens), self.v_proj(tokens))
        )
        # One query makes so few weights that a fused attention would only cost time, on the CPU a lot.
        scores = (q @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
        if mask is not None:
            padding = functional.pad(~mask.bool(), (1, 0), value=False)[:, None, None]
            scores = scores.masked_fill(padding, float("-inf"))
        answer = scores.softmax(dim=-1).to(v.dtype) @ v
        pooled: Tensor = self.c_proj(answer.reshape(size, width))
        return pooled


class AttentionPool2d(AttentionPool):
    """A feature map ``[B, width, h, w]`` -> ``[B, output_dim]``, with a learnt embedding of each position.

    Args:
        grid: side of the square grid of positions that is learnt; on another grid the positions of the cells
            are interpolated (bicubic), that of the mean token stays. ``None`` leaves positions out.
    """

    def __init__(self, grid: int | None, width: int, heads: int, output_dim: int | None = None) -> None:
        super().__init__(width, heads, output_dim)
        self.grid = grid
        self.positional_embedding: nn.Parameter | None = None
        if grid is not None:
            self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, width) * width**-0.5)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, width, h, w]``; ``mask`` ``[B, h * w]`` as in ``AttentionPool``."""
        tokens = _with_mean(maps.flatten(2).transpose(1, 2), mask)
        if self.positional_embedding is not None:
            tokens = tokens + self._positions(maps.shape[2], maps.shape[3]).to(tokens.dtype)
        return self._pool(tokens, mask)

    def dense(self, maps: Tensor) -> Tensor:
        """``[B, width, h, w]`` -> ``[B, h, w, output_dim]``, without positions (as MaskCLIP reads CLIP)."""
        return super().dense(maps.movedim(1, -1))

    def _positions(self, height: int, width: int) -> Tensor:
        """``[1 + height * width, C]``."""
        learnt = self.positional_embedding
        assert learnt is not None
        assert self.grid is not None
        if (height, width) == (self.grid, self.grid):
            return learnt
        cells = learnt[1:].T.reshape(1, -1, self.grid, self.grid).float()
        with torch.autocast(cells.device.type, enabled=False):
            resized = functional.interpolate(cells, (height, width), mode="bicubic", align_corners=False)
        return torch.cat([learnt[:1], resized[0].flatten(1).T])


class MeanQueryPool(nn.Module):
    """Multi-head attention whose query is the mean of what it attends to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                "The heads of an attention pool must divide its width.",
                where="model.heads",
                found=heads,
                allowed=f"divisors of {width}",
            )
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, padded: bool = False
    ) -> tuple[Tensor, Tensor]:
        """``[B, N, width]``, and ``mask`` ``[B, N]`` (true = element; the others are zeros).

        Args:
            padded: divide the sum of the elements by N instead of by their number.

        Returns:
            ``[B, width]``, and the weights of the elements ``[B, N]``, averaged over heads.
        """
        query = x.mean(dim=1, keepdim=True)
        blocked = None
        if mask is not None:
            if not padded:
                query = query * (x.shape[1] / mask.sum(dim=1).clamp_min(1)).view(-1, 1, 1).to(x.dtype)
            # Where there is nothing, everything is attended, so that the unused answer stays finite.
            blocked = ~mask & mask.any(dim=1, keepdim=True)
        pooled, weights = self.attention(query, x, x, key_padding_mask=blocked)
        return pooled[:, 0], weights[:, 0]

    def dense(self, x: Tensor) -> Tensor:
        """``[..., width]``: what is answered where one element is all there is."""
        width = x.shape[-1]
        weight, bias = self.attention.in_proj_weight[2 * width :], self.attention.in_proj_bias[2 * width :]
        answer: Tensor = self.attention.out_proj(functional.linear(x, weight, bias))
        return answer


def _with_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """``[B, N, C]`` -> ``[B, 1 + N, C]``, the mean of the tokens first."""
    if mask is None:
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    weight = mask.to(tokens.dtype).unsqueeze(-1)
    mean = (tokens * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.cat([mean, tokens], dim=1)
