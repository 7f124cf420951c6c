"""A BERT decoder whose inputs are learnt queries and whose memory is an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from replication.errors import ConfigError


class SentenceDecoder(nn.Module):
    """Queries ``[Q, D]`` look at cells ``[B, N, D]`` through Transformers' BERT with cross-attention.

    Positions are added to the queries as BERT adds them to words; the table of words is not built.

    Args:
        width: D. heads, feedforward, dropout: of each of the ``layers``.
        causal: a query sees those before it only, which is how Transformers' BERT decodes; otherwise all.

    Raises:
        ConfigError: ``width`` is no multiple of ``heads``.
    """

    def __init__(
        self, width: int, *, layers: int, heads: int, feedforward: int, dropout: float, causal: bool
    ) -> None:
        super().__init__()
        # Methods without this decoder do without the import, which is slow.
        from transformers import BertConfig, BertModel

        if width % heads:
            raise ConfigError(
                "The heads of a decoder must divide its width.",
                where="model.heads",
                found=heads,
                allowed=f"divisors of {width}",
            )
        config = BertConfig(
            vocab_size=1,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=feedforward,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            is_decoder=True,
            add_cross_attention=True,
            use_cache=False,
        )
        self.causal = causal
        model: Any = BertModel(config, add_pooling_layer=False)
        model.embeddings.word_embeddings = None
        # For so few queries plain attention is faster on the CPU and costs nothing elsewhere.
        model.set_attn_implementation("eager")
        self.model = model

    def forward(self, queries: Tensor, cells: Tensor) -> Tensor:
        """``[1, Q, D]`` or ``[B, Q, D]``, and ``[B, N, D]`` -> ``[B, Q, D]``."""
        queries = queries.expand(len(cells), -1, -1)
        count = queries.shape[1]
        everything = None if self.causal else torch.zeros(1, 1, count, count, device=cells.device)
        output = self.model(
            inputs_embeds=queries, attention_mask=everything, encoder_hidden_states=cells, use_cache=False
        )
        hidden: Tensor = output.last_hidden_state
        return hidden
