"""BioViL: chest radiographs and CXR-BERT (Boecking et al., ECCV 2022), with a reconstructed trainer.

The authors released inference code and weights, no training code. Networks, prompts, scores and heat maps are
those of the released code; losses and their constants are the suite's reconstruction of the paper.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from replication.draws import Draws
from replication.errors import CheckpointError
from replication.knowledge.report_sections import sections_of
from replication.knowledge.text_encoder import Tokens, cls_pool
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
from replication.networks.distributed import processes
from replication.networks.input_range import renormalise
from replication.networks.key_maps import load_strictly, module_keys, read_state
from replication.networks.losses import info_nce
from replication.networks.masked_words import MaskedWordHead, mask_words, masked_word_loss, word_embeddings
from replication.networks.prompt_scores import PromptMethod, PromptSettings
from replication.networks.smoothing import smooth
from replication.networks.text_tower import TextTower
from replication.networks.vit_pooler import TemporalFusion
from replication.networks.word_regions import Temperatures, local_losses

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MODULES = {
    "encoder.encoder": "trunk",
    "encoder": "temporal",
    "projector.model": "projector",
    "bert": "text.encoder.model",
    "cls.predictions": "mlm",
    "cls_projection_head": "cls_projection_head",
}
_TIED = {
    "cls.predictions.decoder.weight": "text.encoder.model.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "mlm.bias",
}
_TEXT_FILES = ("model.safetensors", "pytorch_model.bin")
_UNUSED = {
    "encoder.encoder.fc.": "the ImageNet classifier of the ResNet is not used",
    "bert.pooler.": "the pooled output of BERT is not used",
    "bert.embeddings.position_ids": "a constant of old versions of the library",
}
_WITHOUT_MASKED_WORDS = {"cls.predictions.": "the head for masked words is not part of this variant"}


class BioViLSettings(PromptSettings):
    """Settings of BioViL; temperatures and weights are the reconstruction's.

    Attributes:
        projection_dim: of the joint space.
        temperature: tau2 of images and texts. section_temperature: tau1 of findings and impression.
        section_weight: of the contrast of the two sections of a report (phase III of CXR-BERT, trained here
            beside the images). mlm_weight: of masked words. local_weight: of words and regions (BioViL-L).
        mlm_share: of a batch's texts that are read a second time with masks; the loss of masked words is a
            mean, so less than all is an estimate of it at less cost.
        max_length: tokens of a text; ``None`` is as many as the text encoder takes.
        text_unit: the ``impression``, else the findings, else all of a report; or always all of it.
        shuffle_sentences: a text's sentences change their order at each access.
        input: grey values in 0..1 as in the ``released`` code, or normalised as everywhere in the ``suite``.
        temporal: BioViL-T's image branch. The suite has no previous images, so its transformer stays frozen.
        smoothing: deviation, in cells, of the Gaussian that heat maps are smoothed with; 0 leaves it out.
    """

    projection_dim: int = 128
    temperature: float = 0.5
    section_temperature: float = 0.5
    section_weight: float = 1.0
    mlm_weight: float = 0.1
    mlm_share: float = Field(1.0, gt=0, le=1)
    local_weight: float = 0.0
    max_length: int | None = 128
    text_unit: Literal["impression", "report"] = "impression"
    shuffle_sentences: bool = False
    input: Literal["suite", "released"] = "suite"
    temporal: bool = False
    smoothing: float = 1.5
    ensemble: Literal["unit", "raw"] = "raw"


class BioViL(PromptMethod):
    """A trunk whose cells are projected and then averaged, and a BERT read at ``[CLS]``.

    The trainer is the suite's reconstruction: a contrast of images and texts and one of the two sections of a
    report, and masked words. No training code was released.
    """

    name: ClassVar[str] = "biovil"
    supervision: ClassVar[Supervision] = "report"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = BioViLSettings

    def __init__(self, settings: BioViLSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = self.prompt_settings = settings
        self.trunk = ingredients.trunk
        channels = self.trunk.channels
        self.temporal: TemporalFusion | None = None
        if settings.temporal:
            self.temporal = TemporalFusion(channels)
            self.temporal.vit_pooler.requires_grad_(False)
            channels = self.temporal.channels
        self.projector = image_projector(channels, settings.projection_dim)
        self.text = TextTower(
            ingredients.text_encoder, frozen_share=0.0, pooling="cls", max_length=settings.max_length or 0
        )
        self.text.max_length = settings.max_length or self.text.encoder.longest
        self.cls_projection_head = TextProjection(self.text.width, settings.projection_dim)
        self.mlm: MaskedWordHead | None = None
        if settings.mlm_weight:
            self.mlm = MaskedWordHead(self.text.width, len(word_embeddings(self.text.encoder)))

    def loss(self, batch: Batch) -> Losses:
        """Images and texts, the two sections, masked words; reports without a text do not count."""
        chosen, draws = self.settings, batch.draws()
        device = batch.images.device
        orders = draws.generators("order")
        texts = [self._texts(report, each) for report, each in zip(batch.reports, orders, strict=True)]
        given = torch.tensor([bool(text.image) for text in texts]).to(device, non_blocking=True)
        maps = self.projected(batch.images)
        tokens, states, parts = self._read([text.image for text in texts], draws)
        features = self.cls_projection_head(cls_pool(states))
        parts["global"] = info_nce(
            maps.mean(dim=(2, 3)), features, temperature=chosen.temperature, keep=given
        )
        if chosen.section_weight:
            both = torch.tensor([bool(text.section) for text in texts]).to(device, non_blocking=True)
            sections = self._text_features([text.section for text in texts])
            parts["sections"] = info_nce(
                sections, features, temperature=chosen.section_temperature, keep=both
            )
        if chosen.local_weight:
            parts["local"] = self._local_loss(maps, states, tokens, given)
        weights = {
            "masked_words": chosen.mlm_weight,
            "sections": chosen.section_weight,
            "local": chosen.local_weight,
        }
        total = sum(
            (weights.get(name, 1.0) * value for name, value in parts.items()), torch.zeros(()).to(device)
        )
        return Losses(total, {name: value.detach() for name, value in parts.items()})

    def projected(self, images: Tensor, previous: Tensor | None = None) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D, h, w]``, not normalised; ``previous`` images need ``temporal``."""
        maps = self._maps(images)
        if self.temporal is not None:
            maps = self.temporal(maps, None if previous is None else self._maps(previous))
        elif previous is not None:
            raise ValueError("previous images need the setting temporal")
        answer: Tensor = self.projector(maps)
        return answer

    def image_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D]``: cells are projected first and averaged then."""
        return self.projected(images).mean(dim=(2, 3))

    def cell_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, h, w, D]``."""
        return self.projected(images).movedim(1, -1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N prompts -> ``[N, D]``; blanks and marks at their end are taken off, as in the released code."""
        return self._text_features([text.rstrip(" !?.") for text in texts])

    def report_features(self, reports: Sequence[str]) -> Tensor:
        """N whole reports -> ``[N, D]``: of the part of each that is compared with images in training."""
        return self._text_features([self._texts(report).image for report in reports])

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Cosine of each cell with the positive prompts, smoothed: ``[B, F, h, w]``."""
        units = functional.normalize(self.cell_features(images).float(), dim=-1)
        maps = (units @ self._prompt_directions(findings, "present").T).movedim(-1, 1)
        return smooth(maps, self.settings.smoothing)

    def load_released(self, path: Path) -> ImportReport:
        """Load a released image checkpoint, and the text model that lies beside it.

        Args:
            path: ``biovil_image_resnet50_proj_size_128.pt``, or BioViL-T's with ``temporal``. Its folder must
                also hold the files of the CXR-BERT that belongs to it (``model.safetensors`` or
                ``pytorch_model.bin``).

        Raises:
            CheckpointError: either file is missing, or see ``Method.load_released``; nothing is loaded then.
        """
        text = next((path.parent / name for name in _TEXT_FILES if (path.parent / name).is_file()), None)
        if text is None:
            raise CheckpointError(
                "BioViL was released as an image model and a text model, and the latter is missing.",
                where=path.parent,
                allowed=" or ".join(_TEXT_FILES),
                remedy="put the files of microsoft/BiomedVLP-CXR-BERT-specialized (BioViL) or of "
                "microsoft/BiomedVLP-BioViL-T beside the image checkpoint",
            )
        state = {**read_state(path), **read_state(text)}
        keys = released_keys(self.state_dict(), state)
        unused = (_UNUSED if self.mlm else _UNUSED | _WITHOUT_MASKED_WORDS).items()
        others = [key for key in state if key not in keys]
        ignored = {key: why for key in others for prefix, why in unused if key.startswith(prefix)}
        kept = {key: value for key, value in state.items() if key not in ignored}
        load_strictly(self, kept, keys, where=f"{path}, {text.name}")
        return ImportReport(mapped=keys, ignored=ignored)

    def _maps(self, images: Tensor) -> Tensor:
        released = self.settings.input == "released"
        maps: Tensor = self.trunk(renormalise(images, 0.0, 1.0) if released else images)
        return maps

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        features: Tensor = self.cls_projection_head(self.text(self.text.tokenize(texts)))
        return features

    def _read(self, texts: Sequence[str], draws: Draws) -> tuple[Tokens, Tensor, dict[str, Tensor]]:
        """Tokens ``[B, L]``, their states ``[B, L, W]``, and the loss of masked words where it is wanted.

        All texts as they are, and some of them with masks too, are read in one pass.
        """
        # Processes exchange their tokens for the local loss, which takes texts of one length.
        fixed = self.settings.local_weight > 0 and processes() > 1
        encoder, device = self.text.encoder, self.text.device
        padding: Literal["max_length", "longest"] = "max_length" if fixed else "longest"
        tokens = encoder.tokenize(texts, self.text.max_length, padding=padding)
        if self.mlm is None:
            tokens = tokens.to(device)
            return tokens, encoder(tokens), {}
        # Every n-th text of the batch, so that processes have equally many of them.
        share, places = self.settings.mlm_share, range(draws.start, draws.start + len(texts))
        some = [
            i for i, place in enumerate(places) if math.ceil((place + 1) * share) > math.ceil(place * share)
        ]
        generators = draws.generators("masks")
        masked = mask_words(
            Tokens(*(part[some] for part in tokens)), encoder, [generators[i] for i in some]
        ).to(device)
        tokens = tokens.to(device)
        both = Tokens(*(torch.cat(pair) for pair in zip(tokens, masked.tokens, strict=True)))
        clean, corrupted = encoder(both).tensor_split([len(texts)])
        states = corrupted.flatten(0, 1).index_select(0, masked.positions)
        guessed = self.mlm(states, word_embeddings(encoder))
        return tokens, clean, {"masked_words": masked_word_loss(guessed, masked.targets)}

    def _local_loss(self, maps: Tensor, states: Tensor, tokens: Tokens, given: Tensor) -> Tensor:
        """GLoRIA's local loss, mean of its directions, on unit vectors of cells and word pieces."""
        content = self.text.encoder.content_mask(tokens)
        # A text without a word keeps its first token, so that a softmax over its words is defined.
        content[:, 0] |= ~content.any(dim=1)
        words = functional.normalize(self.cls_projection_head(states).float(), dim=-1)
        regions = functional.normalize(maps.flatten(2).transpose(1, 2).float(), dim=-1)
        return local_losses(regions, words, content, given, Temperatures(), "sum").mean()

    def _texts(self, report: str, generator: torch.Generator | None = None) -> _Texts:
        """What is read of a report; without a generator its sentences stay in order."""
        if self.settings.text_unit == "report" or not report.strip():
            sections = (report.strip(), "")
        else:
            found = sections_of(report)
            paired = bool(found.findings and found.impression)
            sections = (
                found.impression or found.findings or report.strip(),
                found.findings if paired else "",
            )
        if self.settings.shuffle_sentences and generator is not None:
            return _Texts(*(shuffled(text, generator) for text in sections))
        return _Texts(*sections)


class _Texts(NamedTuple):
    """``image`` is the text of the image; ``section`` the findings where ``image`` is the impression."""

    image: str
    section: str


class TextProjection(nn.Module):
    """CXR-BERT's ``cls_projection_head``: two layers with GELU and normalisation between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(inputs, outputs)
        self.LayerNorm = nn.LayerNorm(outputs, eps=1e-12)
        self.dense_to_output = nn.Linear(outputs, outputs)

    def forward(self, states: Tensor) -> Tensor:
        """``[..., W]`` -> ``[..., D]``."""
        answer: Tensor = self.dense_to_output(self.LayerNorm(functional.gelu(self.dense_to_hidden(states))))
        return answer


def image_projector(inputs: int, outputs: int) -> nn.Sequential:
    """Two layers for each cell, ``[B, C, h, w]`` -> ``[B, D, h, w]``."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, kernel_size=1),
    )


def shuffled(text: str, generator: torch.Generator) -> str:
    """The sentences of a text in random order."""
    sentences = _SENTENCE_END.split(text)
    return " ".join(sentences[i] for i in torch.randperm(len(sentences), generator=generator).tolist())


def released_keys(ours: Iterable[str], released: Iterable[str] = ()) -> dict[str, str]:
    """Released key -> our key; copies of the tied word embedding and bias only where they are stored."""
    keys = module_keys(ours, _MODULES)
    stored = set(released)
    return keys | {key: mine for key, mine in _TIED.items() if key in stored and mine in keys.values()}
