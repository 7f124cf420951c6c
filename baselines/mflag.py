"""M-FLAG: images drawn to a frozen text encoder, kept from collapse by orthogonal features (MICCAI 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.method import Batch, ImportReport, Ingredients, Losses, Settings, Supervision
from replication.networks.distributed import gather, mean_where
from replication.networks.key_maps import load_released
from replication.networks.prompt_scores import PromptMethod, PromptSettings
from replication.networks.text_tower import TextTower

_MODULES = {
    "trunk.": "encoder.",
    "image_head.": "proj_v.",
    "text_head.": "proj_t.",
    "text.encoder.model.": "lm_model.",
}
"""Our module -> released module."""

_UNUSED = {
    "lm_model.pooler.": "the pooled output of BERT is not used",
    "lm_model.embeddings.position_ids": "a constant of old versions of the library",
}


class MFLAGSettings(PromptSettings):
    """Settings of M-FLAG: defaults are corrected values, the recipe ``published`` sets the faithful ones.

    Attributes:
        projection_dim, hidden_dim: of both projectors; a ``hidden_dim`` of ``None`` is the number of channels
            of the trunk (2048 as published).
        orthogonal_weight: of the orthogonality loss; 0 leaves it out. off_diagonal: weight of each entry off
            the diagonal within it.
        orth_denominator: features' products are divided by the ``actual`` number of images, or by the
            ``config``ured ``orth_batch_size`` whatever the batch holds (released code).
        text_dropout: dropout of the frozen text encoder stays active in training (released code).
        max_length: tokens of a text; never more than the text encoder reads.
    """

    projection_dim: int = 1024
    hidden_dim: int | None = None
    orthogonal_weight: float = 1.0
    off_diagonal: float = 0.0051
    orth_denominator: Literal["actual", "config"] = "actual"
    orth_batch_size: int = 512
    text_dropout: bool = False
    max_length: int = 512


class MFLAG(PromptMethod):
    """A trunk, a frozen text encoder, and a projector on each."""

    name: ClassVar[str] = "mflag"
    supervision: ClassVar[Supervision] = "report"
    settings_class: ClassVar[type[Settings]] = MFLAGSettings

    def __init__(self, settings: MFLAGSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = self.prompt_settings = settings
        self.trunk = ingredients.trunk
        self.text = TextTower(
            ingredients.text_encoder, frozen_share=0.0, pooling="cls", max_length=settings.max_length
        )
        self.text.max_length = min(settings.max_length, self.text.encoder.longest)
        self.text.requires_grad_(False)
        hidden = settings.hidden_dim or self.trunk.channels
        self.image_head = _projector(self.trunk.channels, hidden, settings.projection_dim)
        self.text_head = _projector(self.text.width, hidden, settings.projection_dim)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the frozen text encoder stays in evaluation mode unless its dropout is wanted."""
        super().train(mode)
        self.text.train(mode and self.settings.text_dropout)
        return self

    def loss(self, batch: Batch) -> Losses:
        """Orthogonality of image features and alignment with the reports; images without one do not count."""
        chosen = self.settings
        texts = [report.strip() for report in batch.reports]
        keep = torch.tensor([bool(text) for text in texts]).to(batch.images.device, non_blocking=True)
        pooled = self.trunk(batch.images).mean(dim=(2, 3))
        distances = alignment(self.image_head(pooled), self.text_features(texts))
        parts = {"alignment": mean_where(distances, keep)}
        total = parts["alignment"]
        if chosen.orthogonal_weight != 0:
            denominator = chosen.orth_batch_size if chosen.orth_denominator == "config" else None
            parts["orthogonal"] = orthogonality(
                pooled, keep, off_diagonal=chosen.off_diagonal, denominator=denominator
            )
            total = total + chosen.orthogonal_weight * parts["orthogonal"]
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def image_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D]``: the projector on the mean over cells."""
        features: Tensor = self.image_head(self.trunk(images).mean(dim=(2, 3)))
        return features

    def cell_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, h, w, D]``: the projector on every cell of the trunk's map (post hoc)."""
        cells = self.trunk(images).movedim(1, -1)
        features: Tensor = self.image_head(cells.flatten(0, 2))
        return features.view(*cells.shape[:3], -1)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts -> ``[N, D]``: the projector on ``[CLS]`` of the frozen text encoder."""
        with torch.no_grad():
            pooled = self.text(self.text.tokenize(texts))
        features: Tensor = self.text_head(pooled)
        return features

    def load_released(self, path: Path) -> ImportReport:
        """Load ``<name>_total.pth``; see ``Method.load_released``.

        ``<name>_encoder.pth`` holds the trunk alone, under torchvision's names: give it as ``trunk.weights``.
        """
        return load_released(self, path, released_keys(self.state_dict()), unused=_UNUSED)


def _projector(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
        nn.BatchNorm1d(outputs, affine=False),
    )


def alignment(images: Tensor, texts: Tensor) -> Tensor:
    """Distance of the directions of B pairs ``[B, D]``: 4 (1 - cosine), ``[B]`` float32.

    The released code adds 2 - 2 cos twice, once for each side; neither side's gradient is stopped.
    """
    with torch.autocast(images.device.type, enabled=False):
        return 4 * (1 - functional.cosine_similarity(images.float(), texts.float(), dim=-1))


def orthogonality(
    features: Tensor, keep: Tensor, *, off_diagonal: float, denominator: int | None = None
) -> Tensor:
    """How far the features' second moments C = X'X / n are from the identity, over all processes.

    Half the sum of (C_ii - 1)^2, and of ``off_diagonal`` C_ij^2 for all i != j. X is neither centred nor
    normalised: C_ii = 1 asks for features of root mean square 1.

    Args:
        features: ``[B, D]``, the rows of X. keep: ``[B]`` bool, which rows count.
        denominator: n; ``None`` is the number of rows that count.

    Returns:
        Scalar float32; 0 where no row counts.
    """
    with torch.autocast(features.device.type, enabled=False):
        kept = gather(keep)
        rows = gather(features.float()) * kept.unsqueeze(1)
        count = kept.sum()
        moments = rows.T @ rows / (count.clamp_min(1) if denominator is None else denominator)
        diagonal = moments.diagonal()
        off = (moments - diagonal.diag()).square().sum()
        value = ((diagonal - 1).square().sum() + off_diagonal * off) / 2
        # The rows stay part of the answer, so that a batch without a report still has (zero) gradients.
        return torch.where(count > 0, value, 0.0 * rows.sum())


def released_keys(ours: Iterable[str]) -> dict[str, str]:
    """Released key -> our key."""
    return {
        theirs + key.removeprefix(mine): key
        for key in ours
        for mine, theirs in _MODULES.items()
        if key.startswith(mine)
    }
