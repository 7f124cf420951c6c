"""ConVIRT: radiographs and sampled report sentences aligned by a contrastive loss (arXiv 2010.00747)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.knowledge.prompts import Polarity, Style, prompts
from replication.knowledge.text_encoder import Pooling
from replication.method import (
    Batch,
    Finding,
    HeatmapKind,
    Ingredients,
    Losses,
    Method,
    Settings,
    Supervision,
    generator_for,
)
from replication.networks.losses import info_nce
from replication.networks.text_tower import TextTower, mean_direction, spread

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|\n\s*\n")
_SHORTEST = 3


class ConVIRTSettings(Settings):
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
        score: ``positive_minus_negative`` is the softmax over a finding's positive and negative prompts at
            tau, ``cosine`` the cosine with the positive prompts alone.
        prompts: sentences as in reports, or bare labels.
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
    score: Literal["positive_minus_negative", "cosine"] = "positive_minus_negative"
    prompts: Style = "report"


class ConVIRT(Method):
    """A trunk, a text tower, and a two-layer projection head on each."""

    name: ClassVar[str] = "convirt"
    supervision: ClassVar[Supervision] = "report"
    heatmap_kind: ClassVar[HeatmapKind] = "post hoc"
    settings_class: ClassVar[type[Settings]] = ConVIRTSettings

    def __init__(self, settings: ConVIRTSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = settings
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
        self._directions: dict[tuple[Finding, Polarity], Tensor] = {}
        self.register_load_state_dict_post_hook(self._forget)  # type: ignore[no-untyped-call]

    @classmethod
    def build(cls, settings: Settings, ingredients: Ingredients) -> ConVIRT:
        """Make an untrained model; see ``Method.build``."""
        if not isinstance(settings, ConVIRTSettings):
            raise TypeError(f"ConVIRT is built from ConVIRTSettings, not from {type(settings).__name__}")
        return cls(settings, ingredients)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; prompts encoded with the weights so far are forgotten."""
        self._forget()
        return super().train(mode)

    def loss(self, batch: Batch) -> Losses:
        """Contrastive loss of images and one text of each report; images without a report do not count."""
        texts = self._texts(batch)
        device = batch.images.device
        given = torch.tensor([bool(text) for text in texts]).to(device, non_blocking=True)
        numbers = [zlib.crc32(text.encode()) for text in texts]
        same = torch.tensor(numbers).to(device, non_blocking=True)
        value = info_nce(
            self.image_head(self.trunk(batch.images).mean(dim=(2, 3))),
            self.text_head(self.text(self.text.tokenize(texts))),
            temperature=self.settings.temperature,
            image_weight=self.settings.image_weight,
            keep=given,
            same=same if self.settings.duplicates == "ignored" else None,
        )
        repeated = torch.tensor(1 - len(set(numbers)) / len(numbers))
        return Losses(value, {"contrastive": value.detach(), "repeated_texts": repeated})

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Probability of the positive against the negative prompts, or the cosine with the positive ones."""
        v = functional.normalize(self.image_head(self.trunk(images).mean(dim=(2, 3))).float(), dim=-1)
        return self._compare(v, findings)

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """The score of each cell by itself: the image head on every cell of the trunk's map (post hoc)."""
        cells = self.image_head(self.trunk(images).movedim(1, -1))
        maps = self._compare(functional.normalize(cells.float(), dim=-1), findings)
        return maps.movedim(-1, 1)

    def _compare(self, features: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Unit vectors ``[..., D]`` -> scores ``[..., F]``."""
        positive = features @ self._prompt_directions(findings, "present").T
        if self.settings.score == "cosine":
            return positive
        negative = features @ self._prompt_directions(findings, "absent").T
        return ((positive - negative) / self.settings.temperature).sigmoid()

    def _prompt_directions(self, findings: Sequence[Finding], polarity: Polarity) -> Tensor:
        """``[F, D]``: direction of each finding's prompt ensemble; remembered in evaluation mode."""
        known = {} if self.training else self._directions
        new = [finding for finding in dict.fromkeys(findings) if (finding, polarity) not in known]
        if new:
            texts = [prompts(finding, polarity, self.settings.prompts) for finding in new]
            tokens = self.text.tokenize([text for ensemble in texts for text in ensemble])
            features = self.text_head(self.text(tokens))
            for finding, part in zip(new, spread([len(ensemble) for ensemble in texts]), strict=True):
                known[finding, polarity] = mean_direction(features[part])
        return torch.stack([known[finding, polarity].to(self.text.device) for finding in findings])

    def _forget(self, *_: object) -> None:
        self._directions.clear()

    def _texts(self, batch: Batch) -> list[str]:
        """One text for each report; empty where the report is."""
        if self.settings.text_unit == "report":
            return [report.strip() for report in batch.reports]
        draws = torch.rand(len(batch.reports), generator=generator_for(batch)).tolist()
        return [sample_sentence(report, draw) for report, draw in zip(batch.reports, draws, strict=True)]


def sentences_of(report: str) -> list[str]:
    """Sentences of a report of three words or more; all of them where none is as long."""
    every = [part for part in (part.strip() for part in _SENTENCE_END.split(report)) if part]
    return [part for part in every if part.count(" ") >= _SHORTEST - 1] or every


def sample_sentence(report: str, draw: float) -> str:
    """The sentence that a draw in [0, 1) falls on, each being equally likely."""
    sentences = sentences_of(report)
    return sentences[int(draw * len(sentences))] if sentences else ""


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
