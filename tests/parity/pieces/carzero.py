"""CARZero: the fusion module in both directions, its attention, and the loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from baselines.carzero import CARZeroSettings, Fusion, matching_loss, released_keys
from pieces import Check, piece

_PREFIX = "CARZero.fusion_module."
_NEVER_READ = ("self_attn.", "norm1.", "logit_scale")


@piece("carzero")
def carzero(stored: dict[str, Any]) -> Iterator[Check]:
    """The weights are those of the reference, rounded to half precision there."""
    settings = CARZeroSettings(
        d_model=stored["img_g"].shape[-1],
        decoder_layers=stored["n_layers"],
        heads=stored["heads"],
        mask_pads=False,
        initialisation="released",
    )
    fusion = Fusion(settings).eval()
    keys = released_keys(f"fusion.{key}" for key in fusion.state_dict())
    ours = {key.removeprefix(_PREFIX): mine.removeprefix("fusion.") for key, mine in keys.items()}
    used = {key: value for key, value in stored["sd"].items() if not any(name in key for name in _NEVER_READ)}
    assert used.keys() == ours.keys()
    fusion.load_state_dict({ours[key]: value.float() for key, value in used.items()})

    memories = {
        side: torch.cat([stored[f"{side}_g"].unsqueeze(1), stored[f"{side}_l"]], dim=1)
        for side in ("img", "txt")
    }
    with torch.no_grad():
        to_text, maps = fusion(stored["txt_g"], memories["img"], want_maps=True)
        to_image, _ = fusion(stored["img_g"], memories["txt"])
    yield Check("image to text", to_text, stored["i2t"])
    yield Check("text to image", to_image, stored["t2i"])
    yield Check("attention of the last layer", maps[-1], stored["attn_last_layer"])
    everyone = torch.ones(len(to_text), dtype=torch.bool)
    yield Check("loss", matching_loss(to_text, everyone) + matching_loss(to_image, everyone), stored["loss"])
