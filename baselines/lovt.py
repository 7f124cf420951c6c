"""LoVT: radiographs and reports aligned as wholes, regions and sentences within each pair (ECCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.knowledge.report_sentences import sentences_of
from replication.method import (
    Batch,
    Finding,
    HeatmapKind,
    ImportReport,
    Ingredients,
    Losses,
    Settings,
    Supervision,
)
from replication.networks.attention_pool import MeanQueryPool
from replication.networks.distributed import mean_where
from replication.networks.key_maps import load_released, module_keys
from replication.networks.losses import info_nce
from replication.networks.masked_batch_norm import MaskedBatchNorm
from replication.networks.prompt_memory import PromptMemory
from replication.networks.prompt_scores import PromptMethod, PromptSettings
from replication.networks.sentence_features import encode_sentences
from replication.networks.text_tower import TextTower

_MODULES = {
    "model_a.encoder.feature_extractor.backbone_layers": "trunk",
    "model_a.encoder.global_aggregator": "image_pool",
    "model_a.project_global": "image_global",
    "model_a.project_local": "image_local",
    "model_b.encoder.language_model": "text.encoder.model",
    "model_b.encoder.global_aggregator": "sentence_pool",
    "model_b.project_global": "text_global",
    "model_b.project_local": "text_local",
    "ll_attention": "attention",
}
"""Released module -> our module; a is the radiograph, b the report."""

_UNUSED = {
    "chexpert_bin_": "a classifier that watched the training, no part of the method",
    "loss_module.": "constants: which cells are near each other",
    "model_b.encoder.language_model.pooler.": "nobody reads the pooled output",
    "model_b.encoder.language_model.embeddings.position_ids": "a constant",
}


class LoVTSettings(PromptSettings):
    """Settings of LoVT; defaults are the paper's, hazards corrected.

    Attributes:
        projection_dim: of the joint space. hidden_dim: of the projection heads; ``None`` is the number of
            channels of the trunk. heads: of both attention pools.
        temperature, image_weight: of the global loss; weight of image-to-report.
        local_weight: of each of the four local losses; 0 leaves all that is local out.
        local_temperature: of the local losses.
        distance_threshold: cells up to this share of the map's diagonal apart are each other's positives.
        distance_decay: their weight is exp(-decay * distance).
        local_weights: regions and sentences count as the global ``attention`` weighs them, or ``uniform``ly.
        swap_probability: that another two sentences change places, in training.
        frozen_share: share of the text tower's layers that stay frozen, from below.
        max_length: tokens of a report, at most as many as the text encoder takes.
        mean_query: what asks in the attention pool of a report: the mean of its sentences, or their sum over
            the number of the batch's longest report (``padded``, released code).
        batch_norm: statistics are of real sentences, or of ``padded`` slots too (released code).
        heatmap: the ``attention`` of a prompt to the regions, or the zero-shot score of single ``cells``,
            which is also the answer where nothing local is learnt.
    """

    projection_dim: int = 512
    hidden_dim: int | None = None
    heads: int = 8
    temperature: float = 0.1
    image_weight: float = 0.75
    local_weight: float = 0.375
    local_temperature: float = 0.3
    distance_threshold: float = 0.5
    distance_decay: float = 1.0
    local_weights: Literal["attention", "uniform"] = "attention"
    swap_probability: float = 0.6
    frozen_share: float = 0.5
    max_length: int = 512
    mean_query: Literal["sentences", "padded"] = "sentences"
    batch_norm: Literal["sentences", "padded"] = "sentences"
    heatmap: Literal["attention", "cells"] = "attention"


class LoVT(PromptMethod):
    """A trunk, a text tower, a pool and heads on each, and cross-attention between regions and sentences."""

    name: ClassVar[str] = "lovt"
    supervision: ClassVar[Supervision] = "report"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = LoVTSettings

    def __init__(self, settings: LoVTSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = self.prompt_settings = settings
        self._asked = PromptMemory(settings.prompts, self._local_prompts)
        self.trunk, encoder = ingredients.trunk, ingredients.text_encoder
        longest = min(settings.max_length, int(getattr(encoder, "longest", settings.max_length)))
        self.text = TextTower(encoder, frozen_share=settings.frozen_share, pooling="max", max_length=longest)
        widths = self.trunk.channels, self.text.width
        outputs, hidden = settings.projection_dim, settings.hidden_dim or self.trunk.channels
        self.image_pool, self.sentence_pool = (MeanQueryPool(width, settings.heads) for width in widths)
        self.image_global, self.text_global = (Head(width, hidden, outputs) for width in widths)
        if settings.local_weight:
            self.image_local, self.text_local = (Head(width, hidden, outputs) for width in widths)
            self.attention = CrossAttention(outputs)

    def loss(self, batch: Batch) -> Losses:
        """Global loss of images and reports, local losses of regions and sentences within each pair."""
        options = self.settings
        maps = self.trunk(batch.images)
        cells, grid = maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])
        sentences, mask = encode_sentences(self.text, self._sentences(batch), "max")
        given = mask.any(dim=1)
        pooled_image, cell_weights = self.image_pool(cells)
        pooled_report, sentence_weights = self._pool_sentences(sentences, mask)
        total = info_nce(
            self.image_global(pooled_image),
            self.text_global(pooled_report, given if options.batch_norm == "sentences" else None),
            temperature=options.temperature,
            image_weight=options.image_weight,
            keep=given,
        )
        parts = {"global": total.detach()}
        if options.local_weight:
            seen = mask if options.batch_norm == "sentences" else None
            regions, told = self.image_local(cells), self.text_local(sentences, seen)
            attended_regions, attended_sentences, _ = self.attention(
                regions, told, mask, padded=options.batch_norm == "padded"
            )
            near = near_cells(*grid, options.distance_threshold, options.distance_decay).to(maps.device)
            same = torch.eye(mask.shape[1], device=maps.device)
            everywhere = torch.ones_like(cell_weights, dtype=torch.bool)
            uniform = options.local_weights == "uniform"
            for name, own, other, positives, weights, valid in (
                ("local_image", regions, attended_regions, near, cell_weights, everywhere),
                ("local_text", told, attended_sentences, same, sentence_weights, mask),
            ):
                weights = torch.ones_like(weights) if uniform else weights.detach()
                both = local_losses(
                    own, other, positives, weights, valid, temperature=options.local_temperature
                )
                value = mean_where(both[0] + both[1], given)
                parts[name] = value.detach()
                total = total + options.local_weight * value
        return Losses(total, parts)

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Attention of the finding's positive prompts to the regions, mean over prompts: ``[B, F, h, w]``."""
        if self.settings.heatmap == "cells" or not self.settings.local_weight:
            return super().heatmap(images, findings)
        maps = self.trunk(images)
        regions = self.image_local(maps.flatten(2).transpose(1, 2))
        questions = self._asked.features(findings, remember=not self.training)
        answers = [self.attention.attend(regions, asked).mean(dim=1) for asked in questions]
        return torch.stack(answers, dim=1).view(len(images), len(findings), *maps.shape[2:])

    def load_released(self, path: Path) -> ImportReport:
        """Load a pre-training checkpoint of the authors; see ``Method.load_released``."""
        keys = module_keys(self.state_dict(), _MODULES)
        convolutions = [key for key in keys if ".project_local.projection" in key and key.endswith("weight")]
        convert = {key: lambda weight: weight.squeeze(-1) for key in convolutions}
        return load_released(self, path, keys, unused=_UNUSED, convert=convert)

    def image_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D]``: the global head on the pooled map."""
        pooled, _ = self.image_pool(self.trunk(images).flatten(2).transpose(1, 2))
        features: Tensor = self.image_global(pooled)
        return features

    def cell_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, h, w, D]``: as if the map consisted of the one cell (post hoc)."""
        features: Tensor = self.image_global(self.image_pool.dense(self.trunk(images).movedim(1, -1)))
        return features

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts, each a report of one sentence -> ``[N, D]``."""
        pooled, _ = self._pool_sentences(*encode_sentences(self.text, [[text] for text in texts], "max"))
        features: Tensor = self.text_global(pooled)
        return features

    def report_features(self, reports: Sequence[str]) -> Tensor:
        """N whole reports -> ``[N, D]``: the global head on their pooled sentences."""
        sentences = [sentences_of(report) for report in reports]
        pooled, _ = self._pool_sentences(*encode_sentences(self.text, sentences, "max"))
        features: Tensor = self.text_global(pooled)
        return features

    def _pool_sentences(self, sentences: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        padded = self.settings.mean_query == "padded"
        pooled: tuple[Tensor, Tensor] = self.sentence_pool(sentences, mask, padded=padded)
        return pooled

    def _sentences(self, batch: Batch) -> list[list[str]]:
        """Sentences of each report; in training some change places."""
        reports = [sentences_of(report) for report in batch.reports]
        if not self.training or not self.settings.swap_probability:
            return reports
        draws = batch.draws()
        lengths = (1 - draws.uniform()).log() / math.log(self.settings.swap_probability)
        swaps, generators = lengths.int().tolist(), draws.generators("swaps")
        for sentences, count, generator in zip(reports, swaps, generators, strict=True):
            places = torch.randint(max(len(sentences), 1), (count, 2), generator=generator).tolist()
            for a, b in places if sentences else ():
                sentences[a], sentences[b] = sentences[b], sentences[a]
        return reports

    def _local_prompts(self, texts: Sequence[str]) -> Tensor:
        """N sentences -> ``[N, D]``."""
        sentences, _ = encode_sentences(self.text, [[text] for text in texts], "max")
        features: Tensor = self.text_local(sentences)
        return features[:, 0]

    def _forget(self, *args: object) -> None:
        super()._forget(*args)
        self._asked.forget()


class Head(nn.Module):
    """Linear, batch normalisation, ReLU, linear, on the last axis."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.projection_before = _linear(inputs, hidden, "relu")
        self.norm = MaskedBatchNorm(hidden)
        self.projection_after = _linear(hidden, outputs, "linear")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[..., inputs]``; elements count in the statistics where ``mask`` ``[...]`` is true."""
        answer: Tensor = self.projection_after(self.norm(self.projection_before(x), mask).relu())
        return answer


class CrossAttention(nn.Module):
    """One head of attention with shared projections, in which each of two sets asks the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key_projection = _linear(width, width, "linear")
        self.value_projection = _linear(width, width, "linear")
        self.output_projection = _linear(width, width, "linear")
        self.norm = MaskedBatchNorm(width)

    def forward(
        self, regions: Tensor, sentences: Tensor, mask: Tensor, *, padded: bool = False
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Regions ``[B, R, D]`` and sentences ``[B, S, D]`` with ``mask`` ``[B, S]`` look at each other.

        Args:
            padded: pads count in the batch statistics.

        Returns:
            For each region what it gets from the sentences ``[B, R, D]``, for each sentence what it gets from
            the regions ``[B, S, D]``, and both attentions ``[B, R, S]``, ``[B, S, R]``.
        """
        scores = self._scores(regions, sentences)
        given = mask.any(dim=1, keepdim=True)
        to_sentences = scores.masked_fill((~mask & given).unsqueeze(1), float("-inf")).softmax(dim=-1)
        to_regions = scores.transpose(1, 2).softmax(dim=-1) * mask.unsqueeze(-1)
        answers = []
        for attention, values, valid in (
            (to_sentences, sentences, given.expand(regions.shape[:2])),
            (to_regions, regions, mask),
        ):
            attended = self.output_projection(attention @ self.value_projection(values).to(attention.dtype))
            answers.append(self.norm(attended, None if padded else valid))
        return answers[0], answers[1], (to_sentences, to_regions)

    def attend(self, regions: Tensor, sentences: Tensor) -> Tensor:
        """Regions ``[B, R, D]``, sentences ``[N, D]`` -> ``[B, N, R]``: attention of each to the regions."""
        return self._scores(sentences.expand(len(regions), -1, -1), regions).softmax(dim=-1)

    def _scores(self, a: Tensor, b: Tensor) -> Tensor:
        keys_a, keys_b = self.key_projection(a).float(), self.key_projection(b).float()
        with torch.autocast(a.device.type, enabled=False):
            scores: Tensor = keys_a @ keys_b.transpose(1, 2) / math.sqrt(keys_a.shape[-1])
            return scores


def near_cells(height: int, width: int, threshold: float, decay: float) -> Tensor:
    """``[h * w, h * w]``: exp(-decay * d), 0 beyond ``threshold``; distances d are shares of the diagonal."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).view(-1, 2).float() / math.hypot(height, width)
    distance = torch.cdist(places, places)
    return torch.where(distance <= threshold, torch.exp(-decay * distance), 0.0)


def local_losses(
    own: Tensor,
    attended: Tensor,
    positives: Tensor,
    weights: Tensor,
    mask: Tensor,
    *,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Contrast of the elements of each sample with what they get from the other side, within the sample.

    Args:
        own, attended: ``[B, N, D]``; normalised here.
        positives: ``[N, N]``, how much j is a positive of i; rows are normalised to sum 1 over real elements.
        weights: ``[B, N]``, of the elements; normalised to sum 1 over real elements.
        mask: ``[B, N]`` bool, which elements are real.

    Returns:
        ``[B]`` own-to-attended and ``[B]`` attended-to-own; 0 for a sample without elements.
    """
    with torch.autocast(own.device.type, enabled=False):
        real = mask.float()
        weights = weights.float() * real
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        share = positives * real.unsqueeze(1)
        share = share / share.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        a, b = functional.normalize(own.float(), dim=-1), functional.normalize(attended.float(), dim=-1)
        scores = a @ b.transpose(1, 2) / temperature
        # Finite instead of -inf: a sample without elements must not make NaN out of its zero weights.
        blocked = (~mask).unsqueeze(1)
        both = []
        for side in (scores, scores.transpose(1, 2)):
            spread_out = side.masked_fill(blocked, torch.finfo(side.dtype).min / 2).logsumexp(dim=-1)
            both.append((weights * (spread_out - (share * side).sum(dim=-1))).sum(dim=1))
        return both[0], both[1]


def _linear(inputs: int, outputs: int, activation: Literal["relu", "linear"]) -> nn.Linear:
    """Kaiming-normal weights (fan out, the gain of what follows) and no bias to begin with."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity=activation)
    nn.init.zeros_(layer.bias)
    return layer
