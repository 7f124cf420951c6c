"""Zero-shot relations: does a method know *where* a finding is? Neutral to how a method represents places.

Every method is asked the same questions, "is pathology p present in anatomy a", and only its scores are used.
Three metrics, each 0.5 for a method that answers at random:

* ``laterality_auc``: where p is present on exactly one side, does score(left) - score(right) tell which?
* ``site_auc``: where p is present, do its true anatomies score higher than the other candidates?
* ``relation_auc``: are images with p in a scored higher than images where p is denied or lies elsewhere?

A method that ignores the anatomy has 0.5 in the first two. In the third it has more if it knows the finding,
because images without p are among those it must score lower: read it beside the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from replication.data.batches import PreparedData
from replication.knowledge.vocabulary import (
    ANATOMIES,
    EXCLUDED_PATHOLOGY,
    LATERAL_ANATOMIES,
    NORMAL_PATHOLOGIES,
    PATHOLOGIES,
    TAIL_PATHOLOGY,
    anatomy_index,
    mirrored,
    pathology_index,
)
from replication.method import Finding, Method
from replication.metrics import roc_auc_draws
from replication.protocol_config import Protocol
from replication.statistics import FloatArray, Resampling, ratio
from replication.tasks.common import (
    Draws,
    Measurement,
    NothingToMeasure,
    Predictions,
    answers,
    identifiers,
    long_format,
    resampling,
    with_means,
)

MIN_STUDIES = 20
"""A relation is asked for if it is present in at least this many test studies, or its mirror image is."""

MIN_PER_SIDE = 5
"""Laterality of a pathology is measured on at least this many images of each side."""

_NO_PLACE = ("unspecified", "other")


def queries(data: PreparedData, protocol: Protocol, min_studies: int = MIN_STUDIES) -> list[Finding]:
    """The relations that occur often enough in the test split, in vocabulary order.

    Pathologies are those of the protocol's findings, or all abnormal ones if it names none.

    Raises:
        NothingToMeasure: none occurs often enough, or the reports are not annotated.
    """
    named = {f.pathology: f for f in protocol.findings if f.pathology is not None}
    others = {*NORMAL_PATHOLOGIES, TAIL_PATHOLOGY, EXCLUDED_PATHOLOGY}
    wanted = list(named) or [name for name in PATHOLOGIES if name not in others]
    annotated = _annotated(data)
    first_image = np.unique(annotated.studies, return_index=True)[1]
    present = np.asarray((annotated.triplets[first_image] == 1).sum(axis=0))
    asked = []
    for pathology in sorted(wanted, key=pathology_index):
        often = {ANATOMIES[i] for i in np.flatnonzero(present[:, pathology_index(pathology)] >= min_studies)}
        often |= {partner for a in often if (partner := mirrored(a)) is not None}
        finding = named.get(pathology)
        for anatomy in sorted(often - {*_NO_PLACE}, key=anatomy_index):
            name, text = (finding.name, finding.text) if finding else (pathology, pathology)
            asked.append(Finding(name, text, pathology, anatomy))
    if not asked:
        raise NothingToMeasure(
            "No relation is present often enough to be measured.",
            where=f"{data.name}, split test",
            allowed=f"at least one (anatomy, pathology) in {min_studies} studies",
            remedy="use more studies",
        )
    return asked


class _Annotated(NamedTuple):
    """The test images whose report is annotated."""

    rows: NDArray[np.int64]
    studies: NDArray[np.int64]
    """``[N]`` row of the triplet matrices."""
    triplets: NDArray[np.int8]
    """``[N, 51, 75]`` of each image's study."""


def _annotated(data: PreparedData) -> _Annotated:
    rows = data.rows("test")
    studies = data.manifest["triplet_row"].to_numpy()[rows]
    rows, studies = rows[studies >= 0], studies[studies >= 0]
    if data.triplets is None or not len(rows):
        raise NothingToMeasure(
            "Relations need annotated reports, and the test split has none.",
            where=data.name,
            remedy="evaluate this task on mimic-cxr, prepared with its RadGraph file",
        )
    return _Annotated(rows, studies, np.asarray(data.triplets[studies]))


def relation_name(finding: Finding) -> str:
    """``left_pleural/effusion``."""
    return f"{finding.anatomy}/{finding.pathology}"


def predict(
    method: Method, data: PreparedData, protocol: Protocol, *, batch_size: int = 128, progress: bool = False
) -> Predictions:
    """Scores of the annotated test images for all relations.

    Labels: 1 if the report states the relation, 0 if it denies it or speaks of the pathology only elsewhere,
    -1 if it does not mention the pathology.

    Raises:
        DataError: the data are not those of the protocol. NothingToMeasure: see ``queries``.
    """
    data.check_protocol(protocol)
    asked = queries(data, protocol)
    rows, _, cells = _annotated(data)
    anatomies = [anatomy_index(f.anatomy or "") for f in asked]
    pathologies = [pathology_index(f.pathology or "") for f in asked]
    mentioned = np.asarray((cells >= 0).any(axis=1))[:, pathologies]
    labels = np.where(cells[:, anatomies, pathologies] == 1, 1, np.where(mentioned, 0, -1))
    said = answers(
        method, method.score, data, rows, asked, batch_size=batch_size, progress=progress, title=protocol.id
    )
    names = [relation_name(finding) for finding in asked]
    return Predictions(long_format(identifiers(data, rows), names, np.concatenate(list(said)), labels))


def measure(predictions: Predictions, protocol: Protocol, *, draws: int = 1000) -> list[Measurement]:
    """Laterality and site per pathology, relation AUC per relation, and their means."""
    return [one.measured() for one in metric_draws(predictions.frame, protocol, draws=draws)]


class _Relations(NamedTuple):
    """Scores and labels ``[N, Q]`` of N images and the Q relations."""

    anatomies: list[str]
    pathologies: list[str]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    resamples: Resampling

    def of(self, pathology: str) -> _Relations:
        """The columns of one pathology."""
        chosen = [i for i, name in enumerate(self.pathologies) if name == pathology]
        return self._replace(
            anatomies=[self.anatomies[i] for i in chosen],
            pathologies=[pathology] * len(chosen),
            scores=self.scores[:, chosen],
            labels=self.labels[:, chosen],
        )


def metric_draws(frame: pd.DataFrame, protocol: Protocol, *, draws: int) -> list[Draws]:
    """The metrics of ``measure`` with their bootstrap draws, paired over runs of one protocol."""
    names = list(dict.fromkeys(frame["finding"]))
    samples = list(dict.fromkeys(frame["sample"]))
    wide = frame.pivot(index="sample", columns="finding", values=["score", "label"]).loc[samples]
    patients = frame.drop_duplicates("sample")["patient"].to_numpy()
    relations = _Relations(
        [name.partition("/")[0] for name in names],
        [name.partition("/")[2] for name in names],
        wide["score"][names].to_numpy(np.float64),
        wide["label"][names].to_numpy(np.int64),
        resampling(patients, protocol, draws),
    )
    found = []
    for pathology in dict.fromkeys(relations.pathologies):
        own = relations.of(pathology)
        found += [*_laterality(pathology, own), *_site(pathology, own)]
    for number, name in enumerate(names):
        labels, scores = relations.labels[:, number], relations.scores[:, number]
        known = labels >= 0
        found.append(_auc(name, "relation_auc", labels[known], scores[known], relations.resamples[known]))
    return with_means(found, len(samples), of_one=True)


def _auc(
    name: str, metric: str, labels: NDArray[np.int64], scores: NDArray[np.float64], resamples: Resampling
) -> Draws:
    value = roc_auc_draws(labels, scores, Resampling.none(len(labels)))[0]
    return Draws(
        name,
        metric,
        float(value),
        roc_auc_draws(labels, scores, resamples),
        len(labels),
        int((labels == 1).sum()),
    )


def _laterality(pathology: str, relations: _Relations) -> list[Draws]:
    """Images where the pathology is present on exactly one side; each side scores the mean of its places."""
    lateral = [
        a for a in relations.anatomies if a in LATERAL_ANATOMIES and mirrored(a) in relations.anatomies
    ]
    sides = []
    for side in ("left", "right"):
        columns = [relations.anatomies.index(a) for a in lateral if side in a.split("_")]
        if not columns:
            return []
        present = (relations.labels[:, columns] == 1).any(axis=1)
        sides.append((relations.scores[:, columns].mean(axis=1), present))
    (left, on_left), (right, on_right) = sides
    one_side = on_left != on_right
    if min((on_left & one_side).sum(), (on_right & one_side).sum()) < MIN_PER_SIDE:
        return []
    labels = on_left[one_side].astype(np.int64)
    return [
        _auc(
            pathology,
            "laterality_auc",
            labels,
            (left - right)[one_side],
            relations.resamples[one_side],
        )
    ]


def _site(pathology: str, relations: _Relations) -> list[Draws]:
    """Mean over images of the probability that a true anatomy scores higher than another candidate."""
    true = relations.labels == 1
    usable = true.any(axis=1) & ~true.all(axis=1)
    if not usable.any():
        return []
    values = rank_auc(relations.scores[usable], true[usable])
    count = int(usable.sum())
    drawn = relations.resamples[usable].means(values)
    return [Draws(pathology, "site_auc", float(values.mean()), drawn, count, count)]


def rank_auc(scores: NDArray[np.float64], true: NDArray[np.bool_]) -> FloatArray:
    """Per row of ``[N, K]``, the AUC of the true columns against the others; ties count one half."""
    ranks = stats.rankdata(scores, axis=1)
    count = true.sum(axis=1).astype(np.float64)
    won = (ranks * true).sum(axis=1) - count * (count + 1) / 2
    return ratio(won, count * (true.shape[1] - count))
