"""PRIOR: its losses, cross-attention, prototype bank, generation of prototypes and sentence pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from baselines.prior import arrange, divergence, mutual_prediction, sentence_contrast
from pieces import Check, piece
from replication.networks.attention_pool import AttentionPool
from replication.networks.losses import info_nce
from replication.networks.prototype_bank import PrototypeBank, gumbel
from replication.networks.sigmoid_attention import SigmoidAttention


def _part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


@piece("prior")
def _prior(stored: dict[str, Any]) -> Iterator[Check]:
    state, width = stored["sd"], stored["img_l"].shape[-1]
    image, text = stored["img_g"], stored["txt_g"]
    loss = info_nce(image, text, temperature=(-state["logit_scale"]).exp())
    yield Check("global", loss, stored["global_alignment_loss(scale100)"]["global_alignment_loss"])

    sentences = nn.utils.rnn.pad_sequence(stored["txt_l_list"], batch_first=True)
    lengths = torch.tensor([len(each) for each in stored["txt_l_list"]])
    mask = torch.arange(sentences.shape[1]) < lengths.unsqueeze(1)
    attention = SigmoidAttention(width)
    attention.load_state_dict(_part(state, "local_cross_attention"))
    from_text, from_image, weights = attention(stored["img_l"], sentences, mask)
    count = lengths[0]
    first = (from_text[0], weights[0][0, :, :count], from_image[0, :count], weights[1][0, :count])
    for number, (ours, theirs) in enumerate(zip(first, stored["local_cross_attention_item0"], strict=True)):
        yield Check(f"cross-attention {number}", ours, theirs)
    predictor = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))
    predictor.load_state_dict(_part(state, "predictor"))
    local = stored["local_losses"]
    ours = mutual_prediction(stored["img_l"], from_text, predictor).mean()
    yield Check("local image", ours, local["local_image_loss"])
    ours = sentence_contrast(sentences, from_image, mask, state["local_logit_scale"].exp()).mean()
    yield Check("local text", ours, local["local_text_loss"])

    bank = PrototypeBank(*state["sentence_bank.embed.weight"].shape, temperature=0.9)
    bank.load_state_dict(_part(state, "sentence_bank"))
    given = stored["spb_forward_seed7"]
    noise = gumbel((*given["x"].shape[:2], len(bank)), torch.Generator().manual_seed(7))
    replaced = bank(given["x"], noise)
    yield Check("prototypes", replaced.flatten(0, 1), given["out"])
    yield Check("prototype loss", (replaced - given["x"]).abs().mean(), given["l1"])
    chosen = (bank.logits(given["x"]) + noise).argmax(dim=-1).flatten()
    yield Check("chosen prototypes", chosen, given["idx"])

    spg = stored["spg"]
    real = spg["mask"].bool()
    arranged = arrange(spg["logits"], spg["protos"], backwards=True)
    yield Check("generation", 10 * (arranged - spg["protos"]).abs().mean(), spg["losses"]["spg_loss"])
    kl = divergence(bank.logits(arranged), bank.logits(spg["features"]))[real].mean()
    yield Check("consistency", kl, spg["losses"]["kl_loss"])
    yield Check("bank logits", bank.logits(spg["features"]).flatten(0, 1), spg["gt_dist"])
    for number, (row, length) in enumerate(zip(arranged, real.sum(dim=1), strict=True)):
        yield Check(f"generated {number}", row[:length], spg["stacks"][number])

    pool = AttentionPool(width, stored["sentence_attention_pool"]["heads"])
    pool.load_state_dict(stored["sentence_attention_pool"]["sd"])
    given = stored["sentence_attention_pool"]
    yield Check("sentence pool", pool(given["x"]), given["out"])
