from __future__ import annotations

from collections import Counter

import pytest

from replication.errors import ConfigError
from replication.phantom.findings import SIGNS, check
from replication.phantom.population import Prevalence, sample_scenes
from replication.phantom.scene import NIH_FINDINGS, UNSEEN_FINDING, Scene

N = 2500


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return sample_scenes(N, seed=4)


def studies(scenes: list[Scene]) -> list[Scene]:
    return list({scene.study: scene for scene in scenes}.values())


def test_a_patient_is_the_same_however_many_are_drawn(scenes: list[Scene]) -> None:
    few = sample_scenes(30, seed=4)
    assert few == scenes[: len(few)]
    late = sample_scenes(10, seed=4, first_patient=20)
    assert late == [scene for scene in few if scene.patient >= 20]


def test_another_seed_gives_other_patients(scenes: list[Scene]) -> None:
    assert sample_scenes(30, seed=5) != sample_scenes(30, seed=4)


def test_numbers_are_unique_and_belong_together(scenes: list[Scene]) -> None:
    assert len({scene.image for scene in scenes}) == len(scenes)
    owner: dict[int, int] = {}
    for scene in scenes:
        assert owner.setdefault(scene.study, scene.patient) == scene.patient
    images = Counter(scene.patient for scene in scenes)
    per_patient = Counter(scene.patient for scene in studies(scenes))
    assert set(images.values()) == {1, 2, 3, 4}
    assert set(per_patient.values()) == {1, 2, 3}
    assert len(images) == N


def test_images_of_a_study_share_what_the_report_will_say(scenes: list[Scene]) -> None:
    first: dict[int, Scene] = {}
    for scene in scenes:
        other = first.setdefault(scene.study, scene)
        assert (scene.findings, scene.devices) == (other.findings, other.devices)


def test_every_finding_is_common_enough_and_normals_are_there(scenes: list[Scene]) -> None:
    all_studies = studies(scenes)
    for finding in NIH_FINDINGS:
        share = sum(scene.has(finding) for scene in all_studies) / len(all_studies)
        assert 0.05 <= share <= 0.25, finding
    normal = sum(not scene.findings for scene in all_studies) / len(all_studies)
    assert 0.24 <= normal <= 0.32


def test_findings_co_occur_as_in_patients(scenes: list[Scene]) -> None:
    def share(finding: str, given: str) -> float:
        have = [scene for scene in studies(scenes) if scene.has(given)]
        return sum(scene.has(finding) for scene in have) / len(have)

    everyone = studies(scenes)
    for finding, given in (
        ("edema", "cardiomegaly"),
        ("effusion", "edema"),
        ("consolidation", "pneumonia"),
        ("pneumothorax", "emphysema"),
    ):
        base = sum(scene.has(finding) for scene in everyone) / len(everyone)
        assert share(finding, given) > 1.5 * base, (finding, given)


def test_hedging_and_severity_are_spread(scenes: list[Scene]) -> None:
    found = [instance for scene in studies(scenes) for instance in scene.findings]
    hedged = sum(instance.certainty == "uncertain" for instance in found) / len(found)
    assert 0.05 < hedged < 0.11
    severity = sorted(instance.severity for instance in found)
    assert severity[0] > 0.1 and severity[-1] <= 1.0
    assert severity[len(found) // 10] < 0.35 and severity[-len(found) // 10] > 0.75


def test_findings_lie_only_where_they_can(scenes: list[Scene]) -> None:
    sites = set()
    for scene in scenes:
        assert len({instance.finding for instance in scene.findings}) == len(scene.findings)
        for instance in scene.findings:
            check(instance)
            sites.add((instance.finding, instance.side, instance.zone))
    possible = {
        (finding, side, zone)
        for finding in NIH_FINDINGS
        for side, zones in SIGNS[finding].sites.items()
        for zone in zones
    }
    assert sites == possible


def test_the_unseen_disease_appears_only_when_allowed(scenes: list[Scene]) -> None:
    assert not any(scene.has(UNSEEN_FINDING) for scene in scenes)
    allowed = studies(sample_scenes(1000, seed=4, allow_unseen=True))
    sick = [scene for scene in allowed if scene.has(UNSEEN_FINDING)]
    assert 0.25 < len(sick) / len(allowed) < 0.35
    others = {instance.finding for scene in sick for instance in scene.findings} - {UNSEEN_FINDING}
    assert others <= {"cardiomegaly"}


def test_prevalence_can_be_chosen() -> None:
    how = Prevalence(normal=0.0, second=0.0, syndromes={"nodule": 1.0})
    assert all(scene.has("nodule") for scene in sample_scenes(40, seed=1, prevalence=how))
    with pytest.raises(ConfigError, match="pneumothorax"):
        sample_scenes(5, seed=1, prevalence=Prevalence(normal=0.0, syndromes={"pneumotorax": 1.0}))
