"""PRIOR: images and reports aligned through a bank of sentence prototypes, and rebuilt (ICCV 2023)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from replication.draws import Draws
from replication.errors import ConfigError
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
from replication.networks.attention_pool import AttentionPool, AttentionPool2d
from replication.networks.distributed import mean_where
from replication.networks.image_decoder import ImageDecoder
from replication.networks.input_range import grey_to_rgb, renormalise
from replication.networks.key_maps import load_released, module_keys
from replication.networks.losses import info_nce
from replication.networks.prompt_memory import PromptMemory
from replication.networks.prompt_scores import PromptMethod, PromptSettings
from replication.networks.prototype_bank import PrototypeBank, gumbel
from replication.networks.sentence_decoder import SentenceDecoder
from replication.networks.sentence_features import encode_sentences
from replication.networks.sigmoid_attention import SigmoidAttention
from replication.networks.text_tower import TextTower

GREY = (0.4755, 0.3011)
"""Mean and deviation of grey values 0..1 by which the released code normalises training images."""

_MODULES = {
    "image_encoder.encoder": "trunk",
    "image_encoder.atten_pool": "image_pool",
    "text_encoder.encoder": "text.encoder.model",
    "global_image_projection": "image_global",
    "local_image_projection": "image_local",
    "local_text_projection": "text_local",
    "global_text_attention": "sentence_pool",
    "local_cross_attention": "cross_attention",
    "sentence_bank.embed": "bank.embed",
    "predictor": "predictor",
    "logit_scale": "logit_scale",
    "local_logit_scale": "local_logit_scale",
    "prototype_queries": "prototype_queries",
    "sentence_decoder": "sentence_decoder.model",
    "image_decoder": "image_decoder",
}
"""Released module -> our module."""

_UNUSED = {
    "global_text_projection.": "a layer that the released code builds and never calls",
    "text_encoder.encoder.pooler.": "nobody reads the pooled output",
    "text_encoder.encoder.embeddings.position_ids": "a constant",
    "sentence_decoder.embeddings.word_embeddings.": "the decoder reads queries, never words",
    "sentence_decoder.embeddings.position_ids": "a constant",
}


class PRIORSettings(PromptSettings):
    """Settings of PRIOR; defaults are the run configuration's, hazards corrected.

    Attributes:
        stage: 1 aligns, 2 replaces sentences by prototypes, 3 also rebuilds image and prototypes.
        projection_dim: of the joint space. pool_heads: of both attention pools. position_grid: side of the
            grid of learnt positions of the image's pool.
        temperature, local_temperature: where the learnt temperatures start.
        global_weight: of the global loss in stage 3. prototype_weight: of both prototype losses.
        prototypes, prototype_temperature: of the bank.
        queries: generated sentences; stage 3 reads no more of a report.
        decoder_layers, heads, feedforward, dropout: of the sentence decoder.
        image_dropout: share of the image's channels that its reconstruction does without.
        reconstruction_stride: the image is rebuilt at 1 / stride of its size.
        frozen_share: share of the text tower's layers that stay frozen, from below.
        max_length: tokens of a report, at most as many as the text encoder takes.
        token_layout: a local token is a cell (``permuted``), or C consecutive numbers of the map's memory
            (``official_view``, released code).
        gumbel_eval: in evaluation prototypes are a softmax (``mean``), or a noisy one (``sample``,
            released code).
        spg_match: the generated sentence that the assignment gives to a prototype is compared with it
            (``fixed``), or the one that the assignment taken backwards gives (``official``, released code).
        query_attention: of the generated sentences among themselves; ``causal`` in the released code.
        rule: ``prompts`` scores as all alignment methods here, ``released`` as the authors: a softmax over
            the findings asked for, plus half a softmax over their mean attention.
        heatmap: the ``attention`` between prompts and cells, or the zero-shot score of single ``cells``.
    """

    stage: Literal[1, 2, 3] = 3
    projection_dim: int = 768
    pool_heads: int = 8
    position_grid: int = 7
    temperature: float = 0.01
    local_temperature: float = 0.01
    global_weight: float = 10.0
    prototype_weight: float = 10.0
    prototypes: int = 512
    prototype_temperature: float = 0.9
    queries: int = 16
    decoder_layers: int = 8
    heads: int = 12
    feedforward: int = 3072
    dropout: float = 0.1
    image_dropout: float = 0.5
    reconstruction_stride: int = 1
    frozen_share: float = 0.0
    max_length: int = 256
    token_layout: Literal["permuted", "official_view"] = "permuted"
    gumbel_eval: Literal["mean", "sample"] = "mean"
    spg_match: Literal["fixed", "official"] = "fixed"
    query_attention: Literal["full", "causal"] = "full"
    rule: Literal["prompts", "released"] = "prompts"
    heatmap: Literal["attention", "cells"] = "attention"


class PRIOR(PromptMethod):
    """A trunk, a text tower, attention pools, cross-attention, a prototype bank and two decoders."""

    name: ClassVar[str] = "prior"
    supervision: ClassVar[Supervision] = "report"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = PRIORSettings

    def __init__(self, settings: PRIORSettings, ingredients: Ingredients) -> None:
        super().__init__()
        if settings.token_layout == "official_view" and settings.heatmap == "attention":
            raise ConfigError(
                "Tokens of this layout lie nowhere in the image, so their attention is no heat map.",
                where="model.heatmap",
                found=settings.heatmap,
                allowed="cells",
                remedy="set model.heatmap to cells, or model.token_layout to permuted",
            )
        self.settings = self.prompt_settings = settings
        self._asked = PromptMemory(settings.prompts, lambda texts: self._told(texts).squeeze(1))
        self.trunk, encoder = ingredients.trunk, ingredients.text_encoder
        longest = min(settings.max_length, int(getattr(encoder, "longest", settings.max_length)))
        self.text = TextTower(encoder, frozen_share=settings.frozen_share, pooling="mean", max_length=longest)
        channels, width = self.trunk.channels, settings.projection_dim
        self.image_pool = AttentionPool2d(settings.position_grid, channels, settings.pool_heads)
        self.image_global, self.image_local = _projection(channels, width), _projection(channels, width)
        self.text_local = _projection(self.text.width, width)
        self.sentence_pool = AttentionPool(width, settings.pool_heads)
        self.cross_attention = SigmoidAttention(width)
        self.predictor = nn.Sequential(
            _projection(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width)
        )
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))
        self.local_logit_scale = nn.Parameter(torch.tensor(-math.log(settings.local_temperature)))
        if settings.stage >= 2:
            self.bank = PrototypeBank(settings.prototypes, width, settings.prototype_temperature)
        if settings.stage == 3:
            self.prototype_queries = nn.Parameter(torch.randn(1, settings.queries, width))
            self.sentence_decoder = SentenceDecoder(
                width,
                layers=settings.decoder_layers,
                heads=settings.heads,
                feedforward=settings.feedforward,
                dropout=settings.dropout,
                causal=settings.query_attention == "causal",
            )
            self.image_dropout = nn.Dropout2d(settings.image_dropout)
            self.image_decoder = ImageDecoder(2 * width, self.trunk.stride, settings.reconstruction_stride)

    def loss(self, batch: Batch) -> Losses:
        """The objective of the stage; images without a report take part in none of its terms."""
        options, draws = self.settings, batch.draws()
        maps = self.trunk(batch.images)
        cells = self.image_local(self._tokens(maps)).float()
        sentences, mask = encode_sentences(
            self.text,
            self._sentences(batch, draws),
            "mean",
            max_sentences=options.queries if options.stage == 3 else None,
        )
        sentences, given = self.text_local(sentences).float(), mask.any(dim=1)
        weights = {"global": options.global_weight if options.stage == 3 else 1.0}
        parts: dict[str, Tensor] = {}
        told = sentences
        if options.stage >= 2:
            told = self.bank(sentences, self._noise(sentences, draws, "told"))
            parts["prototype"] = mean_where((told - sentences).abs().mean(dim=-1), mask)
            weights |= {"prototype": options.prototype_weight, "generation": options.prototype_weight}
        report = self.sentence_pool(told, mask)
        image = self.image_global(self.image_pool(maps))
        temperature = (-self.logit_scale).exp()
        parts["global"] = info_nce(image, report, temperature=temperature, keep=given)
        from_text, from_image, _ = self.cross_attention(cells, told, mask)
        parts["local_image"] = mean_where(mutual_prediction(cells, from_text, self.predictor), given)
        scale = self.local_logit_scale.exp()
        parts["local_text"] = mean_where(sentence_contrast(told, from_image, mask, scale), given)
        if options.stage == 3:
            rebuilt = self._rebuild(cells, from_text, batch.images, (maps.shape[2], maps.shape[3]))
            parts["reconstruction"] = mean_where(rebuilt, given)
            generated = self.sentence_decoder(self.prototype_queries, cells).float()
            targets = functional.pad(told * mask.unsqueeze(-1), (0, 0, 0, generated.shape[1] - told.shape[1]))
            arranged = arrange(generated, targets, backwards=options.spg_match == "official")
            parts["generation"] = mean_where((arranged - targets).abs().mean(dim=(1, 2)), given)
            arranged = arranged[:, : told.shape[1]]
            parts["consistency"] = mean_where(
                divergence(self.bank.logits(arranged), self.bank.logits(sentences)), mask
            )
            again = self.sentence_pool(self.bank(arranged, self._noise(arranged, draws, "generated")), mask)
            parts["generated_global"] = info_nce(again, report, temperature=temperature, keep=given)
        total = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """As all alignment methods, or as the authors, whose score depends on what else is asked for."""
        if self.settings.rule == "prompts":
            return super().score(images, findings)
        maps = self.trunk(images)
        v = functional.normalize(self.image_global(self.image_pool(maps)).float(), dim=-1)
        logits = self.logit_scale.exp() * v @ self._prompt_directions(findings, "present").T
        attention = self._attention(maps, findings).mean(dim=(2, 3))
        return logits.softmax(dim=1) + 0.5 * attention.softmax(dim=1)

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """How much the finding's positive prompts and each cell attend to each other: ``[B, F, h, w]``."""
        if self.settings.heatmap == "cells":
            return super().heatmap(images, findings)
        return self._attention(self.trunk(images), findings)

    def load_released(self, path: Path) -> ImportReport:
        """Load a full pre-training checkpoint of the authors; see ``Method.load_released``.

        The first convolution, of one grey channel there, becomes one of our three normalised channels.
        """
        keys = module_keys(self.state_dict(), _MODULES)
        convert = {"image_encoder.encoder.conv1.weight": lambda weight: grey_to_rgb(weight, *GREY)}
        return load_released(self, path, keys, unused=_UNUSED, convert=convert)

    def image_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D]``: the projection of the pooled map."""
        features: Tensor = self.image_global(self.image_pool(self.trunk(images)))
        return features

    def cell_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, h, w, D]``: as if a cell alone were attended (post hoc)."""
        features: Tensor = self.image_global(self.image_pool.dense(self.trunk(images)))
        return features

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts, each a report of one sentence -> ``[N, D]``."""
        features: Tensor = self.sentence_pool(self._told(texts))
        return features

    def report_features(self, reports: Sequence[str]) -> Tensor:
        """N whole reports -> ``[N, D]``: the pooled prototypes (in stage 1 features) of their sentences."""
        sentences, mask = encode_sentences(
            self.text,
            [sentences_of(report) for report in reports],
            "mean",
            max_sentences=self.settings.queries if self.settings.stage == 3 else None,
        )
        told = self.text_local(sentences).float()
        if self.settings.stage >= 2:
            told = self.bank(told, self._noise(told, Draws(0, len(told)), "told"))
        features: Tensor = self.sentence_pool(told, mask)
        return features

    def _told(self, texts: Sequence[str]) -> Tensor:
        """N sentences -> ``[N, 1, D]``: their prototypes, or in stage 1 their features."""
        features, _ = encode_sentences(self.text, [[text] for text in texts], "mean")
        sentences: Tensor = self.text_local(features).float()
        if self.settings.stage == 1:
            return sentences
        noise = None
        if self.settings.gumbel_eval == "sample":
            # Seeded by the text, so that a prompt's sample does not depend on the prompts around it.
            seeds = [zlib.crc32(text.encode()) for text in texts]
            draws = [gumbel((1, len(self.bank)), torch.Generator().manual_seed(seed)) for seed in seeds]
            noise = torch.stack(draws).to(sentences.device)
        prototypes: Tensor = self.bank(sentences, noise)
        return prototypes

    def _sentences(self, batch: Batch, draws: Draws) -> list[list[str]]:
        """Sentences of each report, in training in random order."""
        reports = [sentences_of(report) for report in batch.reports]
        if not self.training:
            return reports
        shuffled = zip(reports, draws.generators("order"), strict=True)
        orders = [torch.randperm(len(report), generator=generator).tolist() for report, generator in shuffled]
        return [[report[i] for i in order] for report, order in zip(reports, orders, strict=True)]

    def _noise(self, sentences: Tensor, draws: Draws, purpose: str) -> Tensor | None:
        """Gumbel noise over the prototypes of ``[B, S, D]`` sentences; ``None`` where nothing is sampled."""
        if not self.training and self.settings.gumbel_eval == "mean":
            return None
        shape = (sentences.shape[1], len(self.bank))
        return torch.stack([gumbel(shape, each) for each in draws.generators(purpose)]).to(sentences.device)

    def _tokens(self, maps: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> ``[B, h * w, C]``."""
        if self.settings.token_layout == "official_view":
            return maps.reshape(len(maps), -1, maps.shape[1])
        return maps.flatten(2).transpose(1, 2)

    def _rebuild(self, cells: Tensor, from_text: Tensor, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """``[B]``: mean difference of the grey image and the one decoded from cells and their text."""
        official = self.settings.token_layout == "official_view"
        own, context = (
            (tokens if official else tokens.transpose(1, 2)).reshape(len(tokens), tokens.shape[2], *grid)
            for tokens in (cells, from_text)
        )
        fused = torch.cat([self.image_dropout(own), context], dim=1)
        rebuilt: Tensor = self.image_decoder(fused).float()
        grey = renormalise(images, *GREY)[:, :1]
        target = functional.interpolate(grey, rebuilt.shape[2:], mode="area")
        return (rebuilt - target).abs().mean(dim=(1, 2, 3))

    def _attention(self, maps: Tensor, findings: Sequence[Finding]) -> Tensor:
        """``[B, F, h, w]``: mean over prompts and over both directions of the sigmoid attention."""
        cells = self.image_local(self._tokens(maps)).float()
        answers = []
        for asked in self._asked.features(findings, remember=not self.training):
            to_sentences, to_cells = self.cross_attention.weights(cells, asked.expand(len(cells), -1, -1))
            answers.append((to_sentences.mean(dim=2) + to_cells.mean(dim=1)) / 2)
        return torch.stack(answers, dim=1).view(len(maps), len(findings), *maps.shape[2:])

    def _forget(self, *args: object) -> None:
        super()._forget(*args)
        self._asked.forget()


def mutual_prediction(x: Tensor, y: Tensor, predictor: nn.Module) -> Tensor:
    """``[B, N, D]`` twice -> ``[B]``: minus the mean cosine of each, predicted, with the other held fixed."""
    with torch.autocast(x.device.type, enabled=False):
        forth = functional.cosine_similarity(predictor(x.float()), y.float().detach(), dim=-1)
        back = functional.cosine_similarity(predictor(y.float()), x.float().detach(), dim=-1)
        return -0.5 * (forth + back).mean(dim=1)


def sentence_contrast(sentences: Tensor, contexts: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
    """``[B, S, D]`` twice -> ``[B]``: contrast of sentences with their contexts within one report, both ways.

    Args:
        mask: ``[B, S]`` bool, where there is a sentence; a report without any gets 0.
        scale: of the cosines.
    """
    with torch.autocast(sentences.device.type, enabled=False):
        a, b = functional.normalize(sentences.float(), dim=-1), functional.normalize(contexts.float(), dim=-1)
        logits = scale * b @ a.transpose(1, 2)
        matched = logits.diagonal(dim1=1, dim2=2)
        # Finite instead of -inf: a report without sentences must not make NaN out of its zero weights.
        blocked, lowest = (~mask).unsqueeze(1), torch.finfo(logits.dtype).min / 2
        sides = [
            side.masked_fill(blocked, lowest).logsumexp(dim=-1) for side in (logits, logits.transpose(1, 2))
        ]
        values = torch.where(mask, (sides[0] + sides[1]) / 2 - matched, 0.0)
        return values.sum(dim=1) / mask.sum(dim=1).clamp_min(1)


def arrange(generated: Tensor, targets: Tensor, *, backwards: bool) -> Tensor:
    """Generated sentences ``[B, Q, D]`` in the order of the ``[B, Q, D]`` targets they are assigned to.

    The assignment with the least sum of absolute differences is found on the CPU, sample by sample: the one
    place where a loss of the suite waits for the device.

    Args:
        backwards: order by the assignment itself instead of by its inverse (released code), which is right
            for permutations that are their own inverse only.
    """
    cost = torch.cdist(generated.detach(), targets.detach(), p=1).cpu().numpy()
    assigned = torch.stack([torch.from_numpy(linear_sum_assignment(each)[1]) for each in cost])
    order = (assigned if backwards else assigned.argsort(dim=1)).to(generated.device)
    return generated.gather(1, order.unsqueeze(-1).expand_as(generated))


def divergence(generated: Tensor, true: Tensor) -> Tensor:
    """Logits ``[..., K]`` twice -> ``[...]``: KL divergence of the true from the generated prototypes."""
    p, q = true.log_softmax(dim=-1), generated.log_softmax(dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1)


def _projection(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer
