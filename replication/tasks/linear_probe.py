"""Linear probe: logistic regression on the frozen trunk's pooled features, one per finding."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from replication.metrics import roc_auc
from replication.statistics import FloatArray
from replication.tasks.adaptation import Adaptation, concatenated, inference, pooled
from replication.tasks.common import Predictions, evaluation_rows, identifiers, long_format
from replication.transfer_config import LinearProbeConfig

DEFAULT_INVERSE_PENALTY = 1.0
"""C of a finding that the validation split holds only one class of; the nearest setting is taken."""


class LinearProbe:
    """The features are computed once, and serve all fractions."""

    def __init__(self, adaptation: Adaptation, settings: LinearProbeConfig) -> None:
        self.adaptation, self.settings = adaptation, settings

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        """``[N, C]`` of all images, by row of the manifest; the trunk in evaluation mode."""
        trunk = self.adaptation.fresh_trunk().eval()
        rows = np.arange(len(self.adaptation.data.manifest), dtype=np.int64)
        parts = inference(
            lambda images: pooled(trunk, images), self.adaptation, rows, self.settings.precision
        )
        return concatenated(list(parts))

    def predict(self, rows: NDArray[np.int64], fraction: float) -> Predictions:
        """Log-odds of the validation and test images; see ``Learner``."""
        data, protocol = self.adaptation.data, self.adaptation.protocol
        val, asked = data.rows("val"), evaluation_rows(data)
        learned, judged = self.adaptation.labels(rows), self.adaptation.labels(val)
        scores = np.empty((len(asked), len(protocol.findings)))
        for column in range(len(protocol.findings)):
            known, tuning = learned[:, column] >= 0, judged[:, column] >= 0
            scores[:, column] = probe(
                self._features[rows[known]],
                learned[known, column],
                self._features[val[tuning]],
                judged[tuning, column],
                self._features[asked],
                self.settings,
            )
        names = [finding.name for finding in protocol.findings]
        return Predictions(
            long_format(identifiers(data, asked), names, scores, self.adaptation.labels(asked))
        )


def probe(
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    validation: NDArray[np.float32],
    validation_labels: NDArray[np.int8],
    asked: NDArray[np.float32],
    settings: LinearProbeConfig,
) -> FloatArray:
    """Log-odds ``[M]`` of ``asked`` ``[M, C]`` by the regression with the highest validation AUC.

    Features are standardised by the mean and deviation of the labelled images. Of equal penalties the
    strongest is taken, and where validation cannot tell (one class only) the one nearest to C = 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values = sorted(settings.inverse_penalties)
    if len(np.unique(validation_labels)) < 2:
        values = [min(values, key=lambda value: abs(np.log(value / DEFAULT_INVERSE_PENALTY)))]
    best, scores = -np.inf, np.empty(0)
    for value in values:
        regression = LogisticRegression(C=value, max_iter=settings.iterations)
        model = make_pipeline(StandardScaler(), regression).fit(features.astype(np.float64), labels)
        auc = roc_auc(validation_labels, model.decision_function(validation)) if len(values) > 1 else 0.0
        if auc > best:
            best, scores = auc, model.decision_function(asked)
    return np.asarray(scores, dtype=np.float64)
