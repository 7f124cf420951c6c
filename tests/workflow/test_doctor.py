"""What ``replicate doctor`` finds."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from data import raw

from replication.data.prepare import prepare
from replication.files import read_json, write_json
from replication.workflow import doctor_inputs
from replication.workflow.doctor import LOCK, examine, packages
from replication.workflow.doctor_inputs import data, image_weights, tokenizers
from replication.workflow.plan import Workspace


@pytest.fixture
def paper(tmp_path: Path) -> Workspace:
    return Workspace.open("paper", tmp_path / "work", tmp_path / "results", [0])


def of(workspace: Workspace, dataset: str) -> tuple[str, str, str]:
    found = next(f for f in data(workspace) if f.what == f"data {dataset}")
    return found.status, found.state, found.remedy


def test_the_lock_file_of_a_checkout_is_found() -> None:
    assert LOCK.is_file()


def test_versions_are_compared_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(f"numpy=={version('numpy')}\nonly-elsewhere==1.0 ; sys_platform == 'nowhere'\n")
    assert packages(lock).status == "ok"
    lock.write_text("numpy==0.1\n")
    found = packages(lock)
    assert (found.status, version("numpy") in found.state, str(lock) in found.remedy) == ("wrong", True, True)
    lock.write_text("surely-not-installed==1.0\n")
    assert packages(lock).status == "missing"
    assert packages(tmp_path / "none").status == "ok"


def test_every_finding_that_is_not_ok_has_a_remedy(paper: Workspace) -> None:
    findings = examine(paper)
    assert {"ok", "missing"} <= {finding.status for finding in findings}
    assert all(bool(finding.remedy) == (finding.status != "ok") for finding in findings)


def test_a_data_set_without_its_tables_is_wrong_and_a_complete_one_waits(paper: Workspace) -> None:
    assert of(paper, "nih-cxr14")[0] == "missing"
    source = paper.raw("nih-cxr14")
    source.mkdir(parents=True)
    assert of(paper, "nih-cxr14")[0] == "wrong"
    source.rmdir()
    raw.write_nih(source)
    assert of(paper, "nih-cxr14")[:2] == ("ok", "there, split official, not yet prepared")


def test_prepared_data_must_have_the_split_size_and_counts_of_the_protocols(paper: Workspace) -> None:
    source, out = raw.write_nih(paper.raw("nih-cxr14")), paper.prepared("nih-cxr14")
    prepare("nih-cxr14", source, out, size=32, split="patient-seeded", progress=False)
    status, state, remedy = of(paper, "nih-cxr14")
    assert status == "wrong"
    for said in ("32 px instead of 224", "split patient-seeded instead of official", "instead of 25,596"):
        assert said in state
    assert str(out) in remedy
    record = read_json(out / "prepare.json") | {"size": 224, "split": "official", "counts": {"test": 25596}}
    write_json(out / "prepare.json", record)
    assert of(paper, "nih-cxr14")[0] == "ok"


def test_lists_that_are_not_fetched_are_missing(paper: Workspace) -> None:
    tier = paper.tier.model_copy(update={"protocols": ("nih-cxr14/mrm-22433/v1",)})
    workspace = Workspace(tier, paper.work, paper.results, "paper")
    raw.write_nih(workspace.raw("nih-cxr14"))
    found = [f for f in data(workspace) if f.what.startswith("lists")]
    assert [f.status for f in found] == ["missing"]
    assert "replicate data splits fetch nih-cxr14/mrm" in found[0].remedy


def test_a_tokeniser_that_a_method_loads_itself_must_be_there(
    paper: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[tuple[str, str]]:
        return [(finding.what, finding.status) for finding in tokenizers(paper)]

    monkeypatch.setattr(doctor_inputs, "cached", lambda repository, file: False)
    assert found() == [("tokeniser openai/clip-vit-base-patch32", "missing")]
    monkeypatch.setattr(doctor_inputs, "cached", lambda repository, file: True)
    assert found() == [("tokeniser openai/clip-vit-base-patch32", "ok")]


def test_image_weights_are_looked_for_in_the_caches(
    paper: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(doctor_inputs, "cached", lambda repository, file: True)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    before = {f.what: f.status for f in image_weights(paper)}
    (tmp_path / "torch" / "hub" / "checkpoints" / "resnet50-0676ba61.pth").touch()
    after = {f.what: f.status for f in image_weights(paper)}
    assert (before["weights resnet50 IMAGENET1K_V1"], after["weights resnet50 IMAGENET1K_V1"]) == (
        "missing",
        "ok",
    )
    assert after["weights resnet50 IMAGENET1K_V2"] == "missing"
    assert after["weights clip-vit-b32 OPENAI"] == "ok"
