"""CLIP's attention pool against torch's own attention, its positions on other grids, and padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from replication.errors import ConfigError
from replication.networks.attention_pool import AttentionPool, AttentionPool2d


def literal(pool: AttentionPool, tokens: torch.Tensor) -> torch.Tensor:
    """All tokens ``[N, C]`` through torch's multi-head attention; the first one's answer."""
    x = tokens.unsqueeze(1)
    answer, _ = functional.multi_head_attention_forward(
        x,
        x,
        x,
        x.shape[-1],
        pool.heads,
        None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        None,
        None,
        False,
        0.0,
        pool.c_proj.weight,
        pool.c_proj.bias,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    return answer[0, 0]


def test_a_map_is_pooled_as_in_clip() -> None:
    torch.manual_seed(0)
    pool, maps = AttentionPool2d(3, 8, heads=2, output_dim=5), torch.randn(4, 8, 3, 3)
    assert pool.positional_embedding is not None
    cells = maps.flatten(2).transpose(1, 2)
    tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1) + pool.positional_embedding
    expected = torch.stack([literal(pool, each) for each in tokens])
    torch.testing.assert_close(pool(maps), expected, rtol=1e-5, atol=1e-6)
    inputs = list(pool.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(pool(maps).square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_padding_is_neither_averaged_nor_attended() -> None:
    torch.manual_seed(0)
    pool, tokens = AttentionPool(8, heads=2), torch.randn(3, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    pooled = pool(tokens, mask)
    for row, count in ((0, 5), (1, 2)):
        real = tokens[row, :count]
        expected = literal(pool, torch.cat([real.mean(0, keepdim=True), real]))
        torch.testing.assert_close(pooled[row], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pooled[2], literal(pool, torch.zeros(1, 8)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pool(tokens), pool(tokens, torch.ones(3, 5, dtype=torch.bool)))


def test_positions_follow_the_grid() -> None:
    torch.manual_seed(0)
    pool = AttentionPool2d(4, 8, heads=2)
    assert pool.positional_embedding is not None
    with torch.no_grad():
        pool.positional_embedding[1:] = torch.arange(16.0).unsqueeze(1)
    finer = pool._positions(8, 8)
    assert finer.shape == (65, 8)
    assert torch.equal(finer[0], pool.positional_embedding[0])
    assert torch.equal(pool._positions(4, 4), pool.positional_embedding)
    rows = finer[1:, 0].view(8, 8)
    assert (rows.diff(dim=0) > 0).all()
    assert (rows.diff(dim=1) > 0).all()
    assert pool(torch.randn(2, 8, 6, 6)).shape == (2, 8)
    assert AttentionPool2d(None, 8, heads=2).positional_embedding is None


def test_the_dense_answer_of_one_cell_is_that_of_a_map_of_it_alone() -> None:
    torch.manual_seed(0)
    pool, maps = AttentionPool2d(None, 8, heads=2, output_dim=5), torch.randn(2, 8, 3, 4)
    dense = pool.dense(maps)
    assert dense.shape == (2, 3, 4, 5)
    torch.testing.assert_close(pool(maps[:, :, 1:2, 2:3]), dense[:, 1, 2], rtol=1e-5, atol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        AttentionPool(10, heads=4)
