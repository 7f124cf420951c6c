"""Reports laid out sentence by sentence, and sentences pooled from their own tokens."""

from __future__ import annotations

import pytest
import torch
from doubles import REPORTS, text_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from replication.knowledge.report_sentences import sentences_of
from replication.networks.sentence_features import encode_sentences, pool_sentences, tokenize_sentences
from replication.networks.text_tower import TextTower

LISTS = [sentences_of(report) for report in REPORTS]
WORDS = ["the", "lungs", "are", "clear", ".", "effusion", "zzz"]


def pieces(sentence: str) -> list[int]:
    found: list[int] = text_encoder().tokenizer(sentence, add_special_tokens=False)["input_ids"]
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.integers(4, 30),
)
def test_tokens_are_those_of_the_sentences_end_to_end(reports: list[list[str]], max_length: int) -> None:
    found = tokenize_sentences(text_encoder(), reports, max_length)
    for row, sentences in enumerate(reports):
        cut = [(s, piece) for s, text in enumerate(sentences) for piece in pieces(text)][: max_length - 2]
        ids = found.tokens.input_ids[row][found.tokens.attention_mask[row].bool()].tolist()
        assert ids == [2, *(piece for _, piece in cut), 3]
        assert (found.tokens.input_ids[row][len(ids) :] == 0).all()
        for s in range(found.places.shape[1]):
            own = found.tokens.input_ids[row][found.places[row, s][found.real[row, s]]].tolist()
            assert own == [piece for number, piece in cut if number == s]
            assert found.mask[row, s].item() == bool(own)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_sentences_pool_their_own_tokens_in_the_light_of_the_report(pooling: str) -> None:
    encoder = text_encoder()
    tower = TextTower(encoder, frozen_share=0.5, pooling="mean", max_length=60)
    features, mask = encode_sentences(tower, [*LISTS, []], pooling)  # type: ignore[arg-type]
    assert features.shape == (5, 3, 32)
    assert mask.sum(1).tolist() == [3, 2, 2, 2, 0]
    assert torch.equal(features[~mask], torch.zeros(6, 32))
    for row, sentences in enumerate(LISTS):
        tokens = encoder.tokenize([" ".join(sentences)], 60)
        hidden = encoder(tokens)[0]
        start = 1
        for s, sentence in enumerate(sentences):
            own = hidden[start : start + len(pieces(sentence))]
            expected = own.mean(0) if pooling == "mean" else own.max(0).values
            torch.testing.assert_close(features[row, s], expected, rtol=1e-4, atol=1e-5)
            start += len(pieces(sentence))


def test_gradients_reach_the_tokens_of_sentences_only() -> None:
    found = tokenize_sentences(text_encoder(), LISTS, 60)
    hidden = torch.randn(*found.tokens.input_ids.shape, 8, requires_grad=True)
    pool_sentences(hidden, found, "mean").sum().backward()
    assert hidden.grad is not None
    moved = hidden.grad.abs().sum(-1) > 0
    inner = found.tokens.attention_mask.bool() & (found.tokens.input_ids != 3)
    inner[:, 0] = False
    assert torch.equal(moved, inner)


def test_sentences_beyond_a_number_are_cut_off() -> None:
    tower = TextTower(text_encoder(), frozen_share=0.5, pooling="mean", max_length=60)
    features, mask = encode_sentences(tower, LISTS, "mean", max_sentences=2)
    assert features.shape == (4, 2, 32)
    shorter, _ = encode_sentences(tower, [sentences[:2] for sentences in LISTS], "mean")
    torch.testing.assert_close(features, shorter)
    assert mask.all()


def test_no_sentence_at_all() -> None:
    tower = TextTower(text_encoder(), frozen_share=0.5, pooling="mean", max_length=60)
    features, mask = encode_sentences(tower, [[], [""]], "max")
    assert torch.equal(features, torch.zeros(2, 1, 32))
    assert not mask.any()
    (features.sum() * 0).backward()
