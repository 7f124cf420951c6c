"""MAVL: nine texts for each pathology, a description and eight aspects, ask one radiograph (CVPR 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.errors import ConfigError
from replication.knowledge.aspects import load_aspects
from replication.knowledge.descriptions import EXTRA_DESCRIPTIONS
from replication.knowledge.vocabulary import PATHOLOGIES, pathology_index
from replication.method import (
    Batch,
    Finding,
    HeatmapKind,
    ImportReport,
    Ingredients,
    Losses,
    Method,
    Settings,
    Supervision,
)
from replication.networks.attention_pool import AttentionPool2d
from replication.networks.distributed import gather
from replication.networks.key_maps import load_released, trunk_keys
from replication.networks.query_decoder import QueryDecoder
from replication.networks.query_stream import (
    QuerySettings,
    Questions,
    as_tokens,
    finding_scores,
    initialise,
)
from replication.networks.text_book import TextBook, anatomy_texts
from replication.networks.triplet_losses import (
    NegativeRule,
    existence_labels,
    existence_loss,
    position_loss,
    sample_negatives,
    sample_positive,
)

Concept = Literal[
    "description", "border", "fluid", "location", "opacity", "other", "patterns", "shape", "texture"
]  # fmt: skip
CONCEPTS: tuple[Concept, ...] = get_args(Concept)
"""What the K texts of a pathology are about, in order."""

KEPT = (
    "effusion", "pneumothorax", "edema", "atelectasis", "consolidation", "abnormality", "pneumonia",
    "cardiomegaly", "nodule", "thicken", "emphysema", "mass", "infiltrate", "hernia", "tail_abnorm_obs",
)  # fmt: skip
"""Pathologies that the released option ``exclude_class`` leaves in training."""

REFERENCES = [pathology_index("normal"), pathology_index("clear")]
"""What the scores by text compare a finding with."""

_MODULES = {
    "temp": "log_scale",
    "disease_embedding_layer": "queries",
    "pool": "pool",
    "res_l1": "patch_hidden",
    "res_l2": "patch_output",
    "location_emb": "location",
    "decoder.layers": "decoder.layers",
    "decoder.norm": "norm",
    "classifier": "classifier",
}
"""Released module or parameter -> ours, apart from the trunk."""


class MAVLSettings(QuerySettings):
    """Settings of MAVL: defaults are corrected values, the recipe ``published`` sets the faithful ones.

    Attributes:
        aspects: the suite's ``own`` texts, or the path of the released file.
        self_attention: whether the 675 queries look at each other (released option).
        pool_grid, pool_heads: of the global feature's attention pool.
        position_weight, global_weight: of the losses beside existence; 0 leaves a loss and its head out.
        positive, negatives, negatives_per_query: of the position loss, as in MedKLIP (audit K12, K13).
        exclude_classes: train on ``KEPT`` alone (released option ``exclude_class``).
        fibrosis: score a finding of the catch-all class by that class (``tail``, released code) or by texts
            of its own.
        mode: a finding is scored by the classifier (``feature``), by the cosine of its ``text`` with the
            image against that of normal ones, or ``by_finding``: without a class by text, else by the
            classifier.
        text_temperature: of the scores by text: the ``trained`` one, or ``none`` (released code, audit V17).
        grounding_concepts: which attention maps are merged; the released script takes four (audit V6).
        grounding_merge: how.
        relation_with_existence: add the finding's own log-probability to that of its anatomy.
        empty_batch: the loss of a batch with nothing to learn from; the released code gives NaN.
    """

    aspects: str = "own"
    self_attention: bool = True
    pool_grid: int = 14
    pool_heads: int = 8
    position_weight: float = 1.0
    global_weight: float = 0.1
    positive: Literal["random", "prototype"] = "prototype"
    negatives: NegativeRule = "absent_only_then_unmentioned"
    negatives_per_query: int = 7
    exclude_classes: bool = False
    fibrosis: Literal["tail", "own_prompt"] = "own_prompt"
    mode: Literal["by_finding", "feature", "text"] = "by_finding"
    text_temperature: Literal["trained", "none"] = "trained"
    grounding_concepts: tuple[Concept, ...] = CONCEPTS
    grounding_merge: Literal["mean", "max"] = "mean"
    relation_with_existence: bool = True
    empty_batch: Literal["zero", "nan"] = "zero"


class Answer(NamedTuple):
    """What N classes of K concepts find in B images of P patches.

    Attributes:
        features: ``[B, N, K * d]``, the normalised features of a class's concepts, one after the other.
        attention: ``[layers, B, N * K, P]`` or ``None``. grid: of the patches.
    """

    features: Tensor
    attention: Tensor | None
    grid: tuple[int, int]


class MAVL(Method):
    """Text queries of 75 pathologies x 9 concepts; existence, position, and a global contrast per concept."""

    name: ClassVar[str] = "mavl"
    supervision: ClassVar[Supervision] = "triplets"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = MAVLSettings

    trained: Tensor

    def __init__(self, settings: MAVLSettings, ingredients: Ingredients) -> None:
        super().__init__()
        if settings.mode == "text" and settings.global_weight == 0:
            raise ConfigError(
                "Scores by text need the global loss.", where="mode", found="text, global_weight 0"
            )
        self.settings = settings
        self.trunk = ingredients.trunk
        width, channels, concepts = settings.d_model, self.trunk.channels, len(CONCEPTS)
        self.aspects = load_aspects(settings.aspects)
        pairs = zip(ingredients.descriptions, self.aspects.pathologies, strict=True)
        texts = [text for description, aspects in pairs for text in (description, *aspects)]
        encoder, book = ingredients.text_encoder, settings.book
        self.concept_book = TextBook(texts, encoder, book)
        self.anatomy_book = TextBook(anatomy_texts(book, "medklip"), encoder, book)
        text_width = self.concept_book.width
        self.patch_hidden = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.PReLU())
        self.patch_output = nn.Conv2d(channels, width, 1)
        self.queries = nn.Linear(text_width, width)
        self.decoder = QueryDecoder(
            width,
            settings.decoder_layers,
            settings.heads,
            settings.feedforward,
            settings.dropout,
            self_attention=settings.self_attention,
        )
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(concepts * width, 2)
        self.location = self.pool = None
        if settings.position_weight != 0:
            self.location = nn.Conv1d(width, text_width, concepts, concepts)
        if settings.global_weight != 0:
            self.pool = AttentionPool2d(settings.pool_grid, channels, settings.pool_heads, width)
            self.log_scale = nn.Parameter(torch.full((concepts,), math.log(1 / 0.07)))
        kept = [not settings.exclude_classes or name in KEPT for name in PATHOLOGIES]
        self.register_buffer("trained", torch.tensor(kept).nonzero().flatten(), persistent=False)
        initialise(self, settings.initialisation)

    def loss(self, batch: Batch) -> Losses:
        """Existence + position loss + global contrast on one batch."""
        options, draws = self.settings, batch.draws()
        book, cells = self.concept_book.features, batch.triplets.transpose(1, 2)
        if options.exclude_classes:
            book, cells = _by_class(book)[self.trained].flatten(0, 1), cells[:, self.trained]
        empty = 0.0 if options.empty_batch == "zero" else float("nan")
        labels, queries, maps = existence_labels(cells), self.queries(book), self.trunk(batch.images)
        features = self._drop(self._answer(queries, maps).features)
        parts = {"exist": existence_loss(self.classifier(features), labels, empty=empty)}
        total = parts["exist"]
        if self.location is not None:
            positive = sample_positive(cells, draws) if options.positive == "random" else None
            negatives = sample_negatives(cells, options.negatives_per_query, options.negatives, draws)
            similarities = self._similarities(features, self.anatomy_book.features)
            parts["position"] = position_loss(similarities, cells, positive, *negatives, empty=empty)
            total = total + options.position_weight * parts["position"]
        if self.pool is not None:
            scale = self.log_scale.exp()
            parts["global"] = global_contrast(self.pool(maps), _by_class(queries), labels, scale)
            total = total + options.global_weight * parts["global"]
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Probability that a finding is present; the log-score of the relation where an anatomy is asked for.

        See ``finding_scores`` and the setting ``mode``. The released code scores no relations.
        """
        questions = self._questions(findings)
        queries, maps = self.queries(questions.texts), self.trunk(images)
        features = self._answer(queries, maps, questions.mask).features
        log_present = self.classifier(features).float().log_softmax(dim=-1)[..., 1]
        similarities = None
        if self.location is not None and any(finding.anatomy for finding in findings):
            similarities = self._similarities(features, self.anatomy_book.for_scores)
        with_existence = self.settings.relation_with_existence
        scores = finding_scores(
            log_present, similarities, findings, questions.index, with_existence=with_existence
        )
        by_text = [
            number
            for number, (finding, index) in enumerate(zip(findings, questions.index, strict=True))
            if not finding.anatomy and self._is_scored_by_text(index)
        ]
        if by_text and self.pool is not None:
            concepts = _by_class(queries)
            asked = concepts[[questions.index[number] for number in by_text]]
            scale = 1.0 if self.settings.text_temperature == "none" else self.log_scale.exp()
            scores[:, by_text] = text_scores(self.pool(maps), asked, concepts[REFERENCES], scale)
        return scores

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Cross-attention of a finding's queries, averaged over layers and heads, merged over concepts."""
        questions = self._questions(findings)
        maps = self.trunk(images)
        answer = self._answer(self.queries(questions.texts), maps, questions.mask, want_maps=True)
        assert answer.attention is not None
        attention = answer.attention.float().mean(dim=0)
        chosen = [CONCEPTS.index(name) for name in self.settings.grounding_concepts]
        rows = torch.tensor(questions.index).unsqueeze(1) * len(CONCEPTS) + torch.tensor(chosen)
        found = attention[:, rows.to(attention.device)]
        merged = found.amax(dim=2) if self.settings.grounding_merge == "max" else found.mean(dim=2)
        return merged.reshape(*merged.shape[:2], *answer.grid)

    def load_released(self, path: Path) -> ImportReport:
        """Load a pre-training checkpoint of the authors; see ``Method.load_released``."""
        ours = self.state_dict()
        books = [key for key in ours if key.startswith(("concept_book.", "anatomy_book."))]
        return load_released(self, path, released_keys(set(ours) - set(books)), derived=books)

    def _answer(
        self, queries: Tensor, maps: Tensor, mask: Tensor | None = None, *, want_maps: bool = False
    ) -> Answer:
        """The decoder's answer to queries ``[N * K, d]`` on feature maps ``[B, C, h, w]`` of the trunk."""
        memory, grid = as_tokens(self.patch_output(self.patch_hidden(maps)))
        decoded = self.decoder(queries, memory, mask=mask, want_maps=want_maps)
        features = self.norm(decoded.features)
        return Answer(features.reshape(len(maps), -1, self.classifier.in_features), decoded.attention, grid)

    def _drop(self, features: Tensor) -> Tensor:
        """Dropout of whole queries, which is what the released ``Dropout2d`` does to its input."""
        queries = features.view(*features.shape[:2], len(CONCEPTS), -1)
        kept = functional.dropout(torch.ones_like(queries[..., :1]), self.settings.dropout, self.training)
        return (queries * kept).flatten(2)

    def _similarities(self, features: Tensor, book: Tensor) -> Tensor:
        """Dot products ``[B, N, 51]`` of located features ``[B, N, K * d]`` with a book ``[51, D]``.

        The convolution is applied to the book instead: the same products, without the ``[B, N, D]`` tensor.
        """
        assert self.location is not None and self.location.bias is not None
        with torch.autocast(features.device.type, enabled=False):
            keys = book @ self.location.weight.transpose(1, 2).flatten(1)
            return features.float() @ keys.T + book @ self.location.bias

    def _questions(self, findings: Sequence[Finding]) -> Questions:
        def texts_of(finding: Finding) -> list[str]:
            description = EXTRA_DESCRIPTIONS.get(finding.name, finding.text)
            return [description, *self.aspects.of(finding.name, finding.text)]

        tail = self.settings.fibrosis == "tail"
        return Questions.about(findings, self.concept_book, tail=tail, texts_of=texts_of)

    def _is_scored_by_text(self, index: int) -> bool:
        if self.settings.mode == "by_finding":
            return index >= len(PATHOLOGIES)
        return self.settings.mode == "text"


def _by_class(rows: Tensor) -> Tensor:
    """``[N * K, d]`` -> ``[N, K, d]``."""
    return rows.view(-1, len(CONCEPTS), rows.shape[-1])


def global_contrast(images: Tensor, concepts: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Contrast of images with the texts of what is present in them, by cosine, each concept by itself.

    An image has several pathologies, so the targets are not normalised: it is drawn to each of them among all
    N, and each of them to it among all images in whose report anything is mentioned.

    Args:
        images: ``[B, d]``. concepts: ``[N, K, d]``. scale: ``[K]``, factors of the cosine.
        labels: ``[B, N]``; 1 present, 0 absent, -1 not mentioned.

    Returns:
        Scalar: the sum of both directions' means over images, pathologies and concepts; over all processes.
    """
    with torch.autocast(images.device.type, enabled=False):
        labels = gather(labels)
        v = functional.normalize(gather(images.float()), dim=-1)
        q = functional.normalize(concepts.float(), dim=-1)
        logits = torch.einsum("bd,nkd->bnk", v, q) * scale
        silent = (labels < 0).all(dim=1)
        to_text = logits.log_softmax(dim=1)
        others = logits.masked_fill(silent[:, None, None], torch.finfo(logits.dtype).min)
        to_image = others.log_softmax(dim=0)
        drawn = torch.where(labels.eq(1).unsqueeze(-1), to_text + to_image, 0.0).sum()
        return -drawn / ((~silent).sum().clamp_min(1) * logits[0].numel())


def text_scores(images: Tensor, concepts: Tensor, references: Tensor, scale: Tensor | float) -> Tensor:
    """Probability ``[B, F]`` of F findings against normal references, mean over references and concepts.

    Args:
        images: ``[B, d]``. concepts: ``[F, K, d]``; references: ``[R, K, d]``. scale: of the cosines.
    """
    v = functional.normalize(images.float(), dim=-1)
    found, normal = (
        torch.einsum("bd,nkd->bnk", v, functional.normalize(texts.float(), dim=-1)) * scale
        for texts in (concepts, references)
    )
    return (found.unsqueeze(2) - normal.unsqueeze(1)).sigmoid().mean(dim=(2, 3))


def released_keys(ours: Iterable[str]) -> dict[str, str]:
    """Released key -> our key for a model with our keys ``ours``; books are not in released checkpoints."""
    own = set(ours)
    keys = trunk_keys((key for key in own if key.startswith("trunk.")), "backbone.")
    for theirs, mine in _MODULES.items():
        keys |= {theirs + key.removeprefix(mine): key for key in own if f"{key}.".startswith(f"{mine}.")}
    return keys
