"""Word pieces merged into words: the text side of methods that align words with image regions.

A text becomes slots: ``[CLS]``, one for each word, ``[SEP]``, then zero vectors up to the length of the
batch. A word's vector is the sum of the vectors of its pieces (released code of GLoRIA; MGCA and CARZero
follow it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.errors import ConfigError
from replication.knowledge.text_encoder import TextEncoder, Tokens

_CONTINUES = "##"


class Slots(NamedTuple):
    """Where the tokens of B texts go.

    Attributes:
        of_token: ``[B, L]`` int64, the slot of each token; L for tokens that go nowhere.
        words: ``[B]`` int64, number of words; slots 1 to ``words`` hold them.
        unbracketed: ``[B]`` int64, words that do not begin with "[". The released code tells words from
            ``[CLS]``, ``[SEP]`` and pads by that sign, so it takes the word "[" and ``[UNK]`` for no words.
        filled: ``[B, L]`` bool, slots that are no pads.
    """

    of_token: Tensor
    words: Tensor
    unbracketed: Tensor
    filled: Tensor

    def first(self, counts: Tensor, *, start: int = 0) -> Tensor:
        """``[B, L]`` bool: slots from ``start`` up to, without, ``counts`` ``[B]``."""
        position = torch.arange(self.filled.shape[1], device=self.filled.device)
        return (position >= start) & (position < counts.unsqueeze(1))

    @property
    def word_mask(self) -> Tensor:
        """``[B, L]`` bool: slots of words; ``[SEP]`` stands in for the word of a text that has none."""
        return self.first(self.words.clamp_min(1) + 1, start=1)


class WordPieces(nn.Module):
    """Knows which pieces of a vocabulary open a word and which continue one.

    Raises:
        ConfigError: the tokeniser does not mark continued words with ``##``.
    """

    continues: Tensor
    bracketed: Tensor

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        tokenizer: Any = encoder.tokenizer
        pieces: list[str] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        if not any(piece.startswith(_CONTINUES) for piece in pieces):
            raise ConfigError(
                "The pieces of the text encoder's vocabulary cannot be merged into words.",
                where=encoder.name,
                found=f"no piece that begins with {_CONTINUES}",
                allowed="a WordPiece vocabulary, such as BERT's",
            )
        self.end = int(tokenizer.sep_token_id)
        for name, sign in (("continues", _CONTINUES), ("bracketed", "[")):
            marks = torch.tensor([piece.startswith(sign) for piece in pieces])
            self.register_buffer(name, marks, persistent=False)

    def starts(self, tokens: Tokens) -> Tensor:
        """``[B, L]`` bool: tokens that open a slot, up to and with the first ``[SEP]``."""
        opens = ~self.continues[tokens.input_ids]
        opens[:, 0] = True
        ends = (tokens.input_ids == self.end).long()
        return opens & (ends.cumsum(1) - ends == 0)

    def slots(self, tokens: Tokens) -> Slots:
        """Slots of B texts. A word that is still open where a text without ``[SEP]`` ends is left out."""
        ids = tokens.input_ids
        ends = (ids == self.end).long()
        after = ends.cumsum(1) - ends > 0
        starts = self.starts(tokens)
        number = starts.long().cumsum(1) - 1
        closed = ends.any(1, keepdim=True)
        nowhere = after | (~closed & (number == number[:, -1:]))
        kept = starts & ~nowhere
        content = kept & (ids != self.end)
        content[:, 0] = False
        filled = torch.arange(ids.shape[1], device=ids.device) < kept.sum(1, keepdim=True)
        return Slots(
            of_token=number.masked_fill(nowhere, ids.shape[1]),
            words=content.sum(1),
            unbracketed=(content & ~self.bracketed[ids]).sum(1),
            filled=filled,
        )


def mean_over_words(attention: Tensor, words: Tensor, groups: Sequence[slice]) -> Tensor:
    """Mean over the words of each text, then over the texts of each group: ``[B, N, L, R]`` -> ``[B, G, R]``.

    Args:
        attention: of each slot. words: ``[N, L]`` bool, slots that count, at least one of each text.
        groups: which of the N texts belong together.
    """
    share = (words / words.sum(dim=1, keepdim=True)).unsqueeze(-1)
    each = (attention * share).sum(dim=2)
    return torch.stack([each[:, group].mean(dim=1) for group in groups], dim=1)


def merge(values: Tensor, slots: Slots) -> Tensor:
    """Sums over the tokens of each slot: ``[B, L, D]`` -> ``[B, L, D]`` float32, zeros in pads.

    A product with the 0/1 matrix of slots: the same as adding piece by piece, but in a fixed order also where
    scattered additions are not.
    """
    length = slots.of_token.shape[1]
    with torch.autocast(values.device.type, enabled=False):
        membership = functional.one_hot(slots.of_token, length + 1)[..., :length].transpose(1, 2)
        return membership.to(torch.float32) @ values.float()
