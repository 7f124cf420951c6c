from __future__ import annotations

from collections.abc import Sequence

import harness_doubles as doubles
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from replication.data.batches import PreparedData
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_index, pathology_index
from replication.method import Finding
from replication.tasks.common import NothingToMeasure
from replication.tasks.zero_shot_relations import measure, metric_draws, predict, queries, rank_auc

LEFT, RIGHT, HEART = (anatomy_index(name) for name in ("left_pleural", "right_pleural", "heart_size"))
EFFUSION, EDEMA = (pathology_index(name) for name in ("effusion", "edema"))
FINDINGS = [
    {"name": "effusion", "column": "spot", "text": "pleural effusion", "pathology": "effusion"},
    {"name": "edema", "column": "noise", "text": "pulmonary edema", "pathology": "edema"},
]
PROTOCOL = doubles.protocol(
    id="mimic-cxr/double/v1", dataset="mimic-cxr", tasks=["zero_shot_relations"], findings=FINDINGS
)


def triplets(images: int, seed: int = 0) -> np.ndarray:
    """Effusion left, right, both, denied or unmentioned; edema sometimes, in one place only."""
    rng = np.random.default_rng(seed)
    cells = np.full((images, len(ANATOMIES), len(PATHOLOGIES)), -1, dtype=np.int8)
    for cell, kind in zip(cells, rng.integers(0, 5, images), strict=True):
        for side, present in ((LEFT, kind in (0, 2)), (RIGHT, kind in (1, 2))):
            if present:
                cell[side, EFFUSION] = 1
        if kind == 3:
            cell[anatomy_index("pleural_unspec"), EFFUSION] = 0
        if rng.random() < 0.5:
            cell[HEART, EDEMA] = rng.integers(0, 2)
    return cells


DATA = doubles.prepared(
    patients=120, dataset="mimic-cxr", triplets=triplets(240), splits=("train", "val", "test")
)


class Oracle(doubles.TinyMethod):
    """Knows the matrix of each image by its pixels; ``skill`` mixes in noise, ``blind`` ignores anatomy."""

    known: dict[bytes, np.ndarray]
    blind = False
    sign = 1.0

    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        rows = []
        for image in images:
            cells = self.known[image.cpu().numpy().tobytes()]
            column = [cells[:, pathology_index(f.pathology or "")] for f in findings]
            places = [anatomy_index(f.anatomy or "") for f in findings]
            rows.append(
                [
                    self.sign * float((c == 1).any() if self.blind else c[a] == 1)
                    for c, a in zip(column, places, strict=True)
                ]
            )
        return torch.tensor(rows)


def oracle(data: PreparedData, blind: bool = False, sign: float = 1.0) -> Oracle:
    method = doubles.method(Oracle)
    images = data.batch(data.rows("test"), augmentation=None, seed=0).images
    method.known = {
        image.cpu().numpy().tobytes(): data.triplets[row]
        for image, row in zip(images, data.rows("test"), strict=True)
    }
    method.blind, method.sign = blind, sign
    return method


def values(method: Oracle) -> dict[tuple[str, str], float]:
    found = measure(predict(method, DATA, PROTOCOL, batch_size=50), PROTOCOL, draws=50)
    return {(one.finding, one.metric): one.value for one in found}


def test_relations_that_occur_often_are_asked_for_with_their_mirror_image() -> None:
    asked = queries(DATA, PROTOCOL, min_studies=15)
    assert [(f.anatomy, f.pathology) for f in asked] == [
        ("left_pleural", "effusion"),
        ("right_pleural", "effusion"),
        ("heart_size", "edema"),
    ]
    assert asked[0] == Finding("effusion", "pleural effusion", "effusion", "left_pleural")
    cells = triplets(240)
    cells[:, RIGHT, EFFUSION] = -1
    one_sided = doubles.prepared(120, dataset="mimic-cxr", triplets=cells, splits=("train", "val", "test"))
    assert ("right_pleural", "effusion") in [
        (f.anatomy, f.pathology) for f in queries(one_sided, PROTOCOL, min_studies=15)
    ]


def test_labels_say_present_elsewhere_or_not_mentioned() -> None:
    frame = predict(oracle(DATA), DATA, PROTOCOL).frame
    left = frame[frame["finding"] == "left_pleural/effusion"]
    cells = DATA.triplets[DATA.rows("test")]
    for label, cell in zip(left["label"], cells, strict=True):
        expected = 1 if cell[LEFT, EFFUSION] == 1 else (0 if (cell[:, EFFUSION] >= 0).any() else -1)
        assert label == expected


def test_credentialed_identifiers_stay_at_home() -> None:
    frame = predict(oracle(DATA), DATA, PROTOCOL).frame
    assert not set(frame["sample"]) & set(DATA.manifest["sample_id"])
    assert not set(frame["patient"]) & set(DATA.manifest["patient_id"])
    assert frame["patient"].nunique() == DATA.manifest.iloc[DATA.rows("test")]["patient_id"].nunique()


def test_one_who_knows_is_right_and_one_who_errs_is_wrong() -> None:
    known, wrong = values(oracle(DATA)), values(oracle(DATA, sign=-1.0))
    for key in (("effusion", "laterality_auc"), ("effusion", "site_auc"), ("mean", "relation_auc")):
        assert known[key] == 1
        assert wrong[key] == 0


def test_ignoring_the_anatomy_scores_one_half_where_only_the_place_counts() -> None:
    blind = values(oracle(DATA, blind=True))
    assert blind["effusion", "laterality_auc"] == 0.5
    assert blind["effusion", "site_auc"] == 0.5
    assert 0.5 < blind["left_pleural/effusion", "relation_auc"] < 1


def test_metrics_are_those_of_literal_twins() -> None:
    frame = predict(oracle(DATA), DATA, PROTOCOL).frame
    rng = np.random.default_rng(0)
    frame["score"] = (frame["score"] + 2 * rng.normal(size=len(frame))).astype(np.float32)
    found = {(d.finding, d.metric): d for d in metric_draws(frame, PROTOCOL, draws=30)}
    left, right = (frame[frame["finding"] == f"{side}_pleural/effusion"] for side in ("left", "right"))
    difference, sides, site = [], [], []
    for (_, a), (_, b) in zip(left.iterrows(), right.iterrows(), strict=True):
        on = (a["label"] == 1, b["label"] == 1)
        if on[0] != on[1]:
            difference.append(a["score"] - b["score"])
            sides.append(on[0])
            true, other = (a["score"], b["score"]) if on[0] else (b["score"], a["score"])
            site.append(float(true > other))
    assert found["effusion", "laterality_auc"].value == pytest.approx(roc_auc_score(sides, difference))
    assert found["effusion", "laterality_auc"].n == len(sides)
    assert found["effusion", "site_auc"].value == pytest.approx(np.mean(site))
    one = left[left["label"] >= 0]
    assert found["left_pleural/effusion", "relation_auc"].value == pytest.approx(
        roc_auc_score(one["label"], one["score"])
    )
    relations = [
        d.value for (name, metric), d in found.items() if metric == "relation_auc" and name != "mean"
    ]
    assert found["mean", "relation_auc"].value == pytest.approx(np.mean(relations))


def test_rank_auc_of_each_row() -> None:
    rng = np.random.default_rng(0)
    scores, true = rng.integers(0, 4, size=(20, 6)).astype(float), rng.random((20, 6)) < 0.4
    true[:, 0], true[:, 1] = True, False
    expected = [roc_auc_score(t, s) for t, s in zip(true, scores, strict=True)]
    assert rank_auc(scores, true) == pytest.approx(expected)


def test_data_without_annotation_have_nothing_to_measure() -> None:
    with pytest.raises(NothingToMeasure, match="annotated reports"):
        queries(doubles.prepared(dataset="mimic-cxr"), PROTOCOL)
    with pytest.raises(NothingToMeasure, match="often enough"):
        queries(DATA, PROTOCOL, min_studies=1000)
