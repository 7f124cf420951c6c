"""Reports read as a whole and pooled sentence by sentence: the text side of LoVT and PRIOR.

The sentences of a report are tokenised one by one and laid end to end behind one ``[CLS]``: each is read in
the light of the others, and which token belongs to which sentence is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from replication.knowledge.text_encoder import TextEncoder, Tokens
from replication.networks.text_tower import TextTower

SentencePooling = Literal["mean", "max"]


class SentenceTokens(NamedTuple):
    """B reports of up to S sentences of up to T tokens.

    Attributes:
        tokens: ``[B, L]``; ``[CLS]``, the tokens of all sentences, ``[SEP]``, padding.
        places: ``[B, S, T]`` int64, where in its row each token of a sentence is.
        real: ``[B, S, T]`` bool, false where a sentence has fewer tokens.
    """

    tokens: Tokens
    places: Tensor
    real: Tensor

    @property
    def mask(self) -> Tensor:
        """``[B, S]`` bool: where there is a sentence."""
        return self.real.any(dim=-1)

    def to(self, device: torch.device | str) -> SentenceTokens:
        """The same reports on another device."""
        return SentenceTokens(self.tokens.to(device), self.places.to(device), self.real.to(device))


def tokenize_sentences(
    encoder: TextEncoder,
    reports: Sequence[Sequence[str]],
    max_length: int,
    *,
    max_sentences: int | None = None,
) -> SentenceTokens:
    """B lists of sentences -> their tokens, on the CPU.

    Args:
        max_length: of a report in tokens; what is behind is cut off, and a sentence without a token is none.
        max_sentences: of a report; the others are cut off.
    """
    kept = [sentences[:max_sentences] for sentences in reports]
    flat = encoder.tokenize([sentence for sentences in kept for sentence in sentences], max_length)
    # Of each token: its report, its sentence, and which token of the sentence it is; the layout follows.
    report = torch.tensor([row for row, sentences in enumerate(kept) for _ in sentences], dtype=torch.int64)
    sentence = torch.tensor([s for sentences in kept for s in range(len(sentences))], dtype=torch.int64)
    source, column = encoder.content_mask(flat).nonzero(as_tuple=True)
    token = column - 1
    rows, order = report[source], sentence[source]
    first = torch.searchsorted(rows, torch.arange(len(kept) + 1))
    place = 1 + torch.arange(len(rows)) - first[rows]
    inside = place < max_length - 1
    pieces = flat.input_ids[source, column][inside]
    rows, order, token, place = rows[inside], order[inside], token[inside], place[inside]

    start, end, pad = encoder.tokenize([""], 3, padding="max_length").input_ids[0].tolist()
    counts = torch.bincount(rows, minlength=len(kept))
    length = 2 + int(counts.max()) if len(kept) else 2
    ids = torch.full((len(kept), length), pad, dtype=torch.int64)
    ids[:, 0] = start
    ids[rows, place] = pieces
    ids[torch.arange(len(kept)), 1 + counts] = end
    attention = (torch.arange(length) < (counts + 2).unsqueeze(1)).long()

    size = (len(kept), 1 + int(order.max()) if len(order) else 1, 1 + int(token.max()) if len(token) else 1)
    places, real = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool)
    places[rows, order, token] = place
    real[rows, order, token] = True
    return SentenceTokens(Tokens(ids, attention), places, real)


def pool_sentences(hidden: Tensor, sentences: SentenceTokens, pooling: SentencePooling) -> Tensor:
    """Token features ``[B, L, D]`` -> sentence features ``[B, S, D]``; zeros where there is no sentence.

    ``mean`` or ``max`` is over the sentence's own tokens, ``[CLS]`` and ``[SEP]`` belonging to none.
    """
    size, count, longest = sentences.places.shape
    index = sentences.places.flatten(1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    features = hidden.gather(1, index).view(size, count, longest, -1)
    real = sentences.real.unsqueeze(-1)
    if pooling == "mean":
        return (features * real).sum(dim=2) / real.sum(dim=2).clamp_min(1)
    highest = features.masked_fill(~real, torch.finfo(features.dtype).min).amax(dim=2)
    return highest.masked_fill(~sentences.mask.unsqueeze(-1), 0)


def encode_sentences(
    tower: TextTower,
    reports: Sequence[Sequence[str]],
    pooling: SentencePooling,
    *,
    max_sentences: int | None = None,
) -> tuple[Tensor, Tensor]:
    """B lists of sentences -> features ``[B, S, width]`` and ``[B, S]`` bool, where there is a sentence."""
    found = tokenize_sentences(tower.encoder, reports, tower.max_length, max_sentences=max_sentences)
    found = found.to(tower.device)
    return pool_sentences(tower.encoder(found.tokens), found, pooling), found.mask
