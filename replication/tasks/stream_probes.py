"""Linear probes of a method's streams: what can be read from each, and how much is that stream's business.

A probe is a logistic regression of one class against the rest on standardised features. Beside each stand
others that were taught shuffled labels; what they score on test data is the chance level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from replication.config_files import derived_seed
from replication.data.batches import PreparedData
from replication.method import CannotAnswer, Method
from replication.metrics import roc_auc, roc_auc_draws
from replication.protocol_config import Protocol
from replication.statistics import FloatArray
from replication.tasks.common import (
    MEAN,
    Draws,
    Measurement,
    NothingToMeasure,
    Predictions,
    answers,
    resampling,
    with_means,
)

INVERSE_PENALTIES = (0.001, 0.03, 1.0)
"""Values of C that validation chooses from; of equal ones the strongest penalty."""

SHUFFLES = 4
"""How often labels are shuffled for the chance level of a class."""

FEWEST = {"train": 20, "val": 4, "test": 4}
"""A class is probed if so many images of each split have it, and so many have not."""

CONTRARY = {"pathology": "anatomy", "anatomy": "pathology"}
"""The stream's own target -> the one that is the other stream's."""

CHANCE = "chance_"
"""Begins the metric of probes that were taught shuffled labels."""


class Target(NamedTuple):
    """What probes are asked for.

    Attributes:
        classes: F names. labels: ``[N, F]`` int8; 1 yes, 0 no, -1 unknown.
    """

    classes: Sequence[str]
    labels: NDArray[np.int8]

    def frequent(self, split: NDArray[np.str_]) -> Target:
        """The classes that occur and fail to occur often enough in every split."""
        kept = []
        for column in range(len(self.classes)):
            counts = [
                (int((self.labels[split == name, column] == label).sum()), least)
                for name, least in FEWEST.items()
                for label in (0, 1)
            ]
            if all(count >= least for count, least in counts):
                kept.append(column)
        return Target([self.classes[i] for i in kept], self.labels[:, kept])


def stream_features(
    method: Method,
    data: PreparedData,
    rows: NDArray[np.int64],
    reduce: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    progress: bool,
    title: str,
) -> dict[str, NDArray[np.float32]]:
    """Features ``[N, C, ...]`` of some images by stream.

    Args:
        reduce: what is kept of embeddings ``[B, C, h, w]``.

    Raises:
        NothingToMeasure: the method has no image trunk.
        ValueError: its streams are not on one grid, against the contract.
    """
    widths: dict[str, int] = {}

    def stacked(images: Tensor, _: object) -> Tensor:
        streams = method.streams(images)
        grids = {name: tuple(maps.shape[2:]) for name, maps in streams.items()}
        if len(set(grids.values())) > 1:
            raise ValueError(f"The streams of {method.name} are on different grids: {grids}.")
        widths.update({name: maps.shape[1] for name, maps in streams.items()})
        return reduce(torch.cat([maps.float() for maps in streams.values()], dim=1))

    said = answers(method, stacked, data, rows, [], batch_size=batch_size, progress=progress, title=title)
    try:
        features = np.concatenate(list(said))
    except CannotAnswer as reason:
        raise NothingToMeasure(str(reason), where=method.name) from reason
    ends = np.cumsum(list(widths.values()))
    return dict(zip(widths, np.split(features, ends[:-1], axis=1), strict=True))


def probed(
    names: pd.DataFrame,
    features: Mapping[str, NDArray[np.float32]],
    targets: Mapping[str, Target],
    protocol: Protocol,
) -> Predictions:
    """Log-odds of the M test samples by all P probes; the finding is ``<stream>/<target>/<class>``.

    The array ``chance`` ``[P, SHUFFLES, M]`` float16 holds those of the probes that were taught shuffled
    labels, in the order of the findings and of the samples.

    Args:
        names: ``identifiers`` of N samples of all splits. features: ``[N, C]`` by stream.

    Raises:
        NothingToMeasure: no class of any target is frequent enough.
    """
    split = names["split"].to_numpy(dtype=str)
    usable = {name: target.frequent(split) for name, target in targets.items()}
    if not any(target.classes for target in usable.values()):
        raise NothingToMeasure(
            "No class is frequent enough to be probed.",
            where=protocol.id,
            allowed=", ".join(f"{least} of each kind in {name}" for name, least in FEWEST.items()),
            remedy="use more images",
        )
    test = names[split == "test"]
    frames, chance = [], []
    for stream, values in features.items():
        scaled = standardised(values.astype(np.float64), split == "train")
        for name, target in usable.items():
            for column, kind in enumerate(target.classes):
                labels = target.labels[:, column]
                seed = derived_seed("shuffled labels", protocol.id, name, kind)
                scores, shuffled = probe(scaled, labels, split, seed)
                finding = f"{stream}/{name}/{kind}"
                frames.append(test.assign(finding=finding, score=scores, label=labels[split == "test"]))
                chance.append(shuffled)
    frame = pd.concat(frames, ignore_index=True).astype({"score": np.float32, "label": np.int8})
    return Predictions(frame, {"chance": np.stack(chance).astype(np.float16)})


def standardised(features: FloatArray, training: NDArray[np.bool_]) -> FloatArray:
    """``[N, C]`` with mean 0 and deviation 1 over the training samples; constant columns become 0."""
    deviation = features[training].std(axis=0)
    centred = features - features[training].mean(axis=0)
    return np.asarray(np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0))


def probe(
    features: FloatArray, labels: NDArray[np.int8], split: NDArray[np.str_], seed: int
) -> tuple[FloatArray, FloatArray]:
    """Log-odds ``[M]`` of the test samples, and ``[SHUFFLES, M]`` after shuffled training labels.

    The latter have the penalty that validation chose for the former.

    Args:
        features: ``[N, C]``. labels: ``[N]``, -1 unknown. split: ``[N]``. seed: of the shuffling.
    """
    from sklearn.linear_model import LogisticRegression

    known = labels >= 0
    train, val, test = known & (split == "train"), known & (split == "val"), split == "test"
    inputs, taught = features[train], labels[train]

    def fitted(penalty: float, answers: NDArray[np.int8]) -> Any:
        return LogisticRegression(C=penalty, solver="newton-cholesky").fit(inputs, answers)

    models = {penalty: fitted(penalty, taught) for penalty in INVERSE_PENALTIES}
    auc = {
        penalty: roc_auc(labels[val], one.decision_function(features[val])) for penalty, one in models.items()
    }
    chosen = max(auc, key=lambda penalty: auc[penalty])
    generator = np.random.default_rng(seed)
    shuffled = [
        fitted(chosen, generator.permutation(taught)).decision_function(features[test])
        for _ in range(SHUFFLES)
    ]
    return models[chosen].decision_function(features[test]), np.stack(shuffled)


def measure(predictions: Predictions, protocol: Protocol, *, draws: int = 1000) -> list[Measurement]:
    """Macro AUC by stream and target, its chance level, and the contrasts; the finding is the stream."""
    return [one.measured() for one in metric_draws(predictions, protocol, draws=draws)]


def metric_draws(predictions: Predictions, protocol: Protocol, *, draws: int) -> list[Draws]:
    """The metrics of ``measure`` with their bootstrap draws, paired over runs of one protocol.

    The chance level has none: it varies with the shuffling, not with the test patients.
    """
    found: dict[str, list[Draws]] = {}
    frame = predictions.frame
    groups = frame.groupby("finding", sort=False)
    resamples = resampling(frame.drop_duplicates("sample")["patient"].to_numpy(), protocol, draws)
    for (finding, lines), shuffled in zip(groups, predictions.arrays["chance"], strict=True):
        stream, target, _ = str(finding).split("/", 2)
        known = lines["label"].to_numpy() >= 0
        labels = lines["label"].to_numpy()[known]
        scores = lines["score"].to_numpy(np.float64)[known]
        own = Draws(
            stream,
            f"{target}_auc",
            roc_auc(labels, scores),
            roc_auc_draws(labels, scores, resamples[known]),
            len(labels),
            int((labels == 1).sum()),
        )
        chance = float(np.mean([roc_auc(labels, one) for one in shuffled[:, known].astype(np.float64)]))
        nothing = np.full(draws, np.nan)
        found.setdefault(stream, []).extend(
            [own, replace(own, metric=CHANCE + own.metric, value=chance, draws=nothing)]
        )
    macro = {stream: {one.metric: one for one in _macro(stream, group)} for stream, group in found.items()}
    return [*(one for metrics in macro.values() for one in metrics.values()), *contrasts(macro)]


def _macro(stream: str, group: Sequence[Draws]) -> Iterator[Draws]:
    """Mean over the classes of each target, in the stream's name; n is that of the largest class."""
    for one in with_means(group, 0, of_one=True):
        if one.finding == MEAN:
            most = max(other.n for other in group if other.metric == one.metric)
            yield replace(one, finding=stream, n=most)


def contrasts(macro: Mapping[str, Mapping[str, Draws]]) -> list[Draws]:
    """Own target minus the other's of each stream that has one, and the same minus that of the trunk.

    ``contrast`` is in -1..1, ``contrast_to_trunk`` in -2..2; above 0, the stream holds more of its own.
    """
    found = []
    for stream, metrics in macro.items():
        pair = (f"{stream}_auc", f"{CONTRARY.get(stream)}_auc")
        if not all(name in metrics for name in pair):
            continue
        own = _difference(metrics[pair[0]], metrics[pair[1]], "contrast")
        found.append(own)
        if all(name in macro.get("trunk", {}) for name in pair):
            trunk = _difference(macro["trunk"][pair[0]], macro["trunk"][pair[1]], "contrast")
            found.append(_difference(own, trunk, "contrast_to_trunk"))
    return found


def _difference(a: Draws, b: Draws, metric: str) -> Draws:
    return replace(a, metric=metric, value=a.value - b.value, draws=a.draws - b.draws)
