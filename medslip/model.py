"""MeDSLIP: two text-queried streams over disentangled patches of one radiograph (arXiv 2403.10635)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from medslip import losses
from medslip.released import released_keys
from medslip.settings import GroundingSettings, MeDSLIPSettings
from replication.knowledge.vocabulary import NORMAL_PATHOLOGIES, anatomy_index
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
from replication.networks.key_maps import load_released
from replication.networks.query_stream import (
    PatchProjection,
    QueryStream,
    Questions,
    StreamOutput,
    as_tokens,
    initialise,
)
from replication.networks.text_book import TextBook, anatomy_texts
from replication.networks.triplet_losses import existence_labels, existence_loss, sample_negatives

Negatives = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Answer:
    """Both streams' answers, the patch memories ``[B, K, d]`` by stream, and the grid of the patches."""

    pathology: StreamOutput
    anatomy: StreamOutput | None
    patches: dict[str, Tensor]
    grid: tuple[int, int]

    @property
    def anatomies(self) -> StreamOutput:
        """The anatomy stream's answer, where it has been asked for."""
        if self.anatomy is None:
            raise ValueError("the anatomy stream was not asked")
        return self.anatomy


class MeDSLIP(Method):
    """Two streams of text queries over gated patches, with the audit's switches (``MeDSLIPSettings``)."""

    name: ClassVar[str] = "medslip"
    supervision: ClassVar[Supervision] = "triplets"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = MeDSLIPSettings

    def __init__(self, settings: MeDSLIPSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = settings
        self.trunk = ingredients.trunk
        channels, width, alpha = self.trunk.channels, settings.d_model, settings.loss.alpha
        encoder, book = ingredients.text_encoder, settings.book
        self.pathology_book = TextBook(ingredients.descriptions, encoder, book)
        self.anatomy_book = TextBook(anatomy_texts(book, "medslip"), encoder, book)
        text_width = self.pathology_book.width
        self.gate = None if settings.gate == "absent" else nn.Linear(channels, channels)
        self.pathology_patches = PatchProjection(channels, width)
        self.anatomy_patches = None if settings.streams == "shared" else PatchProjection(channels, width)
        self.pathology_queries = nn.Linear(text_width, width)
        self.anatomy_queries = None if settings.share_query_projection else nn.Linear(text_width, width)
        self.pathology = QueryStream(text_width, settings, contrastive=alpha != 0)
        self.anatomy = QueryStream(text_width, settings, contrastive=alpha != 0)
        self.pathology_norm = nn.LayerNorm(width)
        self.anatomy_norm = None if settings.share_decoder_norm else nn.LayerNorm(width)
        self.icl_scale = 1.0 if settings.loss.icl_scale == "one" else width**-0.5
        initialise(self, settings.initialisation)

    def loss(self, batch: Batch) -> Losses:
        """Existence (both streams) + alpha ProtoCL (both streams) + beta ICL on one batch."""
        cells, options = batch.triplets, self.settings.loss
        draws, count = batch.draws(), options.negatives_per_query
        negatives = None
        if options.alpha != 0:
            negatives = (
                sample_negatives(cells.transpose(1, 2), count, options.negatives, draws),
                sample_negatives(cells, count, options.negatives, draws),
            )
        result = self._losses(self._answer(batch.images), cells, negatives)
        if options.mutate_matrix:
            cells.clamp_(min=0)
        return result

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Probability that a finding is present; the log-score of the relation where an anatomy is asked for.

        A relation's score is ``log sigmoid(ICL logit)`` plus the log-probability of the finding: logarithms
        rank as probabilities do, without the ties that rounding to one would make.
        """
        questions = self._questions(findings)
        answer = self._answer(images, questions, both=any(finding.anatomy for finding in findings))
        log_present = answer.pathology.logits.float().log_softmax(dim=-1)[..., 1]
        scores = log_present[:, questions.index].exp()
        asked = [number for number, finding in enumerate(findings) if finding.anatomy]
        if asked and self.settings.relation != "none":
            pathologies = [questions.index[number] for number in asked]
            anatomies = [anatomy_index(findings[number].anatomy or "") for number in asked]
            relation = self._log_relation(answer)[:, anatomies, pathologies]
            if self.settings.relation_with_existence:
                relation = relation + log_present[:, pathologies]
            scores[:, asked] = relation
        return scores

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Cross-attention of the finding's query, averaged over layers and heads (``GroundingSettings``)."""
        options = self.settings.grounding
        anatomies = [finding.anatomy for finding in findings]
        both = options.anatomy_attention == "all" or (options.anatomy_attention == "asked" and any(anatomies))
        questions = self._questions(findings)
        answer = self._answer(images, questions, both=both, want_maps=True, grounding=options)
        maps = answer.pathology.mean_attention[:, questions.index]
        if both:
            where = answer.anatomies.mean_attention
            if options.anatomy_attention == "all":
                maps = maps * where.mean(dim=1, keepdim=True)
            else:
                asked = [number for number, name in enumerate(anatomies) if name]
                maps[:, asked] *= where[:, [anatomy_index(name) for name in anatomies if name]]
        if options.normalise == "image_max":
            maps = maps / maps.amax(dim=-1, keepdim=True)
        elif options.normalise == "batch_max":
            maps = maps / maps.amax(dim=(0, 2), keepdim=True)
        return maps.reshape(*maps.shape[:2], *answer.grid)

    def streams(self, images: Tensor) -> dict[str, Tensor]:
        """Gated and projected patches as the decoder of either stream sees them, and the trunk's before."""
        maps = self.trunk(images)
        patches, grid = self._patches(maps, None)
        memories = {
            name: memory.transpose(1, 2).reshape(len(maps), -1, *grid) for name, memory in patches.items()
        }
        return {**memories, "trunk": maps}

    def load_released(self, path: Path) -> ImportReport:
        """Load a pre-training checkpoint of the authors; see ``Method.load_released``.

        It fits a model with the released structure: a gate, two streams, one query projection for both books.
        """
        ours = self.state_dict()
        books = [key for key in ours if key.startswith(("pathology_book.", "anatomy_book."))]
        return load_released(self, path, released_keys(set(ours) - set(books)), derived=books)

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """Losses, logits, attention and patch memories of both streams on given books and negatives."""
        self.anatomy_book.replace(inputs.anatomy_book)
        self.pathology_book.replace(inputs.pathology_book)
        answer = self._answer(inputs.images, want_maps=True)
        indices = [index[..., 1:].long() for index in (inputs.index_pathology, inputs.index_anatomy)]
        every = [torch.ones_like(index, dtype=torch.bool) for index in indices]
        parts = self._losses(answer, inputs.triplets, ((indices[0], every[0]), (indices[1], every[1])))
        tensors = {}
        for name, stream in (("pathology", answer.pathology), ("anatomy", answer.anatomies)):
            tensors[f"logits_{name}"] = stream.logits
            tensors[f"attention_{name}"] = stream.maps
            tensors[f"patches_{name}"] = answer.patches[name]
        return ReferenceOutputs(parts, tensors)

    def _answer(
        self,
        images: Tensor,
        questions: Questions | None = None,
        *,
        both: bool = True,
        want_maps: bool = False,
        grounding: GroundingSettings | None = None,
    ) -> Answer:
        """Both streams' answers on images ``[B, 3, H, W]``.

        Args:
            questions: what is asked in evaluation; ``None`` asks for the books as in pre-training.
            both: whether the anatomy stream is needed. grounding: the heat maps' deviations, if any.
        """
        patches, grid = self._patches(self.trunk(images), grounding)
        of_pathologies = self.pathology_queries
        of_anatomies = self.anatomy_queries or self.pathology_queries
        if grounding is not None and grounding.query_projection == "random":
            of_pathologies = of_anatomies = self._random_projection(grounding.query_seed)
        texts, mask = self.pathology_book.features, None
        anatomies = self.anatomy_book.features
        if questions is not None:
            texts, mask = questions.texts, questions.mask
            anatomies = self.anatomy_book.for_scores
        pathology = self.pathology(
            of_pathologies(texts), patches["pathology"], self.pathology_norm, mask=mask, want_maps=want_maps
        )
        anatomy = None
        if both:
            norm = self.anatomy_norm or self.pathology_norm
            anatomy = self.anatomy(of_anatomies(anatomies), patches["anatomy"], norm, want_maps=want_maps)
        return Answer(pathology, anatomy, patches, grid)

    def _patches(
        self, maps: Tensor, grounding: GroundingSettings | None
    ) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Maps ``[B, C, h, w]`` -> patch memories ``[B, K, d]`` of the two streams, and their grid."""
        patches, grid = as_tokens(maps)
        pathology = anatomy = patches
        if self.gate is not None:
            gate = self.gate(patches)
            if self.settings.gate == "sigmoid":
                gate = gate.sigmoid()
            pathology = gate * patches
            anatomy = patches - pathology
            if grounding is not None and grounding.mask_mode == "mask_only":
                pathology = anatomy = gate
        of_anatomy = self.anatomy_patches or self.pathology_patches
        return {"pathology": self.pathology_patches(pathology), "anatomy": of_anatomy(anatomy)}, grid

    def _losses(self, answer: Answer, cells: Tensor, negatives: tuple[Negatives, Negatives] | None) -> Losses:
        """Losses for given negatives (of the pathology and of the anatomy stream)."""
        options = self.settings.loss
        empty = 0.0 if options.empty_batch == "zero" else float("nan")
        pathology, anatomy = answer.pathology, answer.anatomies
        transposed = cells.transpose(1, 2)
        abnormal = cells[..., len(NORMAL_PATHOLOGIES) : -1]
        said = cells if options.anatomy_positive == "any" else abnormal
        parts = {
            "exist_pathology": existence_loss(pathology.logits, existence_labels(transposed), empty=empty),
            "exist_anatomy": existence_loss(anatomy.logits, existence_labels(said), empty=empty),
        }
        total = parts["exist_pathology"] + parts["exist_anatomy"]
        if negatives is not None:
            of_pathology = self.pathology.similarities(pathology.dropped, self.anatomy_book.features)
            of_anatomy = self.anatomy.similarities(anatomy.dropped, self.pathology_book.features)
            parts["protocl_pathology"] = losses.protocl(of_pathology, transposed, *negatives[0], empty=empty)
            parts["protocl_anatomy"] = losses.protocl(of_anatomy, cells, *negatives[1], empty=empty)
            total = total + options.alpha * (parts["protocl_pathology"] + parts["protocl_anatomy"])
        if options.beta != 0:
            logits = losses.icl_logits(anatomy.features, pathology.features, self.icl_scale)
            parts["icl"] = losses.icl(logits, cells, empty=empty)
            total = total + options.beta * parts["icl"]
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def _log_relation(self, answer: Answer) -> Tensor:
        """Log-score ``[B, 51, N]`` of each anatomy with each asked finding."""
        if self.settings.relation == "protocl":
            book = self.anatomy_book.for_scores
            similarities = self.pathology.similarities(answer.pathology.features, book)
            return similarities.log_softmax(dim=-1).transpose(1, 2)
        logits = losses.icl_logits(answer.anatomies.features, answer.pathology.features, self.icl_scale)
        return functional.logsigmoid(logits)

    def _questions(self, findings: Sequence[Finding]) -> Questions:
        return Questions.about(findings, self.pathology_book, tail=self.settings.fibrosis == "tail")

    def _random_projection(self, seed: int) -> nn.Linear:
        """A query projection as the released initialisation draws it, from a seed of its own (audit G1)."""
        old = self.pathology_queries
        generator = torch.Generator().manual_seed(seed)
        bound = old.in_features**-0.5
        with torch.random.fork_rng(devices=[]):
            projection = nn.Linear(old.in_features, old.out_features)
        nn.init.normal_(projection.weight, std=0.02, generator=generator)
        nn.init.uniform_(projection.bias, -bound, bound, generator=generator)
        return projection.to(old.weight.device)
