"""Queries decoded from cells: what sees what, and what is learnt."""

from __future__ import annotations

import pytest
import torch

from replication.errors import ConfigError
from replication.networks.sentence_decoder import SentenceDecoder


def make(causal: bool, dropout: float = 0.0) -> SentenceDecoder:
    torch.manual_seed(0)
    return SentenceDecoder(16, layers=2, heads=2, feedforward=32, dropout=dropout, causal=causal)


@pytest.mark.parametrize("causal", [True, False])
def test_which_queries_see_which(causal: bool) -> None:
    decoder, queries, cells = make(causal).eval(), torch.randn(1, 6, 16), torch.randn(3, 9, 16)
    changed = queries.clone()
    changed[:, 3] = torch.randn(16)
    moved = (decoder(queries, cells) - decoder(changed, cells)).abs().amax(dim=(0, 2)) > 1e-5
    assert moved.tolist() == [not causal] * 3 + [True] * 3


def test_cells_are_seen_and_everything_learns() -> None:
    decoder, queries = make(False), torch.randn(1, 6, 16, requires_grad=True)
    cells = torch.randn(3, 9, 16, requires_grad=True)
    answer = decoder(queries, cells)
    assert answer.shape == (3, 6, 16)
    assert not torch.allclose(answer[0], answer[1])
    answer.square().sum().backward()
    for name, parameter in [("queries", queries), ("cells", cells), *decoder.named_parameters()]:
        assert parameter.grad is not None, name
    assert not any("word_embeddings" in name for name in decoder.state_dict())


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="divide"):
        SentenceDecoder(16, layers=1, heads=3, feedforward=32, dropout=0.0, causal=False)
