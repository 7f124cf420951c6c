"""MGCA: the three losses with gradients for ResNet and ViT, Sinkhorn codes, word aggregation, heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from baselines.mgca import (
    MGCASettings,
    _by_token,
    aggregate,
    clipped_weights,
    projection_head,
    prototype_loss,
    sinkhorn,
    token_losses,
)
from pieces import Check, piece
from pieces.gloria import first_slots, word_pieces
from replication.knowledge.text_encoder import Tokens
from replication.networks.losses import info_nce

FAITHFUL = MGCASettings(attention_shift="official", pad_columns="official")


def losses(given: dict[str, Any], *, vit: bool) -> Iterator[Check]:
    """All three losses on raw embeddings, and the gradients of their sum."""
    inputs = given["inputs"]
    names = ("img_emb_raw", "patch_emb_raw", "report_emb_raw", "word_emb_raw", "prototype_weight")
    leaves = [inputs[name].clone() for name in names]
    leaves[4] = functional.normalize(leaves[4], dim=1)
    for leaf in leaves:
        leaf.requires_grad_(True)
    v, patches, u, words = (functional.normalize(leaf, dim=-1) for leaf in leaves[:4])
    keep = torch.ones(len(v), dtype=torch.bool)
    maps = inputs["vit_attention_map_last_block"]
    local = token_losses(
        patches,
        words,
        ~first_slots(inputs["n_words"], words.shape[1]),
        clipped_weights(inputs["word_attn"]),
        clipped_weights(maps[:, :, 0, 1:].mean(dim=1)) if vit else None,
        temperature=FAITHFUL.token_temperature,
        mask_pads=FAITHFUL.pad_columns == "masked",
        unit_context=not vit,
    ).mean()
    whole = 2 * info_nce(v, u, temperature=FAITHFUL.temperature, keep=keep)
    prototypes = prototype_loss(
        v,
        u,
        leaves[4],
        keep,
        temperature=FAITHFUL.prototype_temperature,
        code_temperature=FAITHFUL.code_temperature,
        steps=FAITHFUL.sinkhorn_steps,
    )
    yield Check("wholes", whole, given["loss_ita"])
    yield Check("tokens", local, given["loss_local"])
    yield Check("prototypes", prototypes, given["loss_proto"])
    gradients = torch.autograd.grad(whole + local + prototypes, leaves)
    theirs = given["grads_of_sum[img,patch,report,word,proto_weight(after L2-normalise)]"]
    for name, ours, expected in zip(names, gradients, theirs, strict=True):
        yield Check(f"gradient of {name}", ours, expected)


@piece("mgca_resnet")
def resnet(given: dict[str, Any]) -> Iterator[Check]:
    """Losses as with a ResNet."""
    yield from losses(given, vit=False)


@piece("mgca_vit")
def vit(given: dict[str, Any]) -> Iterator[Check]:
    """Losses as with a ViT: patches weighed by attention, their contexts as they are."""
    yield from losses(given, vit=True)


@piece("mgca_sinkhorn")
def codes(given: dict[str, Any]) -> Iterator[Check]:
    """Codes of given scores."""
    scores = given["exp_scores_T(K,B)"].T
    ours = sinkhorn(scores, given["iters"], torch.ones(len(scores), dtype=torch.bool))
    yield Check("codes", ours, given["codes(B,K)"])


@piece("mgca_aggregate")
def words(given: dict[str, Any]) -> Iterator[Check]:
    """Words and their attention, shifted by one token."""
    ids = given["ids"]
    # The released function is given the attention from the second token on.
    attention = functional.pad(given["attn(B,T-1)"], (1, 0))
    merged, weights, slots = aggregate(
        given["emb(B,1,T,D)"][:, 0],
        attention,
        Tokens(ids, torch.ones_like(ids)),
        word_pieces(given["vocab"]),
        FAITHFUL.attention_shift,
    )
    yield Check("words", functional.pad(merged, (0, 0, 0, 1)), given["agg"][:, 0])
    yield Check("attention", functional.pad(weights, (0, 1)), given["agg_attn"])
    names = torch.tensor([[name != "[PAD]" for name in row] for row in given["sents"]])
    yield Check("filled slots", functional.pad(slots.filled, (0, 1)).long(), names.long())


@piece("mgca_heads")
def heads(given: dict[str, Any]) -> Iterator[Check]:
    """Both heads in training, then in evaluation with the statistics of that step."""
    whole, tokens = projection_head(8, 12, 5), projection_head(8, 12, 5)
    for head, state in ((whole, given["global_sd"]), (tokens, given["local_sd"])):
        head.load_state_dict(
            {key.removeprefix("head."): t.squeeze(-1) if t.ndim == 3 else t for key, t in state.items()}
        )
    for mode, entry in ((True, "train_out"), (False, "eval_out_after_one_train_step")):
        whole.train(mode)
        tokens.train(mode)
        yield Check(f"wholes, training {mode}", whole(given["xg"]), given[entry][0])
        yield Check(f"tokens, training {mode}", _by_token(tokens, given["xl"]), given[entry][1])
