"""BioViL-T's image branch behind the ResNet: what is in an image, beside what changed since an earlier one.

Only inference was released, and the suite has no pairs of images of one patient, so there is neither dropout
nor stochastic depth here. Names are those of the released checkpoint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class TemporalFusion(nn.Module):
    """The ResNet's map, narrowed, beside a map of the difference from the previous image.

    Args:
        channels: of the ResNet's map. width: of each half of the answer (256).

    Attributes:
        channels: of the answer.
    """

    def __init__(self, channels: int, width: int = 256, blocks: int = 3, heads: int = 8) -> None:
        super().__init__()
        self.channels = 2 * width
        self.backbone_to_vit = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.vit_pooler = VisionTransformerPooler(width, blocks, heads)
        self.missing_previous_emb = nn.Parameter(torch.zeros(1, width, 1, 1))
        nn.init.trunc_normal_(self.missing_previous_emb, std=0.02)

    def forward(self, maps: Tensor, previous: Tensor | None = None) -> Tensor:
        """``[B, channels, h, w]`` -> ``[B, 2 * width, h, w]``: the image, then the difference.

        Without a previous image the difference is one learnt vector in every cell, and the transformer does
        not run.
        """
        current = self.backbone_to_vit(maps)
        if previous is None:
            difference = self.missing_previous_emb.to(current.dtype).expand_as(current)
        else:
            difference = self.vit_pooler(current, self.backbone_to_vit(previous))
        return torch.cat([current, difference], dim=1)


class VisionTransformerPooler(nn.Module):
    """Cells of two images in one transformer; the cells of the current one are its answer."""

    def __init__(self, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.type_embed = nn.Parameter(torch.zeros(2, 1, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm_post = nn.LayerNorm(width, eps=1e-6)
        nn.init.trunc_normal_(self.type_embed, std=0.02)

    def forward(self, current: Tensor, previous: Tensor | None = None) -> Tensor:
        """``[B, width, h, w]`` each -> ``[B, width, h, w]``."""
        images = [current] if previous is None else [current, previous]
        height, width = current.shape[-2:]
        positions = sine_positions(height, width, current.shape[1]).to(current.device)
        x = torch.cat([image.flatten(2).transpose(1, 2) for image in images], dim=1)
        embedding = torch.cat([positions + self.type_embed[kind] for kind in range(len(images))])
        for block in self.blocks:
            x = block(x, embedding)
        cells: Tensor = self.norm_post(x)[:, : height * width]
        return cells.transpose(1, 2).reshape(current.shape)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        # Position and type are added to what becomes the values too, not to queries and keys alone.
        x = x + self.attn(self.norm1(x) + embedding)
        answer: Tensor = x + self.mlp(self.norm2(x))
        return answer


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.proj_q = nn.Linear(width, width, bias=False)
        self.proj_k = nn.Linear(width, width, bias=False)
        self.proj_v = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.proj_q, self.proj_k, self.proj_v)
        )
        answer = functional.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(answer.transpose(1, 2).flatten(2))
        return projected


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return answer


def sine_positions(height: int, width: int, channels: int) -> Tensor:
    """``[height * width, channels]``: sines and cosines of the row, then of the column, interleaved."""
    rates = 10000 ** (torch.arange(0, channels // 2, 2) / (channels // 2))
    parts = []
    for size, shape in ((height, (height, 1, -1)), (width, (1, width, -1))):
        angle = torch.arange(1, size + 1) / (size + 1e-6) * 2 * math.pi
        turns = angle.unsqueeze(1) / rates
        waves = torch.stack([turns.sin(), turns.cos()], dim=-1).flatten(1)
        parts.append(waves.view(shape).expand(height, width, -1))
    return torch.cat(parts, dim=-1).flatten(0, 1)
