"""MGCA: images and reports aligned as wholes, by patches and words, and by prototypes (NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.knowledge.prompts import prompts
from replication.knowledge.text_encoder import Tokens
from replication.knowledge.word_sentences import prompt_by, text_by
from replication.method import (
    Batch,
    Finding,
    ImportReport,
    Ingredients,
    Losses,
    Settings,
    Supervision,
)
from replication.networks.distributed import gather, highest_of_processes, mean_where, processes
from replication.networks.key_maps import load_released, module_keys
from replication.networks.losses import info_nce
from replication.networks.prompt_scores import PromptMethod, PromptSettings
from replication.networks.text_tower import TextTower, spread
from replication.networks.two_scales import cell_channels, flat, two_scales
from replication.networks.word_pieces import Slots, WordPieces, mean_over_words, merge

Shift = Literal["fixed", "official"]

_FEWEST_WORDS = 3
_RELEASED = {
    "img_encoder_q.model": "trunk",
    "img_encoder_q.global_embed.head": "image_head",
    "img_encoder_q.local_embed.head": "patch_head",
    "text_encoder_q.model": "text.encoder.model",
    "text_encoder_q.global_embed.head": "report_head",
    "text_encoder_q.local_embed.head": "word_head",
    "prototype_layer": "prototypes",
}
_CONVOLUTIONS = ("local_embed.head.0.weight", "local_embed.head.3.weight")
"""1x1 convolutions of the released code that are linear layers here."""


class MGCASettings(PromptSettings):
    """Settings of MGCA: defaults are corrected values, the recipe ``published`` sets the faithful ones.

    Attributes:
        projection_dim: of the joint space. hidden_dim: of the four heads (published: 2048); ``None`` is the
            number of channels of the trunk.
        prototypes: K. prototype_temperature: of their softmax.
        code_temperature, sinkhorn_steps: of the codes that prototypes are predicted by.
        frozen_prototype_steps: training steps before the prototypes move (published: the first epoch).
        temperature: of whole images and reports. token_temperature: of patches and words.
        global_weight, local_weight, prototype_weight: of the three losses.
        text_layers: layers of the text tower, from below (published: 6); ``None`` keeps all.
        sentence_rule: ``words`` reads bare lower-case words in sentences of two or more, and no report of
            fewer than three words (released code); ``suite`` reads reports as they are.
        attention_shift: ``official`` weighs a word by the attention to the next token and drops the last word
            of a text that fills ``max_length``; ``fixed`` weighs it by its own.
        pad_columns: pads take part in the comparison of words (``official``) or do not (``masked``).
        patch_context: the text that a patch attends to has norm one (``unit``; released code of the ResNet)
            or is taken as it is (``raw``; released code of the ViT).
        input_side: images are resized to so many pixels inside the model (published: 299).
        map: attention of a prompt's ``words`` over patches, or the ``cosine`` score of each patch.
    """

    projection_dim: int = 128
    hidden_dim: int | None = None
    prototypes: int = 500
    prototype_temperature: float = 0.2
    code_temperature: float = 0.05
    sinkhorn_steps: int = 3
    frozen_prototype_steps: int = 0
    temperature: float = 0.07
    token_temperature: float = 0.1
    global_weight: float = 1.0
    local_weight: float = 1.0
    prototype_weight: float = 1.0
    text_layers: int | None = None
    frozen_share: float = 0.0
    max_length: int = 112
    sentence_rule: Literal["suite", "words"] = "suite"
    attention_shift: Shift = "fixed"
    pad_columns: Literal["masked", "official"] = "masked"
    patch_context: Literal["unit", "raw"] = "unit"
    input_side: int | None = None
    map: Literal["words", "cosine"] = "words"


class Texts(NamedTuple):
    """N texts.

    Attributes:
        report: ``[N, D]``. words: ``[N, M, D]``, [SEP] the last of them, then pads. pads: ``[N, M]`` bool.
        attention: ``[N, M]`` of [CLS] to each word. mask: ``[N, M]`` bool, words without [SEP].
    """

    report: Tensor
    words: Tensor
    pads: Tensor
    attention: Tensor
    mask: Tensor


class MGCA(PromptMethod):
    """A trunk and a text tower with a head each for the whole and for its parts, and shared prototypes."""

    name: ClassVar[str] = "mgca"
    supervision: ClassVar[Supervision] = "report"
    settings_class: ClassVar[type[Settings]] = MGCASettings
    steps: Tensor

    def __init__(self, settings: MGCASettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = self.prompt_settings = settings
        self.trunk = ingredients.trunk
        self.text = TextTower(
            ingredients.text_encoder,
            frozen_share=settings.frozen_share,
            pooling="cls",
            max_length=settings.max_length,
            layers=settings.text_layers,
        )
        self.pieces = WordPieces(self.text.encoder)
        hidden, width = settings.hidden_dim or self.trunk.channels, settings.projection_dim
        self.image_head = projection_head(self.trunk.channels, hidden, width)
        self.patch_head = projection_head(cell_channels(self.trunk), hidden, width)
        self.report_head = projection_head(self.text.width, hidden, width)
        self.word_head = projection_head(self.text.width, hidden, width)
        self.prototypes = nn.Linear(width, settings.prototypes, bias=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: Batch) -> Losses:
        """The three alignments; images without a report do not count."""
        chosen = self.settings
        texts = self._reports(batch.reports)
        keep = torch.tensor([bool(text) for text in texts]).to(batch.images.device, non_blocking=True)
        cells, whole = two_scales(self.trunk, batch.images, chosen.input_side)
        v, patches = _unit(self.image_head(whole)), _unit(_by_token(self.patch_head, flat(cells)))
        text = self._encode(texts)
        u, words = _unit(text.report), _unit(text.words)
        parts = {
            # Both directions are added: twice their mean.
            "global": 2 * info_nce(v, u, temperature=chosen.temperature, keep=keep),
            "local": mean_where(
                token_losses(
                    patches,
                    words,
                    text.pads,
                    clipped_weights(text.attention),
                    temperature=chosen.token_temperature,
                    mask_pads=chosen.pad_columns == "masked",
                    unit_context=chosen.patch_context == "unit",
                ),
                keep,
            ),
            "prototypes": prototype_loss(
                v,
                u,
                self._unit_prototypes(),
                keep,
                temperature=chosen.prototype_temperature,
                code_temperature=chosen.code_temperature,
                steps=chosen.sinkhorn_steps,
            ),
        }
        weights = (chosen.global_weight, chosen.local_weight, chosen.prototype_weight)
        total = torch.stack([w * part for w, part in zip(weights, parts.values(), strict=True)]).sum()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def image_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D]``: the head of whole images."""
        features: Tensor = self.image_head(two_scales(self.trunk, images, self.settings.input_side).whole)
        return features

    def cell_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, h, w, D]``: the head of patches."""
        cells = two_scales(self.trunk, images, self.settings.input_side).cells
        patches = _by_token(self.patch_head, flat(cells))
        return patches.view(len(cells), *cells.shape[-2:], -1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts -> ``[N, D]``: the head of reports."""
        return self._encode([prompt_by(self.settings.sentence_rule, text) for text in texts]).report

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Attention over patches, mean over the words of a finding's positive prompts: ``[B, F, h, w]``."""
        if self.settings.map == "cosine":
            return super().heatmap(images, findings)
        ensembles = [prompts(finding, "present", self.settings.prompts) for finding in findings]
        rule = self.settings.sentence_rule
        text = self._encode([prompt_by(rule, prompt) for ensemble in ensembles for prompt in ensemble])
        maps = self.cell_features(images)
        attention = patch_attention(
            _unit(maps.flatten(1, 2)), _unit(text.words), self.settings.token_temperature
        )
        answer = mean_over_words(attention, text.mask, spread([len(ensemble) for ensemble in ensembles]))
        return answer.view(len(maps), len(findings), *maps.shape[1:3])

    def load_released(self, path: Path) -> ImportReport:
        """Load a pre-training checkpoint of the authors; see ``Method.load_released``."""
        keys = module_keys(self.state_dict(), _RELEASED)
        convolutions = [key for key in keys if key.endswith(_CONVOLUTIONS)]
        unused = {
            "patch_local_atten_layer.": "the released option use_local_atten is off",
            "word_local_atten_layer.": "the released option use_local_atten is off",
            "text_encoder_q.model.pooler.": "the pooled output of BERT is not used",
            "text_encoder_q.model.embeddings.position_ids": "a constant of old versions of the library",
        } | {
            f"text_encoder_q.model.encoder.layer.{number}.crossattention.": "no image enters the text encoder"
            for number in range(12)
        }
        return load_released(
            self,
            path,
            keys,
            derived=["steps"],
            unused=unused,
            convert=dict.fromkeys(convolutions, lambda weight: weight.squeeze(-1)),
        )

    def _reports(self, reports: Sequence[str]) -> list[str]:
        """Texts under the sentence rule; empty where a report does not count."""
        texts = [text_by(self.settings.sentence_rule, report) for report in reports]
        if self.settings.sentence_rule == "suite":
            return texts
        return [text if text.count(" ") >= _FEWEST_WORDS - 1 else "" for text in texts]

    def _encode(self, texts: Sequence[str]) -> Texts:
        """N texts through the tower and the heads; nothing is normalised."""
        chosen = self.settings
        # What pads do to the released losses depends on how many there are.
        faithful = "official" in (chosen.attention_shift, chosen.pad_columns)
        tokens = self.text.tokenize(texts, padding="max_length" if faithful else "longest")
        if self.training and processes() > 1:
            # The normalisation of words sees pads: as many as one process would have.
            tokens = self.text.tokenize(texts, padding=highest_of_processes(tokens.input_ids.shape[1]))
        states = self.text.hidden_states(tokens)
        merged, attention, slots = aggregate(
            states[-1], self.text.cls_attention(states, tokens), tokens, self.pieces, chosen.attention_shift
        )
        return Texts(
            report=self.report_head(merged[:, 0]),
            words=_by_token(self.word_head, merged[:, 1:]),
            pads=~slots.filled[:, 1:],
            attention=attention[:, 1:],
            mask=slots.word_mask[:, 1:],
        )

    def _unit_prototypes(self) -> Tensor:
        """Prototypes ``[K, D]`` of norm one; training brings the parameter itself to it, as released."""
        weight = self.prototypes.weight
        if not self.training:
            return functional.normalize(weight, dim=1)
        with torch.no_grad():
            weight.copy_(functional.normalize(weight, dim=1))
            self.steps += 1
        if self.settings.frozen_prototype_steps == 0:
            return weight
        # A zero gradient instead of none: every parameter then takes part in every distributed step.
        moves = (self.steps > self.settings.frozen_prototype_steps).to(weight.dtype)
        return moves * weight + (1 - moves) * weight.detach()


def projection_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear, BatchNorm without scale and shift, on ``[N, inputs]``."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
        nn.BatchNorm1d(outputs, affine=False),
    )


def aggregate(
    hidden: Tensor, attention: Tensor, tokens: Tokens, pieces: WordPieces, shift: Shift
) -> tuple[Tensor, Tensor, Slots]:
    """Pieces summed to words, with what [CLS] attends to.

    Args:
        hidden: ``[N, L, D]``. attention: ``[N, L]`` of [CLS] to each token. shift: see ``MGCASettings``.

    Returns:
        ``[N, S, D]``, ``[N, S]`` and the slots; S is L, or L - 1 with the official shift, which pairs each
        token with the attention to the next one and so never reads the last token.
    """
    if shift == "official":
        tokens, hidden = Tokens(*(part[:, :-1] for part in tokens)), hidden[:, :-1]
        attention = attention[:, 1:]
    slots = pieces.slots(tokens)
    return merge(hidden, slots), merge(attention.unsqueeze(-1), slots).squeeze(-1), slots


def clipped_weights(attention: Tensor) -> Tensor:
    """Weights ``[N, M]`` of sum 1: values that are not zero, clipped to their own 10 % and 90 % quantiles."""
    some = attention.masked_fill(attention == 0, float("nan"))
    low, high = (some.nanquantile(share, dim=1, keepdim=True) for share in (0.1, 0.9))
    clipped = some.clamp(low, high).nan_to_num(nan=0.0)
    return clipped / clipped.sum(dim=1, keepdim=True).clamp_min(torch.finfo(clipped.dtype).tiny)


def patch_attention(patches: Tensor, words: Tensor, temperature: float) -> Tensor:
    """Patches that each word of each text attends to: ``[B, N, D]``, ``[P, M, D]`` -> ``[B, P, M, N]``."""
    with torch.autocast(patches.device.type, enabled=False):
        products = words.flatten(0, 1) @ patches.transpose(1, 2)
        return (products / temperature).softmax(dim=-1).view(len(patches), *words.shape[:2], -1)


def token_losses(
    patches: Tensor,
    words: Tensor,
    pads: Tensor,
    word_weights: Tensor,
    patch_weights: Tensor | None = None,
    *,
    temperature: float,
    mask_pads: bool,
    unit_context: bool,
) -> Tensor:
    """Words against the contexts of the words of their text, patches against those of their image: ``[B]``.

    Args:
        patches: ``[B, N, D]`` and words: ``[B, M, D]``, of norm one. pads: ``[B, M]`` bool.
        word_weights: ``[B, M]`` and patch_weights: ``[B, N]``, of sum one; ``None`` weighs patches alike.
    """
    with torch.autocast(patches.device.type, enabled=False):
        patches, words = patches.float(), words.float()
        products = words @ patches.transpose(1, 2) / temperature
        seen = functional.normalize(products.softmax(dim=2) @ patches, dim=-1)
        blocked = pads if mask_pads else torch.zeros_like(pads)
        word_loss = _paired(words @ seen.transpose(1, 2) / temperature, word_weights, blocked)
        told = products.transpose(1, 2).masked_fill(pads.unsqueeze(1), float("-inf")).softmax(dim=2) @ words
        if unit_context:
            told = functional.normalize(told, dim=-1)
        if patch_weights is None:
            patch_weights = torch.full_like(patches[..., 0], 1 / patches.shape[1])
        patch_loss = _paired(
            patches @ told.transpose(1, 2) / temperature,
            patch_weights,
            torch.zeros_like(patch_weights, dtype=torch.bool),
        )
        return word_loss + patch_loss


def _paired(logits: Tensor, weights: Tensor, blocked: Tensor) -> Tensor:
    """Weighted cross-entropies of ``[B, M, M]`` with the diagonal, mean of both directions: ``[B]``.

    Args:
        blocked: ``[B, M]`` bool, items that nothing but themselves is compared with.
    """
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    unseen = blocked.unsqueeze(1) & ~itself
    matched = logits.diagonal(dim1=1, dim2=2)
    losses = [
        side.masked_fill(unseen, float("-inf")).logsumexp(dim=2) - matched
        for side in (logits, logits.transpose(1, 2))
    ]
    return (weights * (losses[0] + losses[1])).sum(dim=1) / 2


@torch.no_grad()
def sinkhorn(scores: Tensor, steps: int, keep: Tensor) -> Tensor:
    """Codes ``[B, K]``: rows of positive scores ``[B, K]`` of sum 1 that use all prototypes about equally.

    Args:
        keep: ``[B]`` bool; the codes of other rows are zero.
    """
    codes = scores * keep.unsqueeze(1)
    tiny = torch.finfo(codes.dtype).tiny
    codes = codes / codes.sum().clamp_min(tiny)
    for _ in range(steps):
        codes = codes / (codes.sum(dim=0, keepdim=True).clamp_min(tiny) * codes.shape[1])
        codes = codes / (codes.sum(dim=1, keepdim=True).clamp_min(tiny) * keep.sum().clamp_min(1))
    return codes * keep.sum()


def prototype_loss(
    images: Tensor,
    texts: Tensor,
    prototypes: Tensor,
    keep: Tensor,
    *,
    temperature: float,
    code_temperature: float,
    steps: int,
) -> Tensor:
    """Each side predicts the other side's codes, over all processes.

    Args:
        images, texts: ``[B, D]``, of norm one. prototypes: ``[K, D]``, of norm one.
        keep: ``[B]`` bool, which pairs count.
    """
    with torch.autocast(images.device.type, enabled=False):
        keep = gather(keep)
        v, u = (gather(side.float()) @ prototypes.T for side in (images, texts))
        codes_v, codes_u = (sinkhorn((side / code_temperature).exp(), steps, keep) for side in (v, u))
        predicted_v, predicted_u = ((side / temperature).log_softmax(dim=1) for side in (v, u))
        losses = -(codes_v * predicted_u + codes_u * predicted_v).sum(dim=1)
        return losses.sum() / (2 * keep.sum().clamp_min(1))


def _unit(x: Tensor) -> Tensor:
    """Vectors of norm one, float32."""
    return functional.normalize(x.float(), dim=-1)


def _by_token(head: nn.Sequential, tokens: Tensor) -> Tensor:
    """A head on every token: ``[B, N, C]`` -> ``[B, N, D]``, its statistics being over all of them."""
    features: Tensor = head(tokens.flatten(0, 1))
    return features.view(*tokens.shape[:2], -1)
