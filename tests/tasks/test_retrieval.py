from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from math import comb

import harness_doubles as doubles
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from replication.data.batches import PreparedData
from replication.method import ReportScorer
from replication.statistics import Resampling
from replication.tasks import retrieval
from replication.tasks.common import NothingToMeasure
from replication.tasks.retrieval import (
    TO_IMAGE,
    TO_REPORT,
    chance_recall,
    first_hit,
    measure,
    median_draws,
    predict,
    searched,
)

PROTOCOL = doubles.protocol(id="mimic-cxr/double/v1", dataset="mimic-cxr", tasks=["retrieval"], findings=[])


def with_reports(patients: int = 40, *, same: int = 4, empty: int = 2) -> PreparedData:
    """Two images per study; the first studies have one and the same report, the last ones none."""
    data = doubles.prepared(patients=patients, dataset="mimic-cxr", splits=("test",))
    studies = [f"s{number // 2:03d}" for number in range(2 * patients)]
    texts = {
        f"s{i:03d}": "" if i >= patients - empty else "No  finding." if i < same else f"Finding number {i}."
        for i in range(patients)
    }
    texts["s001"] = "No finding.\n"
    return replace(data, manifest=data.manifest.assign(study_id=studies), reports=texts)


class Searcher(doubles.TinyMethod):
    """Knows the report of each image by its pixels; ``noise`` drowns it, ``constant`` says nothing."""

    known: dict[bytes, str]
    noise = 0.0
    constant = False
    asked: Sequence[str] = ()

    def report_scorer(self, reports: Sequence[str]) -> ReportScorer:
        self.asked = reports
        assert not self.training
        generator = torch.Generator().manual_seed(0)

        def score(images: Tensor) -> Tensor:
            own = [self.known[image.cpu().numpy().tobytes()] for image in images]
            right = torch.tensor([[float(a.split() == b.split()) for b in reports] for a in own])
            return (
                0 * right
                if self.constant
                else right + self.noise * torch.randn(right.shape, generator=generator)
            )

        return score


def searcher(data: PreparedData) -> Searcher:
    method = doubles.method(Searcher)
    count = len(data.manifest)
    images = data.batch(np.arange(count), augmentation=None, seed=0).images
    reports = [data.reports[study] for study in data.manifest["study_id"]]
    method.known = {image.cpu().numpy().tobytes(): text for image, text in zip(images, reports, strict=True)}
    return method.train()


def test_a_perfect_method_finds_everything_at_once() -> None:
    data = with_reports()
    method = searcher(data)
    predictions = predict(method, data, PROTOCOL)
    found = {(m.finding, m.metric): m for m in measure(predictions, PROTOCOL, draws=50)}
    for direction in (TO_REPORT, TO_IMAGE):
        assert found[direction, "recall_at_1"].value == 1
        assert found[direction, "median_rank"].value == 1
        assert not found[direction, "median_rank"].higher_is_better
    # 38 studies with a report, 4 of them with the same one.
    assert len(method.asked) == 35
    assert found[TO_REPORT, "recall_at_1"].n == 76
    assert found[TO_IMAGE, "recall_at_1"].n == 38
    assert found[TO_REPORT, "chance_recall_at_5"].value == pytest.approx(5 / 35)


@pytest.mark.parametrize("constant", [False, True])
def test_noise_and_silence_score_what_a_random_order_does(constant: bool) -> None:
    data = with_reports(patients=150)
    method = searcher(data)
    method.noise, method.constant = 1e6, constant
    found = {(m.finding, m.metric): m for m in measure(predict(method, data, PROTOCOL), PROTOCOL, draws=200)}
    for direction in (TO_REPORT, TO_IMAGE):
        recall, chance = found[direction, "recall_at_10"], found[direction, "chance_recall_at_10"]
        if constant:
            assert recall.value <= chance.value
        else:
            assert recall.lower <= chance.value <= recall.upper
        assert 50 < found[direction, "median_rank"].value < 200


def test_ranks_by_hand() -> None:
    """The literal twin: search, image by image and study by study."""
    data = with_reports(patients=12, same=3, empty=1)
    method = searcher(data)
    method.noise = 0.7
    predictions = predict(method, data, PROTOCOL)
    rows, studies = searched(data, seed=0)
    texts = [" ".join(data.reports[study].split()) for study in studies]
    distinct = sorted(set(texts))
    scorer = method.eval().report_scorer(distinct)
    scores = scorer(data.batch(rows, augmentation=None, seed=0).images).numpy()
    frame = predictions.frame
    for direction in (TO_REPORT, TO_IMAGE):
        lines = frame[frame["finding"] == direction].reset_index(drop=True)
        for i, text in enumerate(texts):
            if direction == TO_REPORT:
                order = [distinct[j] for j in np.argsort(-scores[i])]
            else:
                order = [texts[j] for j in np.argsort(-scores[:, distinct.index(text)])]
            assert lines["score"][i] == 1 + order.index(text)
            first = studies.index(studies[i]) == i
            assert lines["label"][i] == (1 if first or direction == TO_REPORT else -1)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=6), st.data())
def test_ties_count_as_in_a_random_order(scores: list[int], data: st.DataObject) -> None:
    right = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)).filter(any))
    ranks = []
    for order in permutations(range(len(scores))):
        ranked = sorted(order, key=lambda i: -scores[i])
        ranks.append(1 + next(place for place, i in enumerate(ranked) if right[i]))
    found = first_hit(np.array([scores], dtype=np.float32), np.array([right]))
    assert found[0] == pytest.approx(np.mean(ranks))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 10))
def test_chance_counts_the_draws_without_a_hit(candidates: int, hits: int, depth: int) -> None:
    hits = min(hits, candidates)
    drawn = min(depth, candidates)
    expected = 1 - comb(candidates - hits, drawn) / comb(candidates, drawn)
    assert chance_recall(np.array([hits]), candidates, depth)[0] == pytest.approx(expected)


def test_medians_of_resamples() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 9, 21).astype(np.float64)
    resamples = Resampling.by_patient([f"p{i // 3}" for i in range(21)], 60, seed=1)
    counts = resamples.counts[resamples.unit].astype(int)
    expected = [np.median(np.repeat(values, counts[:, draw])) for draw in range(60)]
    assert median_draws(values, resamples) == pytest.approx(expected)


def test_at_most_so_many_studies_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "MAX_STUDIES", 10)
    data = with_reports()
    rows, studies = searched(data, seed=3)
    assert len(set(studies)) == 10
    assert len(rows) == 20
    assert np.array_equal(rows, searched(data, seed=3)[0])
    assert all(data.reports[study].strip() for study in studies)


def test_what_cannot_be_searched_is_left_out() -> None:
    with pytest.raises(NothingToMeasure, match="does not compare images with reports"):
        predict(doubles.method(), with_reports(), PROTOCOL)
    with pytest.raises(NothingToMeasure, match="two different reports"):
        predict(doubles.method(), doubles.prepared(dataset="mimic-cxr"), PROTOCOL)
