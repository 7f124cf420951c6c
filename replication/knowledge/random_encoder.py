"""A text encoder of any size with random weights: for timing, and for trying the loading of a real one."""

from __future__ import annotations

from typing import Any

import torch

from replication.knowledge.descriptions import load_descriptions
from replication.knowledge.text_encoder import TextEncoder
from replication.knowledge.wordpiece import PAD, build_vocabulary, make_tokenizer

BERT_VOCABULARY = 28996
"""Word pieces of the cased BERT-base that the clinical encoders start from."""


def random_text_encoder(
    *, hidden: int = 768, layers: int = 12, heads: int = 12, vocabulary: int = BERT_VOCABULARY, seed: int = 0
) -> TextEncoder:
    """A BERT, of the base size unless told otherwise, in evaluation mode.

    Args:
        vocabulary: rows of the table of word pieces; the tokeniser knows the words of the 75 descriptions.
    """
    from transformers import BertConfig, BertModel

    pieces = build_vocabulary(load_descriptions("own"), vocabulary)
    config = BertConfig(
        vocab_size=max(vocabulary, len(pieces)),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = BertModel(config, add_pooling_layer=False)
    tokenizer = make_tokenizer(pieces, config.max_position_embeddings)
    return TextEncoder(model.eval(), tokenizer, f"random BERT of {layers} layers of width {hidden}")
