"""Typed settings of the networks that methods share: image trunk and text encoder."""

from __future__ import annotations

from typing import Literal

from replication.config_files import Strict


class TrunkConfig(Strict):
    """The image trunk: a ResNet cut after ``last_stage``, or CLIP's vision transformer.

    Attributes:
        architecture: torchvision's name; ``clip-resnet50`` and ``clip-vit-b32`` are CLIP's image towers.
        width: channels of the first stage; of a head in the vision transformer. 64 is the published network.
        last_stage: 3 gives a grid of H/16 (the released code of MeDSLIP and MedKLIP), 4 gives H/32; the
            vision transformer has no stages.
        weights: ``random``, or weights by name (torchvision's, e.g. ``IMAGENET1K_V1``; ``OPENAI`` for CLIP's
            towers), or a local file.
    """

    architecture: Literal["resnet18", "resnet34", "resnet50", "clip-resnet50", "clip-vit-b32"] = "resnet50"
    width: int = 64
    last_stage: Literal[3, 4] = 3
    weights: str = "random"


class TextConfig(Strict):
    """The text encoder.

    Attributes:
        kind: ``tiny-bert`` is trained in the pipeline on the pre-training reports; ``pretrained`` is loaded.
        name_or_path: Hugging Face id or folder (for ``pretrained``).
        descriptions: ``own`` texts of the 75 pathologies, or the path of the official JSON file.
        hidden, layers, heads, vocabulary_size, epochs, seed: of the tiny BERT.
    """

    kind: Literal["tiny-bert", "pretrained"] = "pretrained"
    name_or_path: str = "emilyalsentzer/Bio_ClinicalBERT"
    descriptions: str = "own"
    hidden: int = 128
    layers: int = 2
    heads: int = 2
    vocabulary_size: int = 2000
    epochs: int = 5
    seed: int = 0
