"""BioViL: the image projector, and BioViL-T's transformer with and without a previous image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from baselines.biovil import image_projector
from pieces import Check, piece
from replication.networks.vit_pooler import VisionTransformerPooler, sine_positions


@piece("biovil")
def biovil(given: dict[str, Any]) -> Iterator[Check]:
    weights = {key.removeprefix("model."): value for key, value in given["projector_sd"].items()}
    projector = image_projector(given["x"].shape[1], given["projected_patches"].shape[1]).eval()
    projector.load_state_dict(weights)
    projected = projector(given["x"])
    yield Check("projected patches", projected, given["projected_patches"])
    yield Check("projected image", projected.mean(dim=(2, 3)), given["projected_global=mean_hw"])

    width, (height, breadth) = given["cur"].shape[1], given["cur"].shape[2:]
    positions = sine_positions(height, breadth, width)
    yield Check("positions", positions[None], given["pos_embed_buffer"])
    pooler = VisionTransformerPooler(width, given["vit_blocks"], given["vit_heads"]).eval()
    pooler.load_state_dict(given["vit_pooler_sd"])
    with torch.no_grad():
        yield Check(
            "difference from a previous image", pooler(given["cur"], given["prev"]), given["diff_with_prev"]
        )
        yield Check("one image", pooler(given["cur"]), given["diff_single"])
