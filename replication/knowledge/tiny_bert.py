"""A BERT small enough to train in the pipeline, so that everything also runs without a download.

Masked words alone do not make usable text vectors at this size: the vectors of all descriptions fall
together, and "left" and "right" prompts become one. So every text is masked twice, independently, and besides
the masked words the encoder learns which two masked versions belong together among those of the batch
(InfoNCE on ``[CLS]`` and on the mean of the tokens). Independent masks play the part of SimCSE's dropout
(Gao et al. 2021). Texts that differ only in left and right share a batch, and so have to be told apart.

Measured on 3,791 phantom reports, masked words alone -> this: effective rank of the 75 descriptions about
their mean 10 -> 17 (``[CLS]``) and 14 -> 20 (mean); cosine of "left pleural effusion" and "right pleural
effusion" 0.998 -> 0.58 (``[CLS]``) and 0.98 -> 0.58 (mean).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from replication.errors import ConfigError, DataError
from replication.files import replace_folder, storage_errors_are_reported
from replication.knowledge.sentences import split_sentences
from replication.knowledge.text_encoder import Pooling, TextEncoder, mean_pool
from replication.knowledge.wordpiece import (
    CLS,
    MASK,
    PAD,
    SEP,
    SPECIAL,
    UNK,
    build_vocabulary,
    make_tokenizer,
)

_HEADING = re.compile(r"\b[A-Z][A-Z ]+:")

MASKED = 0.15
TEMPERATURE = 0.1
MOST_SENTENCES, MOST_REPORTS = 8000, 1000
RECORD = "tiny_bert.json"


@dataclass(frozen=True)
class TinyBertReport:
    """How a training went; also written to ``tiny_bert.json`` in the encoder's folder.

    Attributes:
        masked_word_loss, pair_loss: mean over each epoch.
        vocabulary: number of word pieces. sentences, reports: number of texts trained on.
        left_right_cosine: by pooling, between "left pleural effusion" and "right pleural effusion".
        effective_rank: by pooling, of the extra texts; 1 when all their vectors fall together.
    """

    masked_word_loss: list[float]
    pair_loss: list[float]
    vocabulary: int
    sentences: int
    reports: int
    left_right_cosine: dict[str, float]
    effective_rank: dict[str, float]


def train_tiny_bert(
    reports: Sequence[str],
    extra_texts: Sequence[str],
    out: Path,
    *,
    seed: int,
    vocab_size: int = 2000,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 2,
    max_length: int = 128,
    epochs: int = 5,
    batch_size: int = 64,
    lr: float = 1e-3,
    progress: bool = False,
) -> TinyBertReport:
    """Train a small BERT on reports and write it as a Hugging Face folder.

    An epoch is all different sentences of the reports (at most 8,000), all extra texts, and an equal share of
    whole reports (at most 1,000 in all), so that every position is trained. The result is the same for the
    same texts, seed and number of torch threads; it takes about 40 seconds on one core.

    Args:
        extra_texts: texts that are no reports but will be encoded, such as the 75 descriptions.
        out: folder to write; an encoder that an earlier call wrote there is replaced.

    Raises:
        DataError: no text to train on.
        ConfigError: ``out`` is there and is no encoder of ours; sizes that do not fit together.
    """
    _check(out, hidden, heads, epochs)
    rng = np.random.default_rng([seed, 0])
    sentences = _sample([s for report in reports for s in _sentences(report)], MOST_SENTENCES, rng)
    whole = _sample([" ".join(report.split()) for report in reports], MOST_REPORTS, rng)
    extra = [" ".join(text.split()) for text in extra_texts]
    if not sentences:
        raise DataError("there is no report to train the text encoder on", remedy="check the training split")
    vocabulary = build_vocabulary([*sentences, *extra], vocab_size)
    tokenizer = make_tokenizer(vocabulary, max_length)

    def encode(texts: list[str]) -> list[list[int]]:
        cut: Any = {"add_special_tokens": False, "truncation": True, "max_length": max_length - 2}
        pieces = tokenizer(texts, **cut)["input_ids"] if texts else []
        return [[CLS, *ids, SEP] for ids in pieces]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(len(vocabulary), hidden, layers, heads, max_length)
    every, long = encode([*sentences, *extra]), encode(whole)
    epoch_texts = [every + long[start::epochs] for start in range(epochs)]
    sides = (vocabulary.index(side) if side in vocabulary else UNK for side in ("left", "right"))
    word_loss, pair_loss = _train(
        model, epoch_texts, tuple(sides), len(vocabulary), batch_size, lr, seed, progress
    )

    encoder = TextEncoder(model.bert.eval(), tokenizer, str(out))
    poolings: tuple[Pooling, ...] = ("cls", "mean")
    report = TinyBertReport(
        masked_word_loss=word_loss,
        pair_loss=pair_loss,
        vocabulary=len(vocabulary),
        sentences=len(sentences),
        reports=len(whole),
        left_right_cosine={p: _left_right_cosine(encoder, p, max_length) for p in poolings},
        effective_rank={
            p: effective_rank(encoder.embed(extra, pooling=p, max_length=max_length)) for p in poolings
        }
        if len(extra) > 1
        else {},
    )
    _write(encoder, report, out)
    return report


def effective_rank(features: Tensor) -> float:
    """How many directions vectors [N, D] use about their mean: exp of the entropy of the variance shares."""
    values = torch.linalg.svdvals((features - features.mean(0)).double()) ** 2
    shares = values / values.sum().clamp_min(1e-30)
    return float(torch.exp(torch.special.entr(shares).sum()))


def _check(out: Path, hidden: int, heads: int, epochs: int) -> None:
    if hidden % heads or epochs < 1:
        raise ConfigError(
            "sizes of the text encoder do not fit together",
            found=f"hidden {hidden}, heads {heads}, epochs {epochs}",
            allowed="hidden a multiple of heads, at least one epoch",
        )
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not empty and not (out / RECORD).is_file():
        raise ConfigError(
            "the folder for the text encoder holds something else",
            where=out,
            remedy="name another folder, or remove this one",
        )


def _sentences(report: str) -> list[str]:
    text = " ".join(_HEADING.sub(" ", report).split())
    return [s for s in split_sentences(text, "punkt", "whitespace").texts if len(s) > 2]


def _sample(texts: list[str], most: int, rng: np.random.Generator) -> list[str]:
    """Different texts in order of appearance, at most so many of them."""
    different = list(dict.fromkeys(texts))
    if len(different) <= most:
        return different
    return [different[i] for i in np.sort(rng.choice(len(different), most, replace=False))]


def _new_model(vocabulary: int, hidden: int, layers: int, heads: int, max_length: int) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=max_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=PAD,
    )
    return BertForMaskedLM(config)


def _train(
    model: Any,
    epoch_texts: list[list[list[int]]],
    sides: tuple[int, ...],
    vocabulary: int,
    batch_size: int,
    lr: float,
    seed: int,
    progress: bool,
) -> tuple[list[float], list[float]]:
    """Train in place; returns the two mean losses of each epoch."""
    rng = np.random.default_rng([seed, 1])
    draws = torch.Generator().manual_seed(seed)
    steps = sum(-(-len(texts) // batch_size) for texts in epoch_texts)
    warmup = max(1, steps // 10)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    model.train()
    history: tuple[list[float], list[float]] = ([], [])
    with tqdm(total=steps, desc="text encoder", unit="step", disable=not progress) as bar:
        for texts in epoch_texts:
            losses = []
            for batch in _batches(texts, sides, batch_size, rng):
                word, pair = _losses(model, _pad([texts[i] for i in batch]), vocabulary, draws)
                optimiser.zero_grad()
                torch.autograd.backward(word + pair)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                losses.append((float(word.detach()), float(pair.detach())))
                bar.set_postfix(
                    masked_words=f"{losses[-1][0]:.2f}", pairs=f"{losses[-1][1]:.2f}", refresh=False
                )
                bar.update()
            for kind, mean in zip(history, np.mean(losses, axis=0), strict=True):
                kind.append(float(mean))
    return history


def _batches(
    texts: list[list[int]], sides: tuple[int, ...], batch_size: int, rng: np.random.Generator
) -> list[list[int]]:
    """Indices of batches of texts of similar length, in random order.

    Texts that differ only in ``sides`` (the tokens of left and right) are drawn as one, so that they meet in
    a batch and have to be told apart.
    """
    first = sides[0]
    neutral = [tuple(first if token in sides else token for token in ids) for ids in texts]
    group = {text: number for number, text in enumerate(dict.fromkeys(neutral))}
    draw = 3 * rng.random(len(group))
    key = np.array([len(text) + draw[group[text]] for text in neutral])
    order = np.argsort(key, kind="stable").tolist()
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _pad(texts: list[list[int]]) -> Tensor:
    ids = torch.full((len(texts), max(map(len, texts))), PAD, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    return ids


def _losses(model: Any, ids: Tensor, vocabulary: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Masked-word and pair loss of a batch of token ids [B, L]."""
    both = torch.cat([ids, ids])
    chosen = (torch.rand(both.shape, generator=draws) < MASKED) & (both >= len(SPECIAL))
    # BERT's corruption: of the chosen pieces 80 % are masked, 10 % replaced at random, 10 % left.
    fate = torch.rand(both.shape, generator=draws)
    random = torch.randint(len(SPECIAL), vocabulary, both.shape, generator=draws)
    corrupted = torch.where(chosen & (fate < 0.8), MASK, torch.where(chosen & (fate >= 0.9), random, both))
    mask = (both != PAD).long()
    hidden = model.bert(input_ids=corrupted, attention_mask=mask).last_hidden_state
    # A batch without any chosen piece has no masked-word loss; its sum is 0, where a mean would be NaN.
    word = F.cross_entropy(model.cls(hidden[chosen]), both[chosen], reduction="sum") / chosen.sum().clamp_min(
        1
    )
    pair = torch.stack([_pair_loss(z) for z in (hidden[:, 0], mean_pool(hidden, mask))]).mean()
    return word, pair


def _pair_loss(features: Tensor) -> Tensor:
    """InfoNCE between the two versions [2B, D] of B texts."""
    first, second = F.normalize(features, dim=-1).chunk(2)
    return F.cross_entropy(first @ second.T / TEMPERATURE, torch.arange(len(first)))


def _left_right_cosine(encoder: TextEncoder, pooling: Pooling, max_length: int) -> float:
    texts = ("left pleural effusion", "right pleural effusion")
    sides = encoder.embed(texts, pooling=pooling, max_length=max_length)
    return float(F.cosine_similarity(sides[0], sides[1], dim=0))


def _write(encoder: TextEncoder, report: TinyBertReport, out: Path) -> None:
    temporary = out.with_name(f".{out.name}.incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with storage_errors_are_reported(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            encoder.save(temporary)
            (temporary / RECORD).write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
            replace_folder(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
