"""Bootstrap draws of the metrics of one run, computed again from its stored predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from replication.errors import ConfigError
from replication.protocol_config import Protocol
from replication.records import read_predictions
from replication.statistics import FloatArray
from replication.tasks import (
    common,
    finetune_segmentation,
    retrieval,
    stream_probes,
    zero_shot_classification,
    zero_shot_grounding,
    zero_shot_relations,
)


def _classification(
    predictions: common.Predictions, protocol: Protocol, draws: int
) -> Sequence[common.Draws]:
    return zero_shot_classification.metric_draws(predictions.frame, protocol, draws=draws)


_METRICS: dict[str, Callable[[common.Predictions, Protocol, int], Sequence[common.Draws]]] = {
    "zero_shot_classification": _classification,
    "linear_probe": _classification,
    "finetune_classification": _classification,
    "finetune_segmentation": lambda predictions, protocol, draws: finetune_segmentation.metric_draws(
        predictions, protocol, draws=draws
    ),
    "zero_shot_grounding": lambda predictions, protocol, draws: zero_shot_grounding.metric_draws(
        predictions, protocol, draws=draws
    ),
    "zero_shot_relations": lambda predictions, protocol, draws: zero_shot_relations.metric_draws(
        predictions.frame, protocol, draws=draws
    ),
    "disentanglement": lambda predictions, protocol, draws: stream_probes.metric_draws(
        predictions, protocol, draws=draws
    ),
    "retrieval": lambda predictions, protocol, draws: retrieval.metric_draws(
        predictions, protocol, draws=draws
    ),
}


def bootstrap_draws(
    path: Path, task: str, protocol: Protocol, draws: int
) -> dict[tuple[str, str], FloatArray]:
    """(finding, metric) -> its values ``[R]`` in R resamples of the test patients.

    The resamples are the same for all runs of a protocol, so runs are paired.

    Args:
        path: the run's predictions, with their arrays beside them in an ``.npz``.

    Raises:
        ConfigError: the task is unknown here. DataError: the predictions are damaged.
    """
    # Forms of a task, such as a frozen encoder, have names that begin with its own.
    base = next((name for name in _METRICS if task.startswith(name)), None)
    if base is None:
        raise ConfigError("No draws are known for this task.", found=task, allowed=sorted(_METRICS))
    found = _METRICS[base](load_predictions(path), protocol, draws)
    return {(one.finding, one.metric): one.draws for one in found}


def load_predictions(path: Path) -> common.Predictions:
    """Predictions of all splits with their arrays."""
    arrays = {}
    if (beside := path.with_suffix(".npz")).is_file():
        with np.load(beside, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    return common.Predictions(read_predictions(path), arrays)
