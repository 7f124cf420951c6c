"""CLIP's text tower: a causal transformer over byte-pair tokens, read at the token that ends the text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from replication.errors import ConfigError
from replication.knowledge.text_encoder import Tokens
from replication.networks.clip_transformer import Transformer


class ClipText(nn.Module):
    """Texts -> ``[N, output_dim]``, with CLIP's parameter names and initialisation.

    Published sizes: vocabulary 49408, 77 tokens, width 512, 12 layers, 8 heads.

    Args:
        vocabulary_size: rows of the token embedding.
        max_length: tokens of a text, start and end included; longer texts are cut before their end token.
        tokenizer: hub id or folder of CLIP's tokeniser; it is loaded when the first text is encoded.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        max_length: int,
        width: int,
        layers: int,
        heads: int,
        output_dim: int,
        tokenizer: str,
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.max_length, self._name = vocabulary_size, max_length, tokenizer
        self.token_embedding = nn.Embedding(vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(max_length, width))
        self.transformer = Transformer(width, layers, heads, causal=True)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, output_dim))
        self._initialise(width, layers)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> ``<start> pieces <end>``, padded with zeros to the longest, on the tower's device.

        Raises:
            ConfigError: the tokeniser cannot be loaded, or does not belong to the embedding.
        """
        start, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        pieces: list[list[int]] = (
            self._tokenizer(
                list(texts), add_special_tokens=False, truncation=True, max_length=self.max_length - 2
            )["input_ids"]
            if texts
            else []
        )
        rows = [[start, *ids, end] for ids in pieces]
        longest = max(map(len, rows), default=2)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)
        return Tokens(ids.view(-1, longest), mask.view(-1, longest)).to(self.positional_embedding.device)

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens of N texts -> ``[N, output_dim]``: the projected state of the last token that is no padding.

        CLIP finds that token as the largest id, which is the same as long as nothing but the end token has
        it. Attention is causal, so padding behind it changes nothing.
        """
        ids, mask = tokens
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        ends = mask.sum(dim=1) - 1
        states = self.transformer(x)[torch.arange(len(ids), device=ids.device), ends]
        projected: Tensor = self.ln_final(states) @ self.text_projection
        return projected

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self._name, use_fast=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "CLIP's tokeniser cannot be loaded.",
                where=self._name,
                found=str(error).splitlines()[0],
                allowed="a Hugging Face id such as openai/clip-vit-base-patch32, or a folder with its files",
                remedy="download it once with `hf download`, or name a folder; or choose text: shared",
            ) from error
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise ConfigError(
                "The tokeniser has no start or end token.", where=self._name, remedy="name CLIP's tokeniser"
            )
        if len(tokenizer) > self.vocabulary_size:
            raise ConfigError(
                "The tokeniser does not belong to the token embedding.",
                where=self._name,
                found=f"{len(tokenizer)} tokens",
                allowed=f"at most {self.vocabulary_size}",
                remedy="name CLIP's tokeniser, or set vocabulary_size",
            )
        return tokenizer

    def _initialise(self, width: int, layers: int) -> None:
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        for name, parameter in self.transformer.named_parameters():
            if name.endswith("in_proj_weight"):
                nn.init.normal_(parameter, std=width**-0.5)
            elif name.endswith(("out_proj.weight", "c_proj.weight")):
                nn.init.normal_(parameter, std=(2 * layers * width) ** -0.5)
            elif name.endswith("c_fc.weight"):
                nn.init.normal_(parameter, std=(2 * width) ** -0.5)
