"""Word pieces become words as a walk over the tokens would make them."""

from __future__ import annotations

import pytest
import torch
from doubles import text_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from replication.errors import ConfigError
from replication.knowledge.text_encoder import Tokens
from replication.networks.word_pieces import WordPieces, mean_over_words, merge

ENCODER = text_encoder()
PIECES = WordPieces(ENCODER)
SYMBOLS = ["heart", "lungs", "##a", "##b", "[UNK]", "-", "[SEP]"]


def as_tokens(*texts: list[str]) -> Tokens:
    length = max(map(len, texts))
    padded = [text + ["[PAD]"] * (length - len(text)) for text in texts]
    ids = torch.tensor([ENCODER.tokenizer.convert_tokens_to_ids(text) for text in padded])
    return Tokens(ids, (ids != ENCODER.tokenizer.pad_token_id).long())


def walk(pieces: list[str], vectors: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    """Token by token, as the released code does: a word is stored when the next one opens or at [SEP]."""
    names: list[str] = []
    rows: list[torch.Tensor] = []
    name, row = "", None
    for piece, vector in zip(pieces, vectors, strict=True):
        if piece == "[SEP]":
            if row is not None:
                names.append(name)
                rows.append(row)
            names.append(piece)
            rows.append(vector)
            break
        if piece.startswith("##") and row is not None:
            name, row = name + piece[2:], row + vector
            continue
        if row is not None:
            names.append(name)
            rows.append(row)
        name, row = piece, vector
    blank = [torch.zeros_like(vectors[0])] * (len(pieces) - len(rows))
    return names, torch.stack(rows + blank)


def test_pieces_of_a_word_are_added() -> None:
    tokens = as_tokens(["[CLS]", "heart", "##a", "##b", "-", "[SEP]"], ["[CLS]", "[SEP]"])
    slots = PIECES.slots(tokens)
    hidden = torch.arange(2 * 6 * 2.0).view(2, 6, 2)
    words = merge(hidden, slots)
    assert torch.equal(words[0, 0], hidden[0, 0])
    assert torch.equal(words[0, 1], hidden[0, 1] + hidden[0, 2] + hidden[0, 3])
    assert torch.equal(words[0, 2:4], hidden[0, 4:6])
    assert not words[0, 4:].any()
    assert torch.equal(words[1, :2], hidden[1, :2])
    assert slots.words.tolist() == [2, 0]
    assert slots.filled.tolist() == [[True] * 4 + [False] * 2, [True] * 2 + [False] * 4]
    assert slots.word_mask.tolist() == [[False, True, True] + [False] * 3, [False, True] + [False] * 4]


def test_bracketed_words_are_counted_apart() -> None:
    slots = PIECES.slots(as_tokens(["[CLS]", "heart", "[UNK]", "lungs", "[SEP]"]))
    assert slots.words.tolist() == [3]
    assert slots.unbracketed.tolist() == [2]


def test_an_open_word_at_the_end_is_left_out() -> None:
    slots = PIECES.slots(as_tokens(["[CLS]", "heart", "##a", "lungs", "##b"]))
    assert slots.of_token.tolist() == [[0, 1, 1, 5, 5]]
    assert slots.words.tolist() == [1]
    assert slots.filled.sum().item() == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(SYMBOLS), max_size=9), min_size=1, max_size=3), st.integers(0, 9))
def test_any_text_equals_the_walk(texts: list[list[str]], seed: int) -> None:
    rows = [["[CLS]", *text, "[SEP]"] for text in texts]
    tokens = as_tokens(*rows)
    hidden = torch.randn(*tokens.input_ids.shape, 3, generator=torch.Generator().manual_seed(seed))
    hidden.requires_grad_(True)
    slots = PIECES.slots(tokens)
    words = merge(hidden, slots)
    padded = [row + ["[PAD]"] * (tokens.input_ids.shape[1] - len(row)) for row in rows]
    names, expected = zip(*(walk(row, h) for row, h in zip(padded, hidden, strict=True)), strict=True)
    torch.testing.assert_close(words, torch.stack(expected))
    assert slots.filled.sum(1).tolist() == [len(name) for name in names]
    assert slots.words.tolist() == [len(name) - 2 for name in names]
    assert slots.unbracketed.tolist() == [sum(not word.startswith("[") for word in name) for name in names]
    (mine,) = torch.autograd.grad(words.square().sum(), hidden, retain_graph=True)
    (theirs,) = torch.autograd.grad(torch.stack(expected).square().sum(), hidden)
    torch.testing.assert_close(mine, theirs)


def test_other_vocabularies_are_refused() -> None:
    encoder = text_encoder()
    pieces = [f"Ġ{number}" for number in range(5)]
    encoder.tokenizer = type(
        "Bytes",
        (),
        {"__len__": lambda _: 5, "convert_ids_to_tokens": lambda _, ids: [pieces[i] for i in ids]},
    )()
    with pytest.raises(ConfigError, match="merged into words"):
        WordPieces(encoder)


def test_the_tables_are_not_part_of_the_weights() -> None:
    assert not PIECES.state_dict()


def test_mean_over_words_then_over_texts() -> None:
    attention = torch.rand(2, 3, 4, 5)
    words = torch.tensor([[False, True, True, False], [False, True, False, False], [False, True, True, True]])
    ours = mean_over_words(attention, words, [slice(0, 2), slice(2, 3)])
    first = (attention[1, 0, 1:3].mean(0) + attention[1, 1, 1]) / 2
    torch.testing.assert_close(ours[1, 0], first)
    torch.testing.assert_close(ours[1, 1], attention[1, 2, 1:].mean(0))
