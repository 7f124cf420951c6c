"""Small stand-ins that tests build methods from: a random two-layer BERT, a thin trunk, a made-up batch."""

from __future__ import annotations

import re
import tempfile
from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, CLIPTokenizer, PreTrainedTokenizerFast

from replication.knowledge.descriptions import DESCRIPTIONS, EXTRA_DESCRIPTIONS
from replication.knowledge.text_encoder import TextEncoder
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES
from replication.method import Batch, ImageTrunk, Ingredients
from replication.network_config import TrunkConfig
from replication.networks.image_trunk import ResNetTrunk
from replication.phantom.scene import NIH_FINDINGS

REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged. No pneumothorax is seen.",
    "The lungs are clear. No pleural effusion or pneumothorax.",
    "Right lower lobe pneumonia. There is no effusion.",
    "A large right pneumothorax is present. The left lung is clear.",
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@cache
def vocabulary() -> dict[str, int]:
    """Every word of the descriptions, the anatomies and the reports, and single characters as pieces."""
    texts = " ".join((*DESCRIPTIONS.values(), *EXTRA_DESCRIPTIONS.values(), *ANATOMIES, *REPORTS))
    words = sorted(set(re.findall(r"[a-z]+|[^\sa-z]", texts.lower())))
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = dict.fromkeys([*SPECIAL, *words, *letters, *(f"##{letter}" for letter in letters)])
    return {piece: number for number, piece in enumerate(pieces)}


def text_encoder(width: int = 32, layers: int = 2, seed: int = 0) -> TextEncoder:
    """An untrained BERT."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}
    )
    config = BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=160,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    return TextEncoder(model.eval(), fast, "double")


@cache
def _clip_tokenizer() -> tempfile.TemporaryDirectory[str]:
    """Bytes, bytes that end a word, start and end of a text; the folder goes with the process."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder = tempfile.TemporaryDirectory(prefix="clip-tokenizer-")
    tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    tokenizer.save_pretrained(folder.name)
    return folder


def clip_tokenizer() -> str:
    """Folder of a tokeniser like CLIP's that knows no pieces longer than a byte."""
    return _clip_tokenizer().name


def trunk(width: int = 8, last_stage: int = 3) -> ImageTrunk:
    """A thin ResNet-18."""
    config = TrunkConfig.model_validate(
        {"architecture": "resnet18", "width": width, "last_stage": last_stage, "weights": "random"}
    )
    return ResNetTrunk(config)


def ingredients(width: int = 8, last_stage: int = 3, text_width: int = 32) -> Ingredients:
    """Parts of a small method."""
    return Ingredients(
        trunk=trunk(width, last_stage),
        text_encoder=text_encoder(text_width),
        label_names=NIH_FINDINGS,
        descriptions=tuple(DESCRIPTIONS.values()),
    )


def triplets(size: int, seed: int = 0) -> torch.Tensor:
    """``[B, 51, 75]`` int8: mostly not mentioned, some absent, some present."""
    generator = np.random.default_rng([seed, size])
    cells = generator.choice(
        [-1, 0, 1], size=(size, len(ANATOMIES), len(PATHOLOGIES)), p=[0.97, 0.015, 0.015]
    )
    return torch.from_numpy(cells.astype(np.int8))


def batch(size: int = 4, side: int = 64, seed: int = 0) -> Batch:
    """Images of noise with reports, triplets and labels."""
    generator = np.random.default_rng([seed, size, side])
    images = generator.standard_normal((size, 3, side, side)).astype(np.float32)
    labels = generator.integers(-1, 2, size=(size, len(NIH_FINDINGS))).astype(np.int8)
    return Batch(
        images=torch.from_numpy(images),
        reports=[REPORTS[number % len(REPORTS)] for number in range(size)],
        triplets=triplets(size, seed),
        labels=torch.from_numpy(labels),
        seed=seed,
    )
