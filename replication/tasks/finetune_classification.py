"""Fine-tuned classification: the trunk and a linear head on its pooled features, all weights updated."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from replication.devices import compute_device
from replication.errors import DataError
from replication.method import ImageTrunk
from replication.metrics import mean_roc_auc
from replication.tasks.adaptation import Adaptation, concatenated, fine_tune, inference, pooled
from replication.tasks.common import Predictions, evaluation_rows, identifiers, long_format
from replication.transfer_config import FineTuneConfig


class Classifier(nn.Module):
    """A trunk with a linear head on standardised features, in float32 whatever the autocast.

    Batch normalisation without parameters of its own precedes the linear layer, so that one learning rate
    suits methods whose features differ in scale.
    """

    def __init__(self, trunk: ImageTrunk, findings: int) -> None:
        super().__init__()
        self.trunk = trunk
        standardise = nn.BatchNorm1d(trunk.channels, affine=False)
        self.head = nn.Sequential(standardise, nn.Linear(trunk.channels, findings))

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> logits ``[B, F]``."""
        features = pooled(self.trunk, images)
        with torch.autocast(images.device.type, enabled=False):
            return torch.as_tensor(self.head(features))


class ClassifierTuning:
    """Fine-tunes a fresh copy of the trunk for every fraction."""

    def __init__(self, adaptation: Adaptation, settings: FineTuneConfig) -> None:
        self.adaptation, self.settings = adaptation, settings

    def predict(self, rows: NDArray[np.int64], fraction: float) -> Predictions:
        """Logits of the validation and test images; see ``Learner``.

        The loss is binary cross-entropy, averaged over the known labels. The check with the highest mean AUC
        on the split ``settings.select`` is kept.

        Raises:
            DataError: no finding has both classes in that split.
        """
        adaptation, settings = self.adaptation, self.settings
        data, protocol = adaptation.data, adaptation.protocol
        judged, asked = data.rows(settings.select), evaluation_rows(data)
        self._check_judgeable(judged)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(adaptation.seed_of("head"))
            model = Classifier(adaptation.fresh_trunk(), len(protocol.findings)).to(compute_device())

        def loss(chosen: NDArray[np.int64], seed: int) -> Tensor:
            batch = data.batch(chosen, augmentation=settings.augmentation, seed=seed)
            images = batch.images.to(compute_device(), memory_format=torch.channels_last)
            labels = torch.from_numpy(adaptation.labels(chosen)).to(images.device)
            return masked_cross_entropy(model(images), labels)

        def scores(of: NDArray[np.int64]) -> NDArray[np.float32]:
            return concatenated(list(inference(model, adaptation, of, settings.precision)))

        fine_tune(
            model,
            model.head,
            loss,
            lambda: mean_roc_auc(adaptation.labels(judged), scores(judged)),
            rows,
            settings,
            adaptation.seed_of("order", fraction),
            title=f"{protocol.id}, {fraction:.0%} of the labels",
            progress=adaptation.progress,
        )
        names = [finding.name for finding in protocol.findings]
        return Predictions(
            long_format(identifiers(data, asked), names, scores(asked), adaptation.labels(asked))
        )

    def _check_judgeable(self, judged: NDArray[np.int64]) -> None:
        labels = self.adaptation.labels(judged)
        if not ((labels == 1).any(axis=0) & (labels == 0).any(axis=0)).any():
            raise DataError(
                f"No finding has both classes among the images of the split {self.settings.select!r}.",
                where=self.adaptation.protocol.id,
                found=f"{len(judged)} images",
                allowed="at least one finding with a present and an absent image to choose the step by",
            )


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of ``[B, F]`` over the labels that are not -1; 0 if none is known."""
    known = labels >= 0
    every = functional.binary_cross_entropy_with_logits(logits, labels.clamp_min(0).float(), reduction="none")
    return (every * known).sum() / known.sum().clamp_min(1)
