"""Reports and their annotation are one: what a report says, the RadGraph reader finds, and no more."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replication.errors import DataError
from replication.knowledge.radgraph import CORRECTED, FAITHFUL, RadGraphSettings
from replication.knowledge.triplets import read_triplets
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_index, pathology_index
from replication.phantom.annotation import annotate, choose, plain, rename
from replication.phantom.findings import SIGNS
from replication.phantom.population import sample_scenes
from replication.phantom.reports import Report, write_report
from replication.phantom.scene import NIH_FINDINGS, Device, FindingInstance, Scene

CLASSES = {
    "infiltration": "infiltrate",
    "fibrosis": "tail_abnorm_obs",
    "pleural_thickening": "thicken",
}
"""Findings whose pathology of the vocabulary has another name."""

SITES = [
    (finding, side, zone)
    for finding in NIH_FINDINGS
    for side, zones in SIGNS[finding].sites.items()
    for zone in zones
]
instances = st.builds(
    lambda site, severity, certainty: FindingInstance(*site, severity=severity, certainty=certainty),
    st.sampled_from(SITES),
    st.floats(0.05, 1.0),
    st.sampled_from(["present", "uncertain"]),
)
devices = st.one_of(
    st.builds(
        Device, st.sampled_from(["tube", "line", "pacemaker", "clip"]), st.sampled_from(["left", "right"])
    ),
    st.builds(Device, st.sampled_from(["tube", "wire"]), st.just("midline")),
)


@pytest.fixture(scope="module")
def population() -> list[tuple[Scene, Report]]:
    """About 1,900 studies as the pre-training set draws them."""
    scenes = {scene.study: scene for scene in sample_scenes(1500, seed=3)}
    return [
        (scene, write_report(scene.findings, scene.devices, np.random.default_rng([3, study])))
        for study, scene in scenes.items()
    ]


def matrix_of(report: Report) -> np.ndarray:
    """The matrix [51, 75] that the statements claim: present over absent, uncertain nothing."""
    matrix = np.full((len(ANATOMIES), len(PATHOLOGIES)), -1, np.int8)
    for statement in report.statements:
        cell = anatomy_index(statement.anatomy), pathology_index(statement.pathology)
        if statement.polarity != "uncertain":
            matrix[cell] = max(matrix[cell], int(statement.polarity == "present"))
    return matrix


def read_back(reports: list[Report], folder: Path, how: RadGraphSettings) -> np.ndarray:
    """What the reader of the real RadGraph file makes of the documents, [n, 51, 75]."""
    path = folder / "MIMIC-CXR_graphs.json"
    documents = {f"p10/p10000001/s{50000000 + k}.txt": report.document for k, report in enumerate(reports)}
    path.write_text(json.dumps(documents), encoding="utf-8")
    return read_triplets(path, how).matrix


@settings(max_examples=80, deadline=None)
@given(st.lists(instances, max_size=4), st.lists(devices, max_size=3), st.integers(0, 2**32 - 1))
def test_reader_finds_exactly_the_statements(
    tmp_path_factory: pytest.TempPathFactory,
    findings: list[FindingInstance],
    attached: list[Device],
    seed: int,
) -> None:
    report = write_report(findings, attached, np.random.default_rng(seed))
    found = read_back([report], tmp_path_factory.mktemp("graphs"), FAITHFUL)[0]
    assert np.array_equal(found, matrix_of(report)), report.text


@pytest.mark.parametrize("how", [FAITHFUL, CORRECTED], ids=["faithful", "corrected"])
def test_population_is_read_as_written(
    population: list[tuple[Scene, Report]], tmp_path: Path, how: RadGraphSettings
) -> None:
    reports = [report for _, report in population]
    found = read_back(reports, tmp_path, how)
    assert np.array_equal(found, np.stack([matrix_of(report) for report in reports]))


def test_entities_index_the_white_space_tokens(population: list[tuple[Scene, Report]]) -> None:
    for _, report in population[:300]:
        tokens = report.document["text"].split()
        entities = report.document["entities"]
        for entity in entities.values():
            assert tokens[entity["start_ix"]] == entity["tokens"]
            assert entity["start_ix"] == entity["end_ix"]
            assert all(target in entities for _, target in entity["relations"])
        starts = [entity["start_ix"] for entity in entities.values()]
        assert starts == sorted(set(starts))


def test_text_and_document_have_the_same_words(population: list[tuple[Scene, Report]]) -> None:
    for _, report in population[:300]:
        spaced = re.sub(r"([.,:])", r" \1 ", report.text)
        assert spaced.split() == list(report.annotated.tokens)
        assert re.match(r" FINDINGS:\n", report.text)
        assert "\n IMPRESSION:\n" in report.text


def test_every_finding_is_affirmed_and_denied(population: list[tuple[Scene, Report]]) -> None:
    labels = np.stack([matrix_of(report) for _, report in population]).max(axis=1)
    for finding in NIH_FINDINGS:
        column = labels[:, pathology_index(CLASSES.get(finding, finding))]
        share = 3000 / len(population)
        present, absent = int((column == 1).sum() * share), int((column == 0).sum() * share)
        assert present >= 100, finding
        assert absent >= 100, finding
        assert 1 / 10 < present / absent < 10, finding


def test_reports_do_not_contradict_the_image(population: list[tuple[Scene, Report]]) -> None:
    for scene, report in population:
        labels = matrix_of(report).max(axis=0)
        for finding in NIH_FINDINGS:
            said = labels[pathology_index(CLASSES.get(finding, finding))]
            if finding != "fibrosis":
                assert said < 1 or scene.has(finding), (finding, report.text)
            assert said != 0 or not scene.has(finding), (finding, report.text)


def test_sides_are_told_apart() -> None:
    opposite = {"left": "right", "right": "left"}
    for finding, side, zone in SITES:
        if side not in opposite:
            continue
        instance = FindingInstance(finding, side, zone, 0.6)
        sided = 0
        for seed in range(20):
            report = write_report([instance], [], np.random.default_rng(seed))
            pathology = CLASSES.get(finding, finding)
            places = [
                s.anatomy for s in report.statements if s.pathology == pathology and s.polarity == "present"
            ]
            assert not [place for place in places if opposite[side] in place], (instance, report.text)
            sided += any(side in place for place in places)
        assert sided >= (0 if zone == "retrocardiac" else 15), instance


def test_both_sides_are_named_together_or_one_by_one() -> None:
    instance = FindingInstance("effusion", "bilateral", "pleural", 0.6)
    ways = Counter()
    for seed in range(60):
        report = write_report([instance], [], np.random.default_rng(seed))
        body = {s.anatomy for s in report.statements if s.pathology == "effusion" and s.polarity == "present"}
        ways["apart"] += {"left_pleural", "right_pleural"} <= body
        ways["together"] += body == {"pleural_unspec"}
    assert ways["apart"] >= 10
    assert ways["together"] >= 10


def test_uncertain_findings_are_hedged() -> None:
    for finding, side, zone in SITES:
        instance = FindingInstance(finding, side, zone, 0.6, "uncertain")
        for seed in range(3):
            report = write_report([instance], [], np.random.default_rng(seed))
            pathology = CLASSES.get(finding, finding)
            polarities = {s.polarity for s in report.statements if s.pathology == pathology}
            assert polarities <= {"uncertain"}, report.text
            assert report.mentions.get(finding, "uncertain") == "uncertain"


def test_few_findings_are_overlooked(population: list[tuple[Scene, Report]]) -> None:
    there = [(scene, report, i) for scene, report in population for i in scene.findings]
    missed = [1 for _, report, instance in there if instance.finding not in report.mentions]
    assert 0.01 < len(missed) / len(there) < 0.06


def test_fibrosis_leads_the_tail(population: list[tuple[Scene, Report]]) -> None:
    words: Counter[str] = Counter()
    for _, report in population:
        for statement_word in re.findall(
            r"fibrosis|fibrotic|kyphosis|scoliosis|osteopenia", report.text.lower()
        ):
            words[statement_word] += 1
    others = sum(words[word] for word in ("kyphosis", "scoliosis", "osteopenia"))
    assert others > 0
    assert words["fibrosis"] > 5 * others


def test_no_report_speaks_of_the_unseen_finding(population: list[tuple[Scene, Report]]) -> None:
    unseen = re.compile(r"covid|corona|sars|viral|ground.?glass|peripheral", re.IGNORECASE)
    assert not [report.text for _, report in population if unseen.search(report.text)]
    with pytest.raises(DataError, match="covid"):
        write_report([FindingInstance("covid", "bilateral", "lower", 0.5)], [], np.random.default_rng(0))


def test_same_stream_same_report() -> None:
    findings = [
        FindingInstance("mass", "left", "upper", 0.4),
        FindingInstance("effusion", "left", "pleural", 0.9),
    ]
    first, second = (write_report(findings, [], np.random.default_rng(9)) for _ in range(2))
    assert first == second
    assert len({write_report(findings, [], np.random.default_rng(k)).text for k in range(20)}) == 20


def test_alternatives_nest_and_may_be_empty() -> None:
    results = {choose("a (b|(c|d) e|) f", np.random.default_rng(k)) for k in range(60)}
    assert results == {"a b f", "a c e f", "a d e f", "a f"}


def test_annotation_is_read() -> None:
    sentence = (
        "a small/O>f left/A>p pleural/A#p=left_pleural effusion/O#f@p=effusion ,"
        " not pneumothorax/N=pneumothorax ."
    )
    text = annotate([("FINDINGS", [sentence])])
    assert " ".join(text.tokens) == "FINDINGS : A small left pleural effusion , not pneumothorax ."
    assert text.entities["4"] == {
        "tokens": "effusion",
        "label": "OBS-DP",
        "start_ix": 6,
        "end_ix": 6,
        "relations": [["located_at", "3"]],
    }
    assert [(s.anatomy, s.pathology, s.polarity) for s in text.statements] == [
        ("left_pleural", "effusion", "present"),
        ("unspecified", "pneumothorax", "absent"),
    ]
    assert plain("a opacity/O=opacity .") == "An opacity."


def test_renamed_phrases_share_a_sentence() -> None:
    phrase = "right/A>p base/A#p=right_lower_lung"
    assert rename(phrase, "2") == "right/A>p2 base/A#p2=right_lower_lung"


@pytest.mark.parametrize(
    ("sentence", "problem"),
    [("left/A>p lung/A#q=left_lung_unspec .", "not in its sentence"), ("effusion/O is seen .", "no class")],
)
def test_mistakes_in_templates_are_found(sentence: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        annotate([("FINDINGS", [sentence])])
