"""The decoder agrees with torch's own pre-norm decoder layers, and shares what all images have in common."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replication.networks.query_decoder import QueryDecoder

WIDTH, HEADS, FEEDFORWARD, LAYERS = 32, 4, 64, 3


@pytest.fixture
def decoders() -> tuple[QueryDecoder, nn.ModuleList]:
    torch.manual_seed(0)
    theirs = nn.ModuleList(
        nn.TransformerDecoderLayer(WIDTH, HEADS, FEEDFORWARD, 0.1, batch_first=True, norm_first=True)
        for _ in range(LAYERS)
    )
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = QueryDecoder(WIDTH, LAYERS, HEADS, FEEDFORWARD, 0.1)
    ours.load_state_dict({f"layers.{key}": value for key, value in theirs.state_dict().items()})
    return ours.eval(), theirs.eval()


def test_equals_torchs_decoder_layers(decoders: tuple[QueryDecoder, nn.ModuleList]) -> None:
    ours, theirs = decoders
    queries, memory = torch.randn(7, WIDTH), torch.randn(3, 5, WIDTH)
    expected = queries.expand(3, -1, -1)
    for layer in theirs:
        expected = layer(expected, memory)
    torch.testing.assert_close(ours(queries, memory).features, expected, rtol=1e-4, atol=1e-4)


def test_maps_are_head_averages_and_change_nothing(decoders: tuple[QueryDecoder, nn.ModuleList]) -> None:
    ours, theirs = decoders
    queries, memory = torch.randn(7, WIDTH), torch.randn(3, 5, WIDTH)
    plain, mapped = ours(queries, memory), ours(queries, memory, want_maps=True)
    assert plain.attention is None
    torch.testing.assert_close(plain.features, mapped.features)
    assert mapped.attention.shape == (LAYERS, 3, 7, 5)
    torch.testing.assert_close(mapped.attention.sum(-1), torch.ones(LAYERS, 3, 7))
    first = theirs[0]
    y = queries.expand(3, -1, -1)
    y = y + first.self_attn(*[first.norm1(y)] * 3)[0]
    _, expected = first.multihead_attn(first.norm2(y), memory, memory, average_attn_weights=True)
    torch.testing.assert_close(mapped.attention[0], expected, rtol=1e-4, atol=1e-5)


def test_gradients_equal_torchs(decoders: tuple[QueryDecoder, nn.ModuleList]) -> None:
    ours, theirs = decoders
    queries, memory = torch.randn(4, WIDTH), torch.randn(2, 5, WIDTH)
    ours(queries, memory).features.square().sum().backward()
    y = queries.expand(2, -1, -1)
    for layer in theirs:
        y = layer(y, memory)
    y.square().sum().backward()
    for name, parameter in theirs.named_parameters():
        ours_grad = ours.get_parameter(f"layers.{name}").grad
        torch.testing.assert_close(ours_grad, parameter.grad, rtol=1e-3, atol=1e-2)


def test_a_masked_query_is_not_seen(decoders: tuple[QueryDecoder, nn.ModuleList]) -> None:
    ours, _ = decoders
    queries, extra, memory = torch.randn(4, WIDTH), torch.randn(2, WIDTH), torch.randn(2, 5, WIDTH)
    mask = torch.eye(6, dtype=torch.bool)
    mask[:, :4] = True
    alone = ours(queries, memory).features
    both = ours(torch.cat([queries, extra]), memory, mask=mask).features
    torch.testing.assert_close(both[:, :4], alone, rtol=1e-4, atol=1e-5)
    one = ours(torch.cat([queries, extra[1:]]), memory, mask=mask[:5, :5]).features
    torch.testing.assert_close(both[:, 5], one[:, 4], rtol=1e-4, atol=1e-5)


def test_every_image_has_its_own_dropout() -> None:
    torch.manual_seed(0)
    decoder = QueryDecoder(WIDTH, 1, HEADS, FEEDFORWARD, 0.5).train()
    memory = torch.randn(1, 5, WIDTH).expand(2, -1, -1)
    for part in ("multihead_attn.out_proj", "linear2"):  # leaves the shared self-attention as only difference
        nn.init.zeros_(decoder.layers[0].get_submodule(part).weight)
        nn.init.zeros_(decoder.layers[0].get_submodule(part).bias)
    features = decoder(torch.randn(6, WIDTH), memory).features
    assert not torch.allclose(features[0], features[1])


def test_large_matrices_are_not_written_out(
    decoders: tuple[QueryDecoder, nn.ModuleList], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways of attention give the same answers and gradients, masked or not."""
    ours, _ = decoders
    queries, memory = torch.randn(6, WIDTH), torch.randn(2, 5, WIDTH)
    mask = torch.eye(6, dtype=torch.bool)
    mask[:, :4] = True
    for looks in (None, mask):
        answers = []
        for limit in (10**9, 0):
            monkeypatch.setattr("replication.networks.query_decoder._LARGE", limit)
            leaf = queries.clone().requires_grad_()
            features = ours(leaf, memory, mask=looks).features
            answers.append((features, *torch.autograd.grad(features.square().sum(), leaf)))
        for written, fused in zip(*answers, strict=True):
            torch.testing.assert_close(fused, written, rtol=1e-4, atol=1e-3)


def test_without_self_attention_queries_are_alone() -> None:
    torch.manual_seed(0)
    decoder = QueryDecoder(WIDTH, LAYERS, HEADS, FEEDFORWARD, 0.5, self_attention=False)
    assert not [name for name in decoder.state_dict() if "self_attn" in name or "norm1" in name]
    queries, memory = torch.randn(7, WIDTH), torch.randn(3, 5, WIDTH)
    assert decoder(queries, memory).features.shape == (3, 7, WIDTH)
    decoder.eval()
    alone = decoder(queries[:2], memory).features
    torch.testing.assert_close(decoder(queries, memory).features[:, :2], alone)


def test_width_must_suit_the_heads() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        QueryDecoder(30, 1, 4, 8, 0.0)
