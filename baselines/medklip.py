"""MedKLIP: one text-queried stream over the patches of one radiograph (ICCV 2023, arXiv 2301.02228)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from replication.knowledge.vocabulary import PATHOLOGIES
from replication.method import (
    Batch,
    Finding,
    HeatmapKind,
    ImportReport,
    Ingredients,
    Losses,
    Method,
    ReferenceInputs,
    ReferenceOutputs,
    Settings,
    Supervision,
)
from replication.networks.key_maps import load_released, trunk_keys
from replication.networks.query_stream import (
    PatchProjection,
    QuerySettings,
    QueryStream,
    Questions,
    StreamOutput,
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

EXCLUDED = ("pneumonia", "infiltrate", "mass", "nodule", "emphysema", "thicken", "hernia")
"""Pathologies that the released option ``exclude_class`` leaves out of training."""

_MODULES = {
    "disease_embedding_layer": "queries",
    "cl_fc": "stream.contrast",
    "res_l1": "patches.hidden",
    "res_l2": "patches.output",
    "decoder.layers": "stream.decoder.layers",
    "decoder.norm": "norm",
    "classifier": "stream.classifier",
}
"""Released module -> our module, apart from the trunk."""


class MedKLIPSettings(QuerySettings):
    """Settings of MedKLIP: defaults are corrected values, the recipe ``published`` sets the faithful ones.

    Attributes:
        position_weight: of the position loss; 0 leaves it out (released option ``no_cl``).
        positive: the anatomy a present finding is drawn to: one of its anatomies ``random``ly (released
            code, audit K12), or the mean of all (``prototype``, as MeDSLIP does).
        negatives, negatives_per_query: which anatomies it is pushed from (audit K13).
        exclude_classes: leave ``EXCLUDED`` out of training (released option ``exclude_class``).
        fibrosis: score a finding of the catch-all class by that class (``tail``, released code, audit K23)
            or by a query made from its own text.
        relation_with_existence: add the finding's own log-probability to that of its anatomy.
        empty_batch: the loss of a batch with nothing to learn from; the released code gives NaN.
    """

    position_weight: float = 1.0
    positive: Literal["random", "prototype"] = "prototype"
    negatives: NegativeRule = "absent_only_then_unmentioned"
    negatives_per_query: int = 7
    exclude_classes: bool = False
    fibrosis: Literal["tail", "own_prompt"] = "own_prompt"
    relation_with_existence: bool = True
    empty_batch: Literal["zero", "nan"] = "zero"


class MedKLIP(Method):
    """Text queries of 75 pathologies decode patches; existence and position are the two losses."""

    name: ClassVar[str] = "medklip"
    supervision: ClassVar[Supervision] = "triplets"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = MedKLIPSettings

    trained: Tensor

    def __init__(self, settings: MedKLIPSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = settings
        self.trunk = ingredients.trunk
        encoder, book = ingredients.text_encoder, settings.book
        self.pathology_book = TextBook(ingredients.descriptions, encoder, book)
        self.anatomy_book = TextBook(anatomy_texts(book, "medklip"), encoder, book)
        text_width = self.pathology_book.width
        self.patches = PatchProjection(self.trunk.channels, settings.d_model)
        self.queries = nn.Linear(text_width, settings.d_model)
        self.stream = QueryStream(text_width, settings, contrastive=settings.position_weight != 0)
        self.norm = nn.LayerNorm(settings.d_model)
        kept = [not (settings.exclude_classes and name in EXCLUDED) for name in PATHOLOGIES]
        self.register_buffer("trained", torch.tensor(kept).nonzero().flatten(), persistent=False)
        initialise(self, settings.initialisation)

    def loss(self, batch: Batch) -> Losses:
        """Existence + position loss on one batch."""
        options, draws = self.settings, batch.draws()
        book, cells = self.pathology_book.features, batch.triplets.transpose(1, 2)
        if options.exclude_classes:
            book, cells = book[self.trained], cells[:, self.trained]
        answer, _ = self._answer(batch.images, book)
        if options.position_weight == 0:
            return self._losses(answer, cells, None, None)
        positive = sample_positive(cells, draws) if options.positive == "random" else None
        negatives = sample_negatives(cells, options.negatives_per_query, options.negatives, draws)
        return self._losses(answer, cells, positive, negatives)

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Probability that a finding is present; the log-score of the relation where an anatomy is asked for.

        See ``finding_scores``. The released code scores no relations.
        """
        questions = self._questions(findings)
        answer, _ = self._answer(images, questions.texts, questions.mask)
        log_present = answer.logits.float().log_softmax(dim=-1)[..., 1]
        similarities = None
        if self.settings.position_weight != 0 and any(finding.anatomy for finding in findings):
            similarities = self.stream.similarities(answer.features, self.anatomy_book.for_scores)
        with_existence = self.settings.relation_with_existence
        return finding_scores(
            log_present, similarities, findings, questions.index, with_existence=with_existence
        )

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Cross-attention of the finding's query, averaged over layers and heads; no anatomy changes it."""
        questions = self._questions(findings)
        answer, grid = self._answer(images, questions.texts, questions.mask, want_maps=True)
        maps = answer.mean_attention[:, questions.index]
        return maps.reshape(*maps.shape[:2], *grid)

    def load_released(self, path: Path) -> ImportReport:
        """Load a pre-training checkpoint of the authors; see ``Method.load_released``."""
        ours = self.state_dict()
        books = [key for key in ours if key.startswith(("pathology_book.", "anatomy_book."))]
        return load_released(self, path, released_keys(set(ours) - set(books)), derived=books)

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """Losses, logits and attention on given books, positives (slot 0) and negatives."""
        self.anatomy_book.replace(inputs.anatomy_book)
        self.pathology_book.replace(inputs.pathology_book)
        answer, _ = self._answer(inputs.images, self.pathology_book.features, want_maps=True)
        index = inputs.index_pathology.long()
        negatives = (index[..., 1:], torch.ones_like(index[..., 1:], dtype=torch.bool))
        # Slot 0 of a query without a present anatomy is never used; clamping keeps it a valid index.
        parts = self._losses(answer, inputs.triplets.transpose(1, 2), index[..., 0].clamp_min(0), negatives)
        return ReferenceOutputs(parts, {"logits": answer.logits, "attention": answer.maps})

    def _answer(
        self, images: Tensor, texts: Tensor, mask: Tensor | None = None, *, want_maps: bool = False
    ) -> tuple[StreamOutput, tuple[int, int]]:
        """The stream's answer on images ``[B, 3, H, W]`` to texts ``[N, D]``, and the grid of the patches."""
        patches, grid = as_tokens(self.trunk(images))
        memory = self.patches(patches)
        return self.stream(self.queries(texts), memory, self.norm, mask=mask, want_maps=want_maps), grid

    def _losses(
        self,
        answer: StreamOutput,
        cells: Tensor,
        positive: Tensor | None,
        negatives: tuple[Tensor, Tensor] | None,
    ) -> Losses:
        """Losses for cells ``[B, Q, 51]``; ``positive`` ``[B, Q]`` is ``None`` for the prototype."""
        empty = 0.0 if self.settings.empty_batch == "zero" else float("nan")
        labels = existence_labels(cells)
        parts = {"exist": existence_loss(answer.logits, labels, empty=empty)}
        total = parts["exist"]
        if negatives is not None:
            similarities = self.stream.similarities(answer.dropped, self.anatomy_book.features)
            parts["position"] = position_loss(similarities, cells, positive, *negatives, empty=empty)
            total = total + self.settings.position_weight * parts["position"]
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def _questions(self, findings: Sequence[Finding]) -> Questions:
        return Questions.about(findings, self.pathology_book, tail=self.settings.fibrosis == "tail")


def released_keys(ours: Iterable[str]) -> dict[str, str]:
    """Released key -> our key for a model with our keys ``ours``; books are not in released checkpoints."""
    own = set(ours)
    keys = trunk_keys(key for key in own if key.startswith("trunk."))
    for theirs, mine in _MODULES.items():
        keys |= {theirs + key.removeprefix(mine): key for key in own if key.startswith(f"{mine}.")}
    return keys
