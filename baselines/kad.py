"""KAD: names of diseases, through a knowing text encoder, ask a radiograph (Nature Communications 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from replication.knowledge.prompts import prompt_set, prompts
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_phrase, pathology_index
from replication.method import (
    Batch,
    CannotAnswer,
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
from replication.networks.key_maps import load_released, trunk_keys
from replication.networks.losses import info_nce
from replication.networks.query_stream import (
    DecoderSettings,
    PatchProjection,
    QueryStream,
    StreamOutput,
    as_tokens,
    initialise,
)
from replication.networks.report_scores import vector_scorer
from replication.networks.text_tower import TextTower
from replication.networks.triplet_losses import existence_labels, existence_loss

QUERIES: dict[str, str] = prompt_set("kad")["queries"]
"""The 41 names that training asks with, and the class of the vocabulary that labels each."""

_NAMED = PATHOLOGIES[:-2]
"""Classes that are words of a report; the last two are collections."""

_ENTRIES = ("model", "image_encoder", "text_encoder")
_MODULES = {
    "image_encoder.res_l1": "patches.hidden",
    "image_encoder.res_l2": "patches.output",
    "model.decoder.layers": "stream.decoder.layers",
    "model.decoder.norm": "norm",
    "model.decoder_norm": "norm",
    "model.mlp_head.0": "stream.classifier",
    "text_encoder.bert_model": "text.encoder.model",
    "text_encoder.bert_model.pooler.dense": "pooler",
    "text_encoder.mlp_embed": "text_head",
}
"""Released module, with the entry of the file it is in -> our module, apart from the trunk."""

_UNUSED = {
    "model.logit_scale": "a parameter that the released code never uses",
    "text_encoder.logit_scale": "the temperature of the text encoder's own pre-training",
    "text_encoder.bert_model.embeddings.position_ids": "a constant of older versions of transformers",
    "image_encoder.resnet.fc.": "the classifier of the ImageNet network, which is not called",
    "image_encoder.resnet.layer4.": "a stage that the 224-pixel model does not call",
}


class KADSettings(DecoderSettings):
    """Settings of KAD: defaults are corrected values, the recipe ``published`` sets the faithful ones.

    Attributes:
        text_pooling: ``pooler`` is a linear layer with tanh on ``[CLS]``, as in BERT (released code).
        centre_texts: subtract the mean of the queries' pooled features from all texts'.
        max_length: tokens of a text; fewer where the encoder has fewer positions.
        frozen_share: share of the text encoder's layers that stay frozen, from below; 1 is all of it.
        frozen_dropout: keep dropout in a frozen text encoder during training (released code, audit A12).
        text_unit: an image's text is a string of its ``entities`` or its whole ``report``; a report stands
            in for missing entities.
        entity_blank: a blank between an entity and its label (audit A11).
        text_branch: the text, too, is asked for the diseases (released option ``use_entity_features``).
        unmentioned: what is not mentioned is ``ignored`` or counts as ``absent`` (released code, audit A6).
        existence_weight: of both existence losses (released option ``loss_ratio``).
        normalise, contrast_scale, temperature: the contrastive loss compares unit vectors or the features as
            they are, times 1 / temperature (``exp``) or its logarithm (``log``; both audit A9).
        share_norm: one layer normalisation for patches, queries and the decoder's end (audit A10).
        questions: zero-shot evaluation asks for all ``trained`` queries, a finding of which is scored by its
            own, any other by a name that they do not look at; or only for what is ``asked``, as the released
            test scripts do, where the names of a test set look at each other.
    """

    d_model: int = 768
    text_pooling: Literal["pooler", "cls", "mean"] = "pooler"
    centre_texts: bool = False
    max_length: int = 256
    frozen_share: float = 1.0
    frozen_dropout: bool = False
    text_unit: Literal["entities", "report"] = "entities"
    entity_blank: bool = True
    text_branch: bool = True
    unmentioned: Literal["ignored", "absent"] = "ignored"
    existence_weight: float = 1.0
    normalise: bool = True
    contrast_scale: Literal["exp", "log"] = "exp"
    temperature: float = 0.07
    share_norm: bool = False
    questions: Literal["trained", "asked"] = "trained"


class KAD(Method):
    """Names of diseases decode patches and report texts alike; images and texts are contrasted, too."""

    name: ClassVar[str] = "kad"
    supervision: ClassVar[Supervision] = "triplets"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = KADSettings

    classes: Tensor
    text_centre: Tensor

    def __init__(self, settings: KADSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = settings
        self.trunk = ingredients.trunk
        width, pooler = settings.d_model, settings.text_pooling == "pooler"
        self.text = TextTower(
            ingredients.text_encoder,
            frozen_share=settings.frozen_share,
            pooling="mean" if settings.text_pooling == "mean" else "cls",
            max_length=min(settings.max_length, getattr(ingredients.text_encoder, "longest", 256)),
        )
        self.pooler = nn.Linear(self.text.width, self.text.width) if pooler else None
        self.text_head = nn.Sequential(nn.Linear(self.text.width, width), nn.GELU(), nn.Linear(width, width))
        self.patches = PatchProjection(self.trunk.channels, width)
        self.stream = QueryStream(width, settings, contrastive=False)
        self.norm = nn.LayerNorm(width)
        self.query_norm = None if settings.share_norm else nn.LayerNorm(width)
        self.memory_norm = None if settings.share_norm else nn.LayerNorm(width)
        self._initialise()
        classes = [pathology_index(label) for label in QUERIES.values()]
        self.register_buffer("classes", torch.tensor(classes), persistent=False)
        centre = torch.zeros(self.text.width)
        if settings.centre_texts:
            with torch.no_grad():
                centre = self.text(self.text.tokenize(list(QUERIES))).mean(dim=0)
        self.register_buffer("text_centre", centre)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen text encoder stays in evaluation mode unless ``frozen_dropout``."""
        super().train(mode)
        if self.settings.frozen_share == 1 and not self.settings.frozen_dropout:
            self.text.eval()
        return self

    def loss(self, batch: Batch) -> Losses:
        """Existence by image and by text + contrastive loss; the last two leave out images without a text."""
        options, texts = self.settings, self._texts(batch)
        given = torch.tensor([bool(text) for text in texts]).to(batch.images.device, non_blocking=True)
        labels = existence_labels(batch.triplets.transpose(1, 2)[:, self.classes])
        if options.unmentioned == "absent":
            labels = labels.clamp_min(0)
        memory, _ = self._memory(batch.images)
        queries, features = self.text_features(list(QUERIES)), self.text_features(texts)
        parts = {"exist_image": existence_loss(self._ask(queries, memory).logits, labels)}
        if options.text_branch:
            logits = self._ask(queries, features.unsqueeze(1)).logits
            parts["exist_text"] = existence_loss(logits, labels.masked_fill(~given.unsqueeze(-1), -1))
        exist = torch.stack(list(parts.values())).sum()
        temperature = options.temperature
        parts["contrastive"] = info_nce(
            memory.mean(dim=1),
            features,
            temperature=temperature if options.contrast_scale == "exp" else 1 / math.log(1 / temperature),
            keep=given,
            normalise=options.normalise,
        )
        total = options.existence_weight * exist + parts["contrastive"]
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Probability that a finding is present; a place is part of the name that is asked for."""
        names, mask, index = self._questions(findings)
        memory, _ = self._memory(images)
        answer = self._ask(self.text_features(names), memory, mask=mask)
        return answer.logits.float().softmax(dim=-1)[:, index, 1]

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Cross-attention of the finding's query in the last layer, averaged over heads."""
        names, mask, index = self._questions(findings)
        memory, grid = self._memory(images)
        answer = self._ask(self.text_features(names), memory, mask=mask, want_maps=True)
        return answer.maps[-1][:, index].float().reshape(len(images), len(index), *grid)

    def report_scorer(self, reports: Sequence[str]) -> ReportScorer:
        """The mean patch against the report, as in the contrastive loss.

        Raises:
            CannotAnswer: the contrast is with strings of entities, which are not reports.
        """
        if self.settings.text_unit != "report":
            raise CannotAnswer(
                "This variant of kad compares images with strings of entities, not with reports."
            )
        return vector_scorer(
            lambda images: self._memory(images)[0].mean(dim=1),
            lambda some: self.text_features([report.strip() for report in some]),
            reports,
            normalise=self.settings.normalise,
        )

    def load_released(self, path: Path) -> ImportReport:
        """Load a checkpoint of the authors (three state_dicts in one file); see ``Method.load_released``.

        It fits a model of the released structure: ``share_norm``, ``text_pooling: pooler``.
        """
        keys = released_keys(set(self.state_dict()) - {"text_centre"})
        return load_released(self, path, keys, ["text_centre"], unused=_UNUSED, entries=_ENTRIES)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts -> ``[N, d]``, not normalised."""
        pooled = self.text(self.text.tokenize(texts)) - self.text_centre
        if self.pooler is not None:
            pooled = torch.tanh(self.pooler(pooled))
        features: Tensor = self.text_head(pooled)
        return features

    def _memory(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images ``[B, 3, H, W]`` -> projected patches ``[B, K, d]``, and their grid."""
        patches, grid = as_tokens(self.trunk(images))
        return self.patches(patches), grid

    def _ask(
        self, queries: Tensor, memory: Tensor, *, mask: Tensor | None = None, want_maps: bool = False
    ) -> StreamOutput:
        """What queries ``[Q, d]`` find in a memory ``[B, K, d]`` of patches, or of one text (K = 1)."""
        asked = (self.query_norm or self.norm)(queries)
        seen = (self.memory_norm or self.norm)(memory)
        answer: StreamOutput = self.stream(asked, seen, self.norm, mask=mask, want_maps=want_maps)
        return answer

    def _questions(self, findings: Sequence[Finding]) -> tuple[list[str], Tensor | None, list[int]]:
        """The N names to ask for, who may look at whom ``[N, N]``, and the position of each finding."""
        asked = [prompts(finding, "present", "kad")[0] for finding in findings]
        if self.settings.questions == "asked":
            return asked, None, list(range(len(asked)))
        names, index, trained = list(QUERIES), [], list(QUERIES.values())
        for finding, name in zip(findings, asked, strict=True):
            if finding.anatomy is None and finding.pathology in trained:
                index.append(trained.index(finding.pathology))
            else:
                index.append(len(names))
                names.append(name)
        mask = torch.eye(len(names), dtype=torch.bool, device=self.text_centre.device)
        mask[:, : len(QUERIES)] = True
        return names, mask, index

    def _texts(self, batch: Batch) -> list[str]:
        """One text for each image; empty where there is neither an entity nor a report."""
        reports = [report.strip() for report in batch.reports]
        if self.settings.text_unit == "report":
            return reports
        # Strings are made on the host, so this is the one place where a step waits for the device.
        entities = entity_texts(batch.triplets.cpu(), blank=self.settings.entity_blank)
        return [text or report for text, report in zip(entities, reports, strict=True)]

    def _initialise(self) -> None:
        scheme = self.settings.initialisation
        initialise(self.stream, scheme)
        if scheme == "xavier":
            for part in (self.patches, self.text_head, self.pooler):
                if part is not None:
                    initialise(part, scheme)
        else:
            for layer in self.text_head:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


def entity_texts(cells: Tensor, *, blank: bool) -> list[str]:
    """Triplets ``[B, 51, 75]`` on the host -> B strings of labelled entities; empty where there is none.

    One part for each anatomy: the anatomy itself (left out where it is unspecified), then what was stated or
    denied there, each entity after ``[ENT]`` and before its RadGraph label, and ``[SEP]`` at the end.

    Args:
        blank: between an entity and its label; the released code has none.
    """
    gap = " " if blank else ""
    texts = [""] * len(cells)
    mentioned = (cells[..., : len(_NAMED)] >= 0).nonzero().tolist()
    for (image, anatomy), group in groupby(mentioned, key=lambda cell: cell[:2]):
        if ANATOMIES[anatomy] not in ("unspecified", "other"):
            texts[image] += f" [ENT] {anatomy_phrase(ANATOMIES[anatomy])}{gap}Anatomy Definitely Present"
        for _, _, pathology in group:
            state = "Present" if cells[image, anatomy, pathology] == 1 else "Absent"
            texts[image] += f" [ENT] {_NAMED[pathology]}{gap}Observation Definitely {state}"
        texts[image] += " [SEP] "
    return texts


def released_keys(ours: Iterable[str]) -> dict[str, str]:
    """Released key, with its entry -> our key; the released image encoder holds its trunk under two names."""
    own = set(ours)
    trunk = [key for key in own if key.startswith("trunk.")]
    keys = trunk_keys(trunk, "image_encoder.res_features.")
    keys |= {f"image_encoder.resnet.{key.removeprefix('trunk.')}": key for key in trunk}
    for theirs, mine in _MODULES.items():
        keys |= {theirs + key.removeprefix(mine): key for key in own if key.startswith(f"{mine}.")}
    return keys
