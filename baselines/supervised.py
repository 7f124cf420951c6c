"""Supervised classification from labels: the upper bound that methods without labels are read against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.errors import ConfigError
from replication.method import (
    Batch,
    Finding,
    HeatmapKind,
    Ingredients,
    Losses,
    Method,
    Settings,
    Supervision,
)
from replication.networks.distributed import mean_where
from replication.networks.dropout import Dropout

UNSEEN_SCORE = 0.5
"""Score of a finding that has no label in training: it carries no information, and its AUC is exactly 0.5."""


class SupervisedSettings(Settings):
    """Settings of the supervised reference.

    Attributes:
        dropout: on the pooled features.
        labels: ``shuffled`` gives every image the labels of a random image of its batch, drawn anew at each
            step: a negative control, which must end at chance wherever nothing is fitted afterwards.
    """

    dropout: float = 0.0
    labels: Literal["true", "shuffled"] = "true"


class Supervised(Method):
    """A trunk, mean and maximum pooling, and one linear layer for all labels of the data set.

    The maximum lets a small lesion be seen that the mean over all cells would dilute: an upper bound must not
    be held down by its pooling.
    """

    name: ClassVar[str] = "supervised"
    supervision: ClassVar[Supervision] = "labels"
    heatmap_kind: ClassVar[HeatmapKind] = "post hoc"
    settings_class: ClassVar[type[Settings]] = SupervisedSettings

    def __init__(self, settings: SupervisedSettings, ingredients: Ingredients) -> None:
        super().__init__()
        if not ingredients.label_names:
            raise ConfigError(
                "The supervised reference needs labels.",
                found="a data set without label columns",
                remedy="pre-train it on a data set that has labels",
            )
        self.settings = settings
        self.trunk = ingredients.trunk
        self.label_names = ingredients.label_names
        self.dropout = Dropout(settings.dropout)
        self.classifier = nn.Linear(2 * self.trunk.channels, len(self.label_names))

    def loss(self, batch: Batch) -> Losses:
        """Mean binary cross-entropy over the known labels of the batch; 0 where none is known."""
        logits = self.classifier(self.dropout(self._pooled(batch.images))).float()
        labels = batch.labels
        if self.settings.labels == "shuffled":
            labels = labels[batch.draws().uniform().argsort().to(labels.device)]
        values = functional.binary_cross_entropy_with_logits(logits, labels.eq(1).float(), reduction="none")
        total = mean_where(values, labels >= 0)
        return Losses(total, {"labels": total.detach()})

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Probability of the finding's label, wherever it is asked for; ``UNSEEN_SCORE`` without a label."""
        return self._pick(self.classifier(self._pooled(images)).float().sigmoid(), findings, UNSEEN_SCORE)

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Class activation map: the label's logit of each cell; zeros for a finding without a label."""
        patches = self.trunk(images).movedim(1, -1)
        cells = self.classifier(torch.cat([patches, patches], dim=-1)).float()
        return self._pick(cells, findings, 0.0).movedim(-1, 1)

    def _pooled(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, 2C]``: mean and maximum over the cells."""
        patches = self.trunk(images)
        return torch.cat([patches.mean(dim=(2, 3)), patches.amax(dim=(2, 3))], dim=1)

    def _pick(self, values: Tensor, findings: Sequence[Finding], unseen: float) -> Tensor:
        """``[..., L]`` -> ``[..., F]``: the columns of the findings' labels, by name."""
        columns = {name: column for column, name in enumerate(self.label_names)}
        padded = functional.pad(values, (0, 1), value=unseen)
        return padded[..., [columns.get(finding.name, len(columns)) for finding in findings]]
