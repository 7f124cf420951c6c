"""CARZero with a ResNet: one decoder reads how well image and text match, both ways round (CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from replication.errors import CheckpointError, ConfigError
from replication.knowledge.prompts import Polarity, Style, prompts
from replication.knowledge.report_sentences import sample_sentence
from replication.knowledge.word_sentences import word_sentences
from replication.method import (
    Batch,
    Finding,
    HeatmapKind,
    ImportReport,
    Ingredients,
    Losses,
    Method,
    ReportScorer,
    Settings,
    Supervision,
)
from replication.networks.distributed import gather
from replication.networks.dropout import Dropout
from replication.networks.key_maps import load_released, read_state
from replication.networks.query_decoder import QueryDecoder
from replication.networks.query_stream import DecoderSettings, as_tokens, initialise
from replication.networks.report_scores import portions
from replication.networks.text_tower import TextTower, spread
from replication.networks.two_scales import cell_channels, two_scales
from replication.networks.word_pieces import WordPieces, merge

_MODULES = {
    "trunk.": "img_encoder.model.",
    "global_head.": "img_encoder.global_embedder.",
    "local_head.": "img_encoder.local_embedder.",
    "text.encoder.model.": "text_encoder.model.",
    "fusion.": "fusion_module.",
}
"""Our module -> released module, behind the prefix ``CARZero.``."""


class CARZeroSettings(DecoderSettings):
    """Settings of CARZero: defaults are corrected values, the recipe ``published`` sets the faithful ones.

    Attributes:
        d_model: of images, words and decoder; 768 is the text encoder's own width, which takes no projection.
        dropout: in the decoder, behind it, and in the head.
        head: the logit's head: ``mlp`` with hidden widths of ``feedforward``, a half and a quarter of it
            (published: 1024, 512, 256), or one ``linear`` layer (released configuration ``_gl``).
        mask_pads: leave pads out of the words that an image looks at; the released code lets it look.
        text_layers: hidden states of so many last layers are added. max_length: word slots of a text.
        text_unit: one uniformly sampled ``sentence`` of the report, drawn anew at each access, or all of it.
        sentence_rule: ``suite`` cuts reports as for all methods; ``words`` keeps bare lower-case words.
        score: mean logit of the ``positive`` prompts (published), or that minus the negative ones' mean.
        prompts: ``report`` (sentences), ``short`` (bare labels), or a published set.
    """

    d_model: int = 768
    head: Literal["mlp", "linear"] = "mlp"
    mask_pads: bool = True
    text_layers: int = 4
    max_length: int = 97
    text_unit: Literal["sentence", "report"] = "sentence"
    sentence_rule: Literal["suite", "words"] = "suite"
    score: Literal["positive_minus_negative", "positive"] = "positive_minus_negative"
    prompts: Style = "report"


class Side(NamedTuple):
    """N images or texts as both parts of the comparison.

    Attributes:
        query: ``[N, d]``, the whole. memory: ``[N, 1 + K, d]``, the whole and then its cells or words.
        mask: ``[N, 1 + K]`` bool, what of the memory may be looked at; ``None`` is all.
    """

    query: Tensor
    memory: Tensor
    mask: Tensor | None


class CARZero(Method):
    """A trunk, a text tower, and one decoder in which texts query images and images query texts."""

    name: ClassVar[str] = "carzero"
    supervision: ClassVar[Supervision] = "report"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = CARZeroSettings

    def __init__(self, settings: CARZeroSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = settings
        self.trunk = ingredients.trunk
        self.text = TextTower(
            ingredients.text_encoder, frozen_share=0.0, pooling="mean", max_length=settings.max_length
        )
        self.pieces = WordPieces(self.text.encoder)
        width, d_model = self.text.width, settings.d_model
        self.global_head = nn.Linear(self.trunk.channels, d_model)
        self.local_head = nn.Linear(cell_channels(self.trunk), d_model, bias=False)
        # Without a bias the sum over slots and the projection commute, and pads stay zero.
        self.text_head = nn.Identity() if width == d_model else nn.Linear(width, d_model, bias=False)
        self.fusion = Fusion(settings)
        self._known: dict[tuple[tuple[Finding, ...], Polarity], tuple[Side, list[slice]]] = {}
        self.register_load_state_dict_post_hook(self._forget)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; prompts encoded with the weights so far are forgotten."""
        self._forget()
        return super().train(mode)

    def loss(self, batch: Batch) -> Losses:
        """Contrast by image-to-text and by text-to-image logits; images without a text do not count."""
        texts = self._texts(batch)
        keep = torch.tensor([bool(text) for text in texts]).to(batch.images.device, non_blocking=True)
        image, _ = self._images(batch.images)
        text = self._encode(texts)
        # Every process reads its own memories with the queries of all; only queries and logits travel.
        to_text, _ = self.fusion(gather(text.query), image.memory)
        to_image, _ = self.fusion(gather(image.query), text.memory, text.mask)
        kept = gather(keep)
        parts = {
            "image_to_text": matching_loss(gather(to_text), kept),
            "text_to_image": matching_loss(gather(to_image), kept),
        }
        total = parts["image_to_text"] + parts["text_to_image"]
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Mean logit of a finding's positive prompts, or that minus the mean of the negative ones."""
        image, _ = self._images(images)
        positive = self._logits(image, findings, "present")
        if self.settings.score == "positive":
            return positive
        return positive - self._logits(image, findings, "absent")

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Attention of the positive prompts to the cells, mean over heads, layers and prompts."""
        image, grid = self._images(images)
        text, groups = self._prompts(findings, "present")
        _, maps = self.fusion(text.query, image.memory, want_maps=True)
        cells = maps.float().mean(dim=0)[..., 1:]
        found = torch.stack([cells[:, group].mean(dim=1) for group in groups], dim=1)
        return found.view(*found.shape[:2], *grid)

    @torch.no_grad()
    def report_scorer(self, reports: Sequence[str]) -> ReportScorer:
        """Mean logit of both directions of the decoder, which looks at every pair of image and report."""
        texts = [self._encode([self._whole(report) for report in some]) for some in portions(reports)]

        @torch.no_grad()
        def score(images: Tensor) -> Tensor:
            image, _ = self._images(images)
            return torch.cat([self._both_directions(image, text) for text in texts], dim=1)

        return score

    def load_released(self, path: Path) -> ImportReport:
        """Load a checkpoint of the released code's convolutional base (configuration ``base: conv``).

        Raises:
            CheckpointError: it is the published checkpoint, whose image encoder is a ViT; or see
                ``Method.load_released``.
        """
        if any(key.startswith("CARZero.img_encoder.model.blocks.") for key in read_state(path)):
            raise CheckpointError(
                "The checkpoint's image encoder is a vision transformer; this adaptation has a ResNet.",
                where=path,
                found="CARZero.img_encoder.model.blocks.*",
                allowed="a checkpoint trained with the released code's 'base: conv'",
                remedy="pre-train this method: the decoder means nothing without the encoder it grew up with",
            )
        keys = released_keys(self.state_dict())
        to_linear = {theirs: _as_linear for theirs, ours in keys.items() if ours == "local_head.weight"}
        return load_released(self, path, keys, unused=_unused(self.settings), convert=to_linear)

    def _images(self, images: Tensor) -> tuple[Side, tuple[int, int]]:
        """The image side of ``[B, 3, H, W]``, and the grid of its cells."""
        maps, pooled = two_scales(self.trunk, images)
        cells, grid = as_tokens(maps)
        whole = self.global_head(pooled)
        return Side(whole, torch.cat([whole.unsqueeze(1), self.local_head(cells)], dim=1), None), grid

    def _encode(self, texts: Sequence[str]) -> Side:
        """The text side of N texts; pads that are looked at fill every text up to ``max_length`` slots."""
        tokens = self.text.tokenize(texts, padding="longest" if self.settings.mask_pads else "max_length")
        slots = self.pieces.slots(tokens)
        layers = self.text.hidden_states(tokens)[1:]
        hidden = torch.stack(layers[-self.settings.text_layers :]).float().sum(dim=0)
        words = self.text_head(merge(hidden, slots))
        # The released mean is over all slots, pads included; see docs/methods/carzero.md, 4.
        whole = words.sum(dim=1) / self.settings.max_length
        mask = None
        if self.settings.mask_pads:
            mask = torch.cat([slots.filled.any(1, keepdim=True), slots.filled], dim=1)
        return Side(whole, torch.cat([whole.unsqueeze(1), words], dim=1), mask)

    def _texts(self, batch: Batch) -> list[str]:
        """One text for each report; empty where the report has no usable sentence."""
        if self.settings.text_unit == "report":
            return [self._whole(report) for report in batch.reports]
        words = self.settings.sentence_rule == "words"
        draws = batch.draws().uniform().tolist()
        pairs = zip(batch.reports, draws, strict=True)
        if not words:
            return [sample_sentence(report, draw) for report, draw in pairs]
        cut = [(word_sentences(report), draw) for report, draw in pairs]
        return [sentences[int(draw * len(sentences))] if sentences else "" for sentences, draw in cut]

    def _whole(self, report: str) -> str:
        """All of a report under the sentence rule."""
        words = self.settings.sentence_rule == "words"
        return " ".join(word_sentences(report)) if words else report.strip()

    def _prompts(self, findings: Sequence[Finding], polarity: Polarity) -> tuple[Side, list[slice]]:
        """Encoded prompts of all findings, one after another, and where those of each finding are.

        Raises:
            ConfigError: the prompts do not say this of a finding.
        """
        key = (tuple(findings), polarity)
        if key not in self._known or self.training:
            ensembles = [prompts(finding, polarity, self.settings.prompts) for finding in findings]
            if not all(ensembles):
                raise ConfigError(
                    f"The prompts have none that say a finding is {polarity}.",
                    where="model.prompts",
                    found=self.settings.prompts,
                    remedy="set model.score to positive, or choose other prompts",
                )
            texts = [text for ensemble in ensembles for text in ensemble]
            if self.settings.sentence_rule == "words":
                texts = [" ".join(word_sentences(text)) or text.lower() for text in texts]
            self._known[key] = self._encode(texts), spread([len(ensemble) for ensemble in ensembles])
        return self._known[key]

    def _logits(self, image: Side, findings: Sequence[Finding], polarity: Polarity) -> Tensor:
        """Mean over a finding's prompts of the mean of both directions' logits, ``[B, F]`` float32."""
        text, groups = self._prompts(findings, polarity)
        both = self._both_directions(image, text)
        return torch.stack([both[:, group].mean(dim=1) for group in groups], dim=1)

    def _both_directions(self, image: Side, text: Side) -> Tensor:
        """Mean logit of texts that query images and of images that query texts, ``[B, N]`` float32."""
        to_text, _ = self.fusion(text.query, image.memory)
        to_image, _ = self.fusion(image.query, text.memory, text.mask)
        both: Tensor = (to_text.float() + to_image.float().T) / 2
        return both

    def _forget(self, *_: object) -> None:
        self._known.clear()


class Fusion(nn.Module):
    """Decoder without self-attention, and the head that turns a decoded query into a logit.

    One layer normalisation serves the memory, the queries and the decoded queries. Parameter names are those
    of the released ``fusion_module``.
    """

    def __init__(self, settings: CARZeroSettings) -> None:
        super().__init__()
        width, hidden = settings.d_model, settings.feedforward
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder = QueryDecoder(
            width, settings.decoder_layers, settings.heads, hidden, settings.dropout, self_attention=False
        )
        self.dropout = Dropout(settings.dropout)
        widths = (width, hidden, hidden // 2, hidden // 4) if settings.head == "mlp" else (width,)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), Dropout(settings.dropout)]
        self.mlp_head = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        initialise(self, settings.initialisation)

    def forward(
        self, queries: Tensor, memory: Tensor, mask: Tensor | None = None, *, want_maps: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Logits of Q queries ``[Q, d]`` with B memories ``[B, K, d]``.

        Args:
            mask: ``[B, K]`` bool, what of the memory may be looked at.

        Returns:
            ``[B, Q]``, and the attention of each layer ``[layers, B, Q, K]``, empty unless asked for.
        """
        decoded = self.decoder(
            self.decoder_norm(queries), self.decoder_norm(memory), memory_mask=mask, want_maps=want_maps
        )
        features = self.dropout(self.decoder_norm(decoded.features))
        maps = features.new_empty(0) if decoded.attention is None else decoded.attention
        return self.mlp_head(features).squeeze(-1), maps


def matching_loss(logits: Tensor, keep: Tensor) -> Tensor:
    """Mean cross-entropy over rows and over columns of the logits ``[N, N]`` of N pairs; 0 where none counts.

    Args:
        keep: ``[N]`` bool, which pairs count; the others are neither anchors nor negatives.
    """
    logits = logits.float()
    blocked = ~(keep | torch.eye(len(keep), dtype=torch.bool, device=keep.device))
    matched = logits.diagonal()
    rows, columns = (side.masked_fill(blocked, float("-inf")).logsumexp(dim=1) for side in (logits, logits.T))
    losses = (rows + columns) / 2 - matched
    return torch.where(keep, losses, 0.0).sum() / keep.sum().clamp_min(1)


def released_keys(ours: Iterable[str]) -> dict[str, str]:
    """Released key -> our key; the decoder's final normalisation is in checkpoints under two names."""
    keys = {}
    for key in ours:
        module = next((module for module in _MODULES if key.startswith(module)), None)
        if module is not None:
            keys[f"CARZero.{_MODULES[module]}{key.removeprefix(module)}"] = key
        if key.startswith("fusion.decoder_norm."):
            keys[f"CARZero.fusion_module.decoder.norm.{key.rpartition('.')[2]}"] = key
    return keys


def _unused(settings: CARZeroSettings) -> dict[str, str]:
    """Prefix of released keys that no forward pass reads -> the reason."""
    layers = [f"CARZero.fusion_module.decoder.layers.{n}." for n in range(settings.decoder_layers)]
    return {
        **{f"{layer}self_attn.": "the decoder has no self-attention" for layer in layers},
        **{f"{layer}norm1.": "the normalisation before the self-attention there is not" for layer in layers},
        "CARZero.fusion_module.logit_scale": "the logits have no temperature",
        "CARZero.text_encoder.model.pooler.": "the pooled output of BERT is not used",
        "CARZero.text_encoder.model.embeddings.position_ids": "a constant of old versions of the library",
    }


def _as_linear(weight: Tensor) -> Tensor:
    """A 1x1 convolution ``[d, C, 1, 1]`` as the linear layer that it is."""
    return weight.flatten(1)
