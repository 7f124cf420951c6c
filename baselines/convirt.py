"""ConVIRT: radiographs and sampled report sentences aligned by a contrastive loss (arXiv 2010.00747)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from replication.knowledge.report_sentences import sample_sentence
from replication.knowledge.text_encoder import Pooling
from replication.method import (
    Batch,
    Ingredients,
    Losses,
    Settings,
    Supervision,
)
from replication.networks.losses import info_nce
from replication.networks.prompt_scores import PromptMethod, PromptSettings
from replication.networks.text_tower import TextTower


class ConVIRTSettings(PromptSettings):
    """Settings of ConVIRT; defaults are the paper's.

    Attributes:
        projection_dim: of the joint space. hidden_dim: of both projection heads; ``None`` is the number of
            channels of the trunk.
        temperature: tau. image_weight: lambda, the weight of image-to-text.
        text_pooling: ``max`` over word pieces, without ``[CLS]`` and ``[SEP]``.
        frozen_share: share of the text tower's layers that stay frozen, from below.
        max_length: tokens of a text.
        text_unit: one uniformly sampled ``sentence`` of the report, drawn anew at each access, or all of it.
        duplicates: texts that occur twice in a batch are each other's ``negatives``, as published, or are
            left out of each other's denominator (``ignored``).
    """

    projection_dim: int = 512
    hidden_dim: int | None = None
    temperature: float = 0.1
    image_weight: float = 0.75
    text_pooling: Pooling = "max"
    frozen_share: float = 0.5
    max_length: int = 128
    text_unit: Literal["sentence", "report"] = "sentence"
    duplicates: Literal["negatives", "ignored"] = "negatives"


class ConVIRT(PromptMethod):
    """A trunk, a text tower, and a two-layer projection head on each."""

    name: ClassVar[str] = "convirt"
    supervision: ClassVar[Supervision] = "report"
    settings_class: ClassVar[type[Settings]] = ConVIRTSettings

    def __init__(self, settings: ConVIRTSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = self.prompt_settings = settings
        self.trunk = ingredients.trunk
        self.text = TextTower(
            ingredients.text_encoder,
            frozen_share=settings.frozen_share,
            pooling=settings.text_pooling,
            max_length=settings.max_length,
        )
        hidden = settings.hidden_dim or self.trunk.channels
        self.image_head = _head(self.trunk.channels, hidden, settings.projection_dim)
        self.text_head = _head(self.text.width, hidden, settings.projection_dim)

    def loss(self, batch: Batch) -> Losses:
        """Contrastive loss of images and one text of each report; images without a report do not count."""
        texts = self._texts(batch)
        device = batch.images.device
        given = torch.tensor([bool(text) for text in texts]).to(device, non_blocking=True)
        numbers = [zlib.crc32(text.encode()) for text in texts]
        same = torch.tensor(numbers).to(device, non_blocking=True)
        value = info_nce(
            self.image_features(batch.images),
            self.text_features(texts),
            temperature=self.settings.temperature,
            image_weight=self.settings.image_weight,
            keep=given,
            same=same if self.settings.duplicates == "ignored" else None,
        )
        repeated = torch.tensor(1 - len(set(numbers)) / len(numbers))
        return Losses(value, {"contrastive": value.detach(), "repeated_texts": repeated})

    def image_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D]``: the head on the mean over cells."""
        features: Tensor = self.image_head(self.trunk(images).mean(dim=(2, 3)))
        return features

    def cell_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, h, w, D]``: the head on every cell of the trunk's map (post hoc)."""
        features: Tensor = self.image_head(self.trunk(images).movedim(1, -1))
        return features

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts -> ``[N, D]``."""
        features: Tensor = self.text_head(self.text(self.text.tokenize(texts)))
        return features

    def _texts(self, batch: Batch) -> list[str]:
        """One text for each report; empty where the report is."""
        if self.settings.text_unit == "report":
            return [report.strip() for report in batch.reports]
        draws = batch.draws().uniform().tolist()
        return [sample_sentence(report, draw) for report, draw in zip(batch.reports, draws, strict=True)]


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
