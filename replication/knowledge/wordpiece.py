"""A WordPiece vocabulary built by counting, and the tokeniser that goes with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))


def build_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """Word pieces: special tokens, every character alone and inside a word, then whole words by frequency.

    Plain counting, because the trainers of the ``tokenizers`` library break ties differently from run to run.
    """
    splitter = _pipeline([*SPECIAL])
    words = Counter(
        word
        for text in texts
        for word, _ in splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
    )
    characters = sorted({character for word in words for character in word})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    known = set(pieces)
    by_frequency = sorted(words, key=lambda word: (-words[word], word))
    return (pieces + [word for word in by_frequency if word not in known])[: max(size, len(pieces))]


def make_tokenizer(vocabulary: list[str], max_length: int) -> Any:
    """A Hugging Face tokeniser, lower-casing like BERT, over a vocabulary that starts with ``SPECIAL``."""
    import transformers

    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(
        tokenizer_object=_pipeline(vocabulary),
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _pipeline(vocabulary: list[str]) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = {piece: index for index, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(vocab=pieces, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return tokenizer
