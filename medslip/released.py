"""Names of the released checkpoints of MeDSLIP, key by key."""

from __future__ import annotations

from collections.abc import Iterable

from replication.networks.key_maps import trunk_keys

_MODULES = {
    "mask_generator": "gate",
    "pathology_embedding_layer": "pathology_queries",
    "res_l1_pathology": "pathology_patches.hidden",
    "res_l2_pathology": "pathology_patches.output",
    "res_l1_anatomy": "anatomy_patches.hidden",
    "res_l2_anatomy": "anatomy_patches.output",
    "decoder_pathology.layers": "pathology.decoder.layers",
    "decoder_anatomy.layers": "anatomy.decoder.layers",
    "cl_fc_pathology": "pathology.contrast",
    "cl_fc_anatomy": "anatomy.contrast",
    "classifier_pathology": "pathology.classifier",
    "classifier_anatomy": "anatomy.classifier",
}
"""Released module -> our module, apart from the trunk and the decoders' final normalisations."""

_NORMS = {"decoder_pathology.norm": "pathology_norm", "decoder_anatomy.norm": "anatomy_norm"}


def released_keys(ours: Iterable[str]) -> dict[str, str]:
    """Released key -> our key for a model with our keys ``ours``; books are not in released checkpoints.

    The released code saves the one normalisation of both decoders under both decoders' names. Where our
    model has one too, both names stand for it; where it has two, each name stands for its own.
    """
    own = set(ours)
    keys = trunk_keys(key for key in own if key.startswith("trunk."))
    for theirs, mine in _MODULES.items():
        keys |= {theirs + key.removeprefix(mine): key for key in own if key.startswith(f"{mine}.")}
    shared = not any(key.startswith("anatomy_norm.") for key in own)
    for theirs, mine in _NORMS.items():
        for part in ("weight", "bias"):
            keys[f"{theirs}.{part}"] = f"{'pathology_norm' if shared else mine}.{part}"
    return keys
