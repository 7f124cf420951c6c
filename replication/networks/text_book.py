"""Text books: the features of a fixed list of texts, computed once and kept with the weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from replication.knowledge.descriptions import anatomy_prompt
from replication.knowledge.vocabulary import ANATOMIES, anatomy_phrase
from replication.method import Settings


class BookSettings(Settings):
    """How texts become the rows of a book.

    Attributes:
        pooling: ``cls`` is the released code; the ``[CLS]`` of a small masked-language BERT is nearly the
            same for all texts, ``mean`` over tokens is not.
        centre: subtract the mean row of the book from all its rows.
        max_length: tokens kept in pre-training. max_length_eval: in zero-shot evaluation, where the
            released scripts keep 64 of the 128 (audit Z6).
        add_sep: end texts with ``[SEP]``, which the released tokeniser leaves out; lowercase: lower-case
            texts although the vocabulary is cased (audit P18).
        variant: ``per_script`` evaluates with the released down-stream copies of the description file,
            which lack quotation marks and dashes that the pre-training copy has (audit Z7).
        anatomy_names: names of anatomies as the vocabulary's keys (released code) or as phrases of reports.
    """

    pooling: Literal["cls", "mean"] = "cls"
    centre: bool = False
    max_length: int = 128
    max_length_eval: int = 128
    add_sep: bool = True
    lowercase: bool = False
    variant: Literal["pretrain", "per_script"] = "pretrain"
    anatomy_names: Literal["key", "phrase"] = "key"


class TextBook(nn.Module):
    """Features ``[N, D]`` of N texts from a frozen text encoder.

    They are persistent buffers, so saved weights need no text encoder. The encoder itself is only
    referred to, for texts that come up later (findings outside the vocabulary).

    Attributes:
        features: for pre-training and its validation.
        evaluation: for zero-shot scores; ``None`` where it equals ``features``.
        centre: ``[D]``, what was subtracted from the pooled features.
    """

    features: Tensor
    evaluation: Tensor | None
    centre: Tensor

    def __init__(self, texts: Sequence[str], text_encoder: nn.Module, settings: BookSettings) -> None:
        super().__init__()
        encoder: Any = text_encoder
        self._embed = partial(
            encoder.embed, pooling=settings.pooling, add_sep=settings.add_sep, lowercase=settings.lowercase
        )
        self._max_length_eval = settings.max_length_eval
        self._later: dict[str, Tensor] = {}
        features = self._embed(list(texts), max_length=settings.max_length).detach().float().cpu()
        centre = features.mean(dim=0) if settings.centre else torch.zeros(features.shape[1])
        self.register_buffer("features", features - centre)
        self.register_buffer("centre", centre)
        evaluation = None
        if settings.max_length_eval != settings.max_length or settings.variant == "per_script":
            copies = [_downstream_copy(text) for text in texts] if settings.variant == "per_script" else texts
            evaluation = self._embed(list(copies), max_length=settings.max_length_eval)
            evaluation = evaluation.detach().float().cpu() - centre
        self.register_buffer("evaluation", evaluation)

    @property
    def width(self) -> int:
        """D, the text encoder's number of features."""
        return int(self.features.shape[1])

    @property
    def for_scores(self) -> Tensor:
        """``[N, D]``: the rows that zero-shot evaluation uses."""
        return self.features if self.evaluation is None else self.evaluation

    def replace(self, features: Tensor) -> None:
        """Put given features ``[N, D]`` in the place of the text encoder's (for numerical references)."""
        self.features = features.to(self.features)
        self.evaluation = None
        self.centre = torch.zeros_like(self.centre)

    def later(self, text: str) -> Tensor:
        """Features ``[D]`` of a text that is not in the book, made in the same way; remembered."""
        if text not in self._later:
            self._later[text] = self._embed([text], max_length=self._max_length_eval)[0].detach().float()
        return self._later[text].to(self.centre.device) - self.centre


def anatomy_texts(settings: BookSettings, style: Literal["medslip", "medklip"]) -> list[str]:
    """Prompts of the 51 anatomies, in order, as ``settings.anatomy_names`` names them."""
    if settings.anatomy_names == "phrase":
        return [f"It is located at the {anatomy_phrase(name)}." for name in ANATOMIES]
    return [anatomy_prompt(name, style) for name in ANATOMIES]


def _downstream_copy(text: str) -> str:
    return text.translate({ord(character): None for character in "“”‘’—"})
