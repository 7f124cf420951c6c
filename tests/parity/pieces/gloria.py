"""GLoRIA: local and global losses with gradients, the text side, and zero-shot similarities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from doubles import text_encoder
from torch import Tensor

from baselines.gloria import (
    standardised,
    text_vectors,
)
from pieces import Check, piece
from replication.knowledge.text_encoder import TextEncoder, Tokens
from replication.networks.losses import info_nce
from replication.networks.word_pieces import WordPieces
from replication.networks.word_regions import (
    Temperatures,
    cosine,
    local_losses,
    local_similarity,
    region_attention,
    word_products,
)

SHARP = Temperatures()


class ListTokenizer:
    """A vocabulary given as a list."""

    def __init__(self, vocabulary: list[str]) -> None:
        self.vocabulary = vocabulary
        self.sep_token_id = vocabulary.index("[SEP]")

    def __len__(self) -> int:
        return len(self.vocabulary)

    def convert_ids_to_tokens(self, ids: range) -> list[str]:
        return [self.vocabulary[number] for number in ids]


def word_pieces(vocabulary: list[str]) -> WordPieces:
    """The word rules over a vocabulary given as a list."""
    encoder: TextEncoder = text_encoder()
    encoder.tokenizer = ListTokenizer(vocabulary)
    return WordPieces(encoder)


def first_slots(counts: list[int], length: int, start: int = 0) -> Tensor:
    """``[N, length]``: slots from ``start``, ``counts`` of them."""
    position = torch.arange(length)
    return (position >= start) & (position < torch.tensor(counts).unsqueeze(1) + start)


def sides(inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image regions, words, whole image, whole text, in the shapes of the method."""
    return (
        inputs["img_l"].flatten(2).transpose(1, 2),
        inputs["txt_l"].transpose(1, 2),
        inputs["img_g"],
        inputs["txt_g"],
    )


@piece("gloria")
def losses(given: dict[str, Any]) -> Iterator[Check]:
    """Both directions of both losses, attention, and the gradients of their sum."""
    inputs = given["inputs"]
    assert (inputs["temp1"], inputs["temp2"], inputs["temp3"]) == SHARP
    leaves = [inputs[name].clone().requires_grad_(True) for name in ("img_l", "txt_l", "img_g", "txt_g")]
    regions, words, v, u = sides(dict(zip(("img_l", "txt_l", "img_g", "txt_g"), leaves, strict=True)))
    used = first_slots(inputs["cap_lens"], words.shape[1])
    keep = torch.ones(len(regions), dtype=torch.bool)
    local = local_losses(regions, words, used, keep, SHARP, "sum")
    yield Check("image to text, local", local[0], given["local_loss0"])
    yield Check("text to image, local", local[1], given["local_loss1"])
    mean = local_losses(regions, words, used, keep, SHARP, "mean")
    yield Check("mean aggregation", mean, torch.stack(list(given["local_loss_mean_agg"])))
    to_text = info_nce(v, u, temperature=1 / SHARP.pair, image_weight=1.0, keep=keep)
    to_image = info_nce(v, u, temperature=1 / SHARP.pair, image_weight=0.0, keep=keep)
    yield Check("image to text, global", to_text, given["global_loss0_img2txt_rows"])
    yield Check("text to image, global", to_image, given["global_loss1"])
    total = local.sum() + 2 * info_nce(v, u, temperature=1 / SHARP.pair, keep=keep)
    yield Check("total", total, given["total"])
    theirs = given["grads_of_total[img_l,txt_l,img_g,txt_g]"]
    for name, ours, expected in zip(
        ("regions", "words", "image", "text"), torch.autograd.grad(total, leaves), theirs, strict=True
    ):
        yield Check(f"gradient of {name}", ours, expected)
    attention = region_attention(word_products(regions, words), used, SHARP.region)
    for row, expected in enumerate(given["attn_maps_of_matching_pairs"]):
        count = inputs["cap_lens"][row]
        ours = attention[row, row, :count].unflatten(1, expected.shape[-2:])
        yield Check(f"attention of pair {row}", ours, expected[0])
    five = words[:, :5]
    every = torch.ones(five.shape[:2], dtype=torch.bool)
    alone = region_attention(word_products(regions, five), every, SHARP.region)
    own = alone.diagonal().movedim(-1, 0)
    expected = given["attention_fn_first5words"]
    yield Check("attention of five words", own.unflatten(2, expected["attn"].shape[-2:]), expected["attn"])
    yield Check("context of five words", (own @ regions).transpose(1, 2), expected["ctx"])
    yield Check("cosine", cosine(v, u), given["cosine"])


@piece("gloria_text")
def text(given: dict[str, Any]) -> Iterator[Check]:
    """Words and whole texts from hidden states, and the caption lengths of training."""
    ids = given["ids"]
    slots = word_pieces(given["vocab"]).slots(Tokens(ids, torch.ones_like(ids)))
    words, whole = text_vectors(given["hidden_states"][1:][-4:], slots)
    yield Check("words", words.transpose(1, 2), given["word_emb(B,D,T)"])
    yield Check("whole texts", whole, given["sent_emb"])
    yield Check("caption lengths", slots.unbracketed + 1, torch.tensor(given["train_cap_lens"]))
    names = torch.tensor([[name != "[PAD]" for name in row] for row in given["sents"]])
    yield Check("filled slots", slots.filled.long(), names.long())


@piece("gloria_zeroshot")
def zero_shot(given: dict[str, Any]) -> Iterator[Check]:
    """Similarities as the released scores take them, slots 1 to the caption's length."""
    inputs = given["inputs"]
    regions, words, v, u = sides(inputs)
    count = len(given["cap_lens"])
    used = first_slots(given["cap_lens"], words.shape[1], start=1)
    local = local_similarity(regions, words[:count], used, SHARP, "max")
    whole = cosine(v.unsqueeze(1), u[:count].unsqueeze(0))
    both = (local + whole) / 2
    yield Check("local", local, given["local_sim(images,texts)"])
    yield Check("global", whole, given["global_sim"])
    yield Check("both", both, given["both"])
    classes = standardised(torch.stack([both[:, :2].amax(1), both[:, 2]], dim=1))
    yield Check("classes", classes, given["class_max_over_prompts_two_classes[{0,1},{2}]_then_zscore_ddof0"])
