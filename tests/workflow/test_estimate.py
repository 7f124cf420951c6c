"""Sizes, speeds and the plan that is made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from replication.data.plan import cache_bytes
from replication.errors import ConfigError, UserError
from replication.files import write_json
from replication.registry import DATASETS, names
from replication.tier_config import load_tier
from replication.workflow.estimate import disk, training_costs, weight_bytes
from replication.workflow.facts import extent, published
from replication.workflow.overview import job_counts, overview, totals
from replication.workflow.plan import Run, Workspace, datasets, run_config, runs
from replication.workflow.speed import Speed, given_speeds, keep_speeds, known_speeds


@pytest.fixture
def paper(tmp_path: Path) -> Workspace:
    return Workspace.open("paper", tmp_path / "work", tmp_path / "results", [0])


def speed(label: str, rate: float, device: str = "cpu", threads: int = 8) -> Speed:
    return Speed(label, "published", rate, device, threads, "a test")


def test_every_data_set_of_the_paper_tier_has_facts() -> None:
    assert set(datasets(load_tier("paper"))) <= set(published()) <= set(names(DATASETS))
    for facts in published().values():
        for counts in facts.counts.values():
            assert sum(counts.values()) <= facts.images


def test_prepared_data_replace_published_counts(paper: Workspace) -> None:
    before = extent(paper, "mimic-cxr")
    assert before is not None
    assert before.origin == "published"
    record = {"images": 100, "counts": {"train": 80, "val": 10, "test": 10}, "masks": 0}
    write_json(paper.prepared("mimic-cxr") / "prepare.json", record)
    after = extent(paper, "mimic-cxr")
    assert after is not None
    assert (after.images, after.train, after.origin) == (100, 80, "prepared")


def test_disk_is_counted_from_images_and_size(paper: Workspace) -> None:
    found = disk(paper, runs(paper.tier, ["medslip"]))
    facts = published()["siim-acr"]
    assert found.caches["siim-acr"] == cache_bytes(facts.images, facts.masks, 0, 224)
    assert found.raw["mimic-cxr"] == 557_600_000_000
    assert set(found.unknown) == {"siim-acr", "covidx-cxr4"}
    assert found.total == sum(found.caches.values()) + found.weights + found.predictions


def test_a_data_set_that_is_there_need_not_be_downloaded(paper: Workspace) -> None:
    paper.raw("mimic-cxr").mkdir(parents=True)
    assert "mimic-cxr" not in disk(paper, runs(paper.tier, ["medslip"])).raw


def test_weights_are_bounded_from_above_by_trunk_and_text_encoder(paper: Workspace) -> None:
    found = weight_bytes(run_config(paper, Run("convirt", "published", 0)))
    assert found >= 4 * (23_508_032 + 110_000_000)


def test_hours_are_images_by_speed(paper: Workspace) -> None:
    speeds = {("medslip", "published"): speed("medslip", 100.0)}
    costs = {cost.label: cost for cost in training_costs(paper, runs(paper.tier), speeds)}
    training = run_config(paper, Run("medslip", "published", 0)).training
    images = training.epochs * (238_075 // training.batch_size) * training.batch_size
    assert costs["medslip"].images == images
    assert costs["medslip"].hours == pytest.approx(images / 100 / 3600)
    assert costs["convirt"].hours is None
    assert not {"random", "imagenet"} & set(costs)
    assert totals([costs["medslip"]]) == {"core-hours": pytest.approx(8 * images / 100 / 3600)}


def test_runs_that_are_done_cost_nothing_and_give_their_speed(paper: Workspace) -> None:
    done = {"images": 10, "images_per_second": 50.0, "device": "cpu", "threads": 1}
    write_json(paper.run(Run("medslip", "published", 0)) / "done.json", done)
    assert "medslip" not in {cost.label for cost in training_costs(paper, runs(paper.tier), {})}
    assert known_speeds(paper)[("medslip", "published")].images_per_second == 50.0


def test_a_given_speed_wins_over_a_measured_one(paper: Workspace) -> None:
    keep_speeds(paper, [speed("medslip", 3.0), speed("convirt", 4.0)])
    keep_speeds(paper, [speed("convirt", 5.0)])
    known = known_speeds(paper, ["medslip=7"])
    assert known[("medslip", "published")].images_per_second == 7.0
    assert known[("convirt", "published")].images_per_second == 5.0


def test_speeds_may_come_as_a_table(paper: Workspace, tmp_path: Path) -> None:
    kept = speed("medslip", 812.5, device="a GPU")
    path = keep_speeds(paper, [kept])
    assert given_speeds([str(path)], paper.tier) == [kept]
    pd.read_csv(path).drop(columns="source").to_csv(path, index=False)
    assert given_speeds([str(path)], paper.tier) == [
        Speed("medslip", "published", 812.5, "a GPU", 8, str(path))
    ]
    (tmp_path / "short.csv").write_text("label,recipe\nmedslip,published\n")
    with pytest.raises(ConfigError, match="images_per_second"):
        given_speeds([str(tmp_path / "short.csv")], paper.tier)


@pytest.mark.parametrize(
    "wrong", ["medslip=0", "medslip=-1", "medslip=nan", "medslip=inf", "medslip=", "no.csv"]
)
def test_a_speed_that_is_none_is_refused(paper: Workspace, wrong: str) -> None:
    with pytest.raises(ConfigError, match="METHOD=N"):
        given_speeds([wrong], paper.tier)


def test_without_a_speed_the_plan_gives_no_hours_but_says_how(paper: Workspace) -> None:
    text = overview(paper, runs(paper.tier, ["medslip"]), {"pretrain": 1}, {})
    assert "no estimate" in text
    assert "--measure" in text
    assert "core-hours" not in text
    assert "physionet.org" in text


def test_the_phantom_s_training_images_are_known_once_it_is_prepared(tmp_path: Path) -> None:
    workspace = Workspace.open("smoke", tmp_path / "work", tmp_path / "results")
    text = overview(workspace, runs(workspace.tier, ["medslip"]), {}, {})
    assert "unknown" in text
    assert "once mimic-cxr is prepared" in text
    assert "will be generated" in text


def test_a_plan_that_snakemake_cannot_make_is_its_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        job_counts([sys.executable, "-c", "import sys; sys.exit('no such file')"], {"PATH": "/usr/bin:/bin"})
