"""The contract between a method and the harness: what a method is given and what it must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from replication.draws import Draws

Supervision = Literal["report", "triplets", "labels", "none"]
HeatmapKind = Literal["native", "post hoc", "none"]


class CannotAnswer(TypeError):
    """A method is asked for something optional that it does not have; the message says what and why."""


class ImageTrunk(nn.Module, ABC):
    """The image encoder that probes, fine-tuning and segmentation take from a pre-trained method.

    Attributes:
        channels: C of the last feature map.
        stride: input pixels per cell of the last feature map.
        stage_channels: channels of the feature maps that ``stages`` returns.
        weights: where its initial weights are from, in the words of ``TrunkConfig.weights``.
    """

    channels: int
    stride: int
    stage_channels: tuple[int, ...]
    weights: str = "random"

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> patch embeddings ``[B, C, H/stride, W/stride]``."""

    @abstractmethod
    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps from fine to coarse, the last one being that of ``forward``."""


ReportScorer = Callable[[Tensor], Tensor]
"""Images ``[B, 3, H, W]`` -> similarity with each of R reports, ``[B, R]`` float32; higher = more alike."""


@dataclass(frozen=True)
class Finding:
    """Something to look for in an image.

    Attributes:
        name: key of the finding in protocols and tables, e.g. ``"pleural_thickening"``.
        text: the finding in plain words, e.g. ``"pleural thickening"``; prompts are made from it.
        pathology: the class of the 75-pathology vocabulary that stands for it, e.g. ``"thicken"``;
            ``None`` where the vocabulary has none, so that only its text can be used.
        anatomy: the class of the 51-anatomy vocabulary it is looked for in; ``None`` means anywhere.
    """

    name: str
    text: str
    pathology: str | None = None
    anatomy: str | None = None


@dataclass(frozen=True)
class Batch:
    """What one training step sees. A method never changes it in place.

    Attributes:
        images: ``[B, 3, H, W]`` float32, normalised with the ImageNet mean and standard deviation.
        reports: B report texts; empty strings where a data set has none.
        triplets: ``[B, 51, 75]`` int8; -1 not mentioned, 0 absent, 1 present.
        labels: ``[B, L]`` int8 over the data set's label columns; -1 unknown.
        seed: drives every draw a loss makes (sentence choice, sampled negatives), so a step is repeatable.
        start: place of the first image in the batch that all processes share. total: images of that batch;
            ``None`` where this is all of it.
    """

    images: Tensor
    reports: Sequence[str]
    triplets: Tensor
    labels: Tensor
    seed: int = 0
    start: int = 0
    total: int | None = None

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def to(self, device: torch.device) -> Batch:
        """The same on a device, its images in the layout that convolutions are fastest in."""
        return replace(
            self,
            images=self.images.to(device, memory_format=torch.channels_last, non_blocking=True),
            triplets=self.triplets.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def draws(self) -> Draws:
        """The random numbers of a step, from their beginning."""
        return Draws(self.seed, len(self), self.start, self.total)


@dataclass(frozen=True)
class Losses:
    """The outcome of a step: ``total`` is differentiated, ``parts`` are logged.

    Attributes:
        total: scalar; the weighted sum of the parts.
        parts: unweighted scalars by name.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportReport:
    """What a released checkpoint was mapped to.

    Attributes:
        mapped: released key -> our key.
        ignored: released keys that carry no weights of ours, with the reason.
    """

    mapped: dict[str, str]
    ignored: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceInputs:
    """Inputs of a numerical reference of the released code; everything that code draws or embeds is given.

    Attributes:
        images: ``[B, 3, H, W]``. triplets: ``[B, 51, 75]`` int8.
        anatomy_book: ``[51, D]``; pathology_book: ``[75, D]``; they replace the text encoder's output.
        index_pathology: ``[B, 75, 8]`` sampled anatomies; index_anatomy: ``[B, 51, 8]`` sampled pathologies.
            Slots 1 to 7 are negatives; slot 0 is the positive where the method samples one.
    """

    images: Tensor
    triplets: Tensor
    anatomy_book: Tensor
    pathology_book: Tensor
    index_pathology: Tensor
    index_anatomy: Tensor


@dataclass(frozen=True)
class ReferenceOutputs:
    """What a method answers to ``ReferenceInputs``.

    Attributes:
        losses: parts named as in the reference.
        tensors: by the reference's names: ``logits*`` ``[B, Q, 2]``, ``attention*`` ``[layers, B, Q, K]``
            (all queries), ``patches*`` ``[B, K, d]``.
    """

    losses: Losses
    tensors: dict[str, Tensor]


class Settings(BaseModel):
    """Base of every method's own settings: typed, immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def tokenizers(self) -> tuple[str, ...]:
        """Tokenisers that the method loads by itself, as hub ids or folders; they must be there before."""
        return ()


@dataclass(frozen=True)
class Ingredients:
    """The shared parts a method is built from, so that methods differ in nothing they need not differ in.

    Attributes:
        trunk: a freshly initialised image trunk, owned by the method from here on.
        text_encoder: a frozen text encoder (``replication.knowledge.text_encoder.TextEncoder``);
            a method that trains its text tower copies it.
        label_names: names of the columns of ``Batch.labels``.
        descriptions: texts of the 75 pathologies in vocabulary order.
    """

    trunk: ImageTrunk
    text_encoder: nn.Module
    label_names: tuple[str, ...]
    descriptions: tuple[str, ...]


class Method(nn.Module, ABC):
    """A vision-language model with its losses.

    A subclass sets ``name``, ``supervision``, ``heatmap_kind`` and ``settings_class`` and answers the
    abstract methods. ``score`` alone is enough for the zero-shot tables.
    """

    name: ClassVar[str]
    supervision: ClassVar[Supervision]
    heatmap_kind: ClassVar[HeatmapKind] = "none"
    settings_class: ClassVar[type[Settings]] = Settings

    trunk: ImageTrunk

    @classmethod
    def build(cls, settings: Settings, ingredients: Ingredients) -> Self:
        """Make an untrained model; weights are drawn from torch's generator, which the caller has seeded.

        A subclass takes ``(settings, ingredients)``.

        Raises:
            TypeError: the settings are another method's.
        """
        if not isinstance(settings, cls.settings_class):
            wanted, found = cls.settings_class.__name__, type(settings).__name__
            raise TypeError(f"{cls.__name__} is built from {wanted}, not from {found}")
        return cls(settings, ingredients)

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """Losses of one batch; differentiable, finite, the batch unchanged."""

    @abstractmethod
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """``[B, 3, H, W]`` images -> ``[B, F]`` float32; higher = more likely present."""

    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """``[B, 3, H, W]`` images -> ``[B, F, h, w]`` float32 on its own grid; higher = more relevant.

        Raises:
            TypeError: the method localises nothing (``heatmap_kind`` is ``"none"``).
        """
        raise TypeError(f"{self.name} makes no heat maps (heatmap_kind is 'none').")

    def streams(self, images: Tensor) -> dict[str, Tensor]:
        """``[B, 3, H, W]`` images -> patch embeddings ``[B, C, h, w]`` by stream, on one grid (optional).

        A method that separates what is there from where it is adds ``pathology`` and ``anatomy``; ``trunk``
        is there for every method, as what these are compared with.

        Raises:
            CannotAnswer: the method has no image trunk.
        """
        if not isinstance(getattr(self, "trunk", None), ImageTrunk):
            raise CannotAnswer(f"{self.name} has no image trunk.")
        return {"trunk": self.trunk(images)}

    def report_scorer(self, reports: Sequence[str]) -> ReportScorer:
        """What compares images with R reports as the method's global alignment does (optional).

        The reports are encoded once, by the method in its current mode.

        Raises:
            CannotAnswer: the method does not compare images with reports.
        """
        raise CannotAnswer(f"{self.name} does not compare images with reports.")

    def load_released(self, path: Path) -> ImportReport:
        """Load the authors' checkpoint by an explicit key map, strictly; prefix ``module.`` allowed.

        Raises:
            CheckpointError: a key is missing, left over or of another shape; or nothing was released.
        """
        from replication.errors import CheckpointError

        raise CheckpointError(f"No released checkpoint is known for {self.name}.", where=path)

    def reference_outputs(self, inputs: ReferenceInputs) -> ReferenceOutputs:
        """Losses and tensors on a numerical reference, for ``replicate checkpoint parity`` (optional).

        The given books become the model's own.

        Raises:
            TypeError: the method has no such reference.
        """
        raise TypeError(f"{self.name} has no numerical reference of released code.")

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Optimiser groups: 1-D tensors and biases without weight decay, the rest with it."""
        trainable = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        plain = [p for name, p in trainable if p.ndim <= 1 or name.endswith(".bias")]
        decayed = [p for name, p in trainable if not (p.ndim <= 1 or name.endswith(".bias"))]
        return [
            {"params": plain, "weight_decay": 0.0},
            {"params": decayed, "weight_decay": weight_decay},
        ]
