"""CheXzero: CLIP, trained on with radiographs and the impressions of their reports (Tiu et al. 2022)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from replication.errors import CheckpointError
from replication.knowledge.report_sections import sections_of
from replication.method import Batch, ImportReport, Ingredients, Losses, Settings, Supervision
from replication.networks import key_maps
from replication.networks.attention_pool import AttentionPool2d
from replication.networks.clip_text import ClipText
from replication.networks.clip_trunk import ClipTrunk, ClipVisionTransformerTrunk
from replication.networks.input_range import renormalise
from replication.networks.losses import info_nce
from replication.networks.prompt_scores import PromptMethod, PromptSettings
from replication.networks.text_tower import TextTower

MEAN, STD = 101.48761 / 255, 83.43944 / 255
"""Of the released code's grey values, here for values in 0..1."""

NO_IMPRESSION = "NO IMPRESSION"
"""What the released code stores for a report without an impression, and trains with."""

_HEAD_WIDTH = 64


class CheXzeroSettings(PromptSettings):
    """Settings of CheXzero; sizes are those of the published ViT-B/32.

    Attributes:
        projection_dim: of the joint space (512; 1024 for RN50).
        text: ``clip`` is CLIP's causal transformer over its own tokens, ``shared`` a trainable copy of the
            suite's text encoder, read at ``[CLS]``.
        tokenizer: hub id or folder of CLIP's tokeniser. vocabulary_size, d_model, decoder_layers: of CLIP's
            text transformer.
        heads: of the attention pool and of CLIP's text transformer; ``None`` gives each a width of 64.
        grid: side of the grid whose positions the attention pool learns; others are interpolated.
        max_length: tokens of a text.
        temperature: where the learnt one starts.
        text_unit: the ``impression`` of a report, or all of it.
        missing_impression: a report that names its sections but has no impression gives the ``report``'s
            findings, or the ``literal`` text ``NO_IMPRESSION`` (released code). A report whose sections
            cannot be told apart is taken whole.
        duplicates: texts that occur twice in a batch (two images of a study) are each other's ``negatives``,
            as released, or are left out of each other's denominator (``ignored``).
        input: grey values normalised as by the ``released`` code, or as everywhere in the ``suite``.
    """

    projection_dim: int = 512
    text: Literal["shared", "clip"] = "shared"
    tokenizer: str = "openai/clip-vit-base-patch32"
    vocabulary_size: int = 49408
    d_model: int = 512
    decoder_layers: int = 12
    heads: int | None = None
    grid: int = 7
    max_length: int = 77
    temperature: float = 0.07
    text_unit: Literal["impression", "report"] = "impression"
    missing_impression: Literal["report", "literal"] = "report"
    duplicates: Literal["negatives", "ignored"] = "ignored"
    input: Literal["suite", "released"] = "suite"

    def tokenizers(self) -> tuple[str, ...]:
        """CLIP's, where the texts are CLIP's."""
        return (self.tokenizer,) if self.text == "clip" else ()


class CheXzero(PromptMethod):
    """An image tower with CLIP's projection, a text tower, and one learnt temperature.

    Behind CLIP's vision transformer the projection reads the class token, behind any other trunk it is CLIP's
    attention pool. A trunk that was loaded from a CLIP file brings the rest of its CLIP along, if the text
    tower is CLIP's.
    """

    name: ClassVar[str] = "chexzero"
    supervision: ClassVar[Supervision] = "report"
    settings_class: ClassVar[type[Settings]] = CheXzeroSettings

    def __init__(self, settings: CheXzeroSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = self.prompt_settings = settings
        self.trunk = ingredients.trunk
        self.head = _head(self.trunk, settings)
        self.text, self.text_head = _text_side(settings, ingredients)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))
        source = self.trunk.weights_file if isinstance(self.trunk, ClipTrunk) else None
        if source is not None and settings.text == "clip":
            self.load_released(source)

    def loss(self, batch: Batch) -> Losses:
        """CLIP's loss on images and one text of each report; images without a report do not count."""
        texts = [self._text(report) for report in batch.reports]
        device = batch.images.device
        given = torch.tensor([bool(text) for text in texts]).to(device, non_blocking=True)
        numbers = [zlib.crc32(text.encode()) for text in texts]
        same = torch.tensor(numbers).to(device, non_blocking=True)
        value = clip_loss(
            self.image_features(batch.images),
            self._text_features(texts),
            self.logit_scale,
            keep=given,
            same=same if self.settings.duplicates == "ignored" else None,
        )
        repeated = torch.tensor(1 - len(set(numbers)) / len(numbers))
        return Losses(value, {"contrastive": value.detach(), "repeated_texts": repeated})

    def image_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D]``."""
        images = self._input(images)
        if isinstance(self.head, TokenProjection):
            assert isinstance(self.trunk, ClipVisionTransformerTrunk)
            features: Tensor = self.head(self.trunk.tokens(images)[:, 0])
            return features
        pooled: Tensor = self.head(self.trunk(images))
        return pooled

    def cell_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, h, w, D]``: what a cell gives if it alone is attended (post hoc)."""
        return self.head.dense(self.trunk(self._input(images)))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts -> ``[N, D]``; a text that is too long is cut, where the released code refuses a prompt."""
        return self._text_features(texts)

    def report_features(self, reports: Sequence[str]) -> Tensor:
        """N whole reports -> ``[N, D]``: of the part of each that is read in training."""
        return self._text_features([self._text(report) for report in reports])

    def load_released(self, path: Path) -> ImportReport:
        """Load a checkpoint of the authors, or any state_dict of CLIP; see ``Method.load_released``.

        Raises:
            CheckpointError: also where trunk or text tower are not CLIP's.
        """
        if self.settings.text != "clip" or not isinstance(self.trunk, ClipTrunk):
            raise CheckpointError(
                "Released weights of CheXzero fit CLIP's towers only.",
                where=path,
                found=f"text: {self.settings.text}, trunk: {type(self.trunk).__name__}",
                allowed="text: clip, and trunk.architecture clip-vit-b32 or clip-resnet50",
                remedy="use recipe published",
            )
        keys = {released_key(key): key for key in self.state_dict()}
        return key_maps.load_released(self, path, keys, unused=_UNUSED)

    def _input(self, images: Tensor) -> Tensor:
        return renormalise(images, MEAN, STD) if self.settings.input == "released" else images

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        features: Tensor = self.text_head(self.text(self.text.tokenize(texts)))
        return features

    def _text(self, report: str) -> str:
        """The text of an image; empty where the report is."""
        if self.settings.text_unit == "report" or not report.strip():
            return report.strip()
        sections = sections_of(report)
        if sections.impression:
            return sections.impression
        if sections.headed and self.settings.missing_impression == "literal":
            return NO_IMPRESSION
        return sections.findings or report.strip()


class TokenProjection(nn.Module):
    """CLIP's projection of the vision transformer's tokens, ``x @ proj``."""

    def __init__(self, width: int, output_dim: int) -> None:
        super().__init__()
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, output_dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` -> ``[..., D]``."""
        return tokens @ self.proj

    def dense(self, maps: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> ``[B, h, w, D]``."""
        projected: Tensor = self(maps.movedim(1, -1))
        return projected


def clip_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    *,
    keep: Tensor | None = None,
    same: Tensor | None = None,
) -> Tensor:
    """Mean of both cross-entropies of ``exp(logit_scale)`` times the cosines of ``[B, D]`` and ``[B, D]``.

    The scale is not clamped (released code). ``keep`` and ``same`` are those of ``info_nce``.
    """
    return info_nce(images, texts, temperature=torch.exp(-logit_scale.float()), keep=keep, same=same)


def released_key(ours: str) -> str:
    """The name of one of our weights in CLIP's state_dict."""
    part, _, rest = ours.partition(".")
    if part == "head":
        return f"visual.{rest}" if rest == "proj" else f"visual.attnpool.{rest}"
    return {"trunk": f"visual.{rest}", "text": rest}.get(part, ours)


_UNUSED = dict.fromkeys(
    ("input_resolution", "context_length", "vocab_size"), "a size that OpenAI stores beside the weights"
)


def _head(trunk: nn.Module, settings: CheXzeroSettings) -> TokenProjection | AttentionPool2d:
    if isinstance(trunk, ClipVisionTransformerTrunk):
        return TokenProjection(trunk.channels, settings.projection_dim)
    channels = int(trunk.channels)  # type: ignore[arg-type]
    return AttentionPool2d(settings.grid, channels, _heads(channels, settings), settings.projection_dim)


def _text_side(
    settings: CheXzeroSettings, ingredients: Ingredients
) -> tuple[TextTower | ClipText, nn.Linear | nn.Identity]:
    if settings.text == "clip":
        text = ClipText(
            vocabulary_size=settings.vocabulary_size,
            max_length=settings.max_length,
            width=settings.d_model,
            layers=settings.decoder_layers,
            heads=_heads(settings.d_model, settings),
            output_dim=settings.projection_dim,
            tokenizer=settings.tokenizer,
        )
        return text, nn.Identity()
    tower = TextTower(
        ingredients.text_encoder, frozen_share=0.0, pooling="cls", max_length=settings.max_length
    )
    return tower, nn.Linear(tower.width, settings.projection_dim, bias=False)


def _heads(width: int, settings: CheXzeroSettings) -> int:
    return settings.heads or max(1, width // _HEAD_WIDTH)
