"""``replicate compare`` on synthetic results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from replication.cli import app
from replication.config_files import CONFIGS
from replication.errors import ConfigError, DataError, UserError
from replication.records import Row as MeasuredRow
from replication.records import read_predictions, read_rows, write_predictions, write_rows
from replication.reporting.report import PHANTOM_SENTENCE
from replication.workflow import compare as comparing
from replication.workflow.plan import Workspace
from tests.reporting.reporting_doubles import CLASSIFICATION, GROUNDING, RELATIONS, Folders, make_results

NIH = "nih-cxr14/phantom/v1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of three methods."""
    root = tmp_path_factory.mktemp("compare")
    make_results(root, ("medslip", "medklip", "convirt"), (0, 1, 2))
    tier = yaml.safe_load((CONFIGS / "tiers" / "phantom.yaml").read_text())
    tier |= {
        "methods": ["medslip", "medklip", "convirt"],
        "bootstrap": 50,
        "seeds": [0, 1, 2],
        "variants": [],
        "variants_in_full": [],
    }
    (root / "tier.yaml").write_text(yaml.safe_dump(tier))
    return root


def opened(root: Path) -> Workspace:
    return Workspace.open(str(root / "tier.yaml"), root / "work", root / "results")


def test_all_main_metrics_are_compared(made: Path) -> None:
    found = comparing.compare(opened(made), "medklip", "convirt")
    asked = [(one.question.task, one.question.metric) for one in found.comparisons]
    assert asked[:4] == [(CLASSIFICATION, "auc")] * 4
    assert asked[4:7] == [(GROUNDING, "pointing_game")] * 3
    assert {metric for task, metric in asked if task == RELATIONS} == {
        "laterality_auc",
        "site_auc",
        "relation_auc",
    }
    assert found.comparisons[0].question.protocol.id == NIH
    assert not found.left_out
    assert len(found.adjusted) == len(asked)
    assert all(
        after >= one.widest.p_value for after, one in zip(found.adjusted, found.comparisons, strict=True)
    )


def test_swapping_the_methods_swaps_the_signs(made: Path) -> None:
    there, back = (
        comparing.compare(opened(made), *labels, protocol=NIH, task=CLASSIFICATION).comparisons[0]
        for labels in (("medslip", "medklip"), ("medklip", "medslip"))
    )
    assert back.widest.value == pytest.approx(-there.widest.value)
    assert back.widest.lower == pytest.approx(-there.widest.upper)
    assert back.widest.p_value == pytest.approx(there.widest.p_value)
    assert there.seeds is not None
    assert there.a.seeds == (0, 1, 2)


def test_the_command_prints_json(made: Path) -> None:
    command = [
        "compare",
        "medslip",
        "convirt",
        "--tier",
        str(made / "tier.yaml"),
        "--metric",
        "auc",
        "--json",
    ]
    place = ["--work", str(made / "work"), "--results", str(made / "results")]
    done = CliRunner().invoke(app, [*command, *place])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["holm_over"] == len(found["comparisons"]) == 4
    assert found["data"] == PHANTOM_SENTENCE
    first = found["comparisons"][0]
    rows = read_rows(made / "results" / "phantom" / "rows.parquet")
    rows = rows[(rows["protocol"] == NIH) & (rows["finding"] == "mean") & (rows["metric"] == "auc")]
    means = rows.groupby("method")["value"].mean()
    assert first["difference"] == pytest.approx(means["medslip"] - means["convirt"])
    assert first["a"]["mean"] == pytest.approx(means["medslip"])
    assert first["covers"] == "seeds and test patients"
    assert first["delong"]["difference"] == pytest.approx(first["difference"])
    assert first["lower"] < first["difference"] < first["upper"]
    assert 0 <= first["p"] <= first["p_holm"] <= 1


def test_the_command_prints_a_table_and_what_it_covers(made: Path) -> None:
    text = comparing.as_text(comparing.compare(opened(made), "medslip", "convirt", task=GROUNDING))
    assert text.count("pointing_game") == 3
    assert "p Holm: adjusted for the 3 lines" in text
    assert "training seeds and test patients" in text
    assert PHANTOM_SENTENCE in text


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        (("medslp", "medklip"), {}, "did you mean 'medslip'"),
        (("medslip", "medslip"), {}, "twice"),
        (("medslip", "medklip"), {"task": "zero_shot_groundin"}, "did you mean 'zero_shot_grounding'"),
        (("medslip", "medklip"), {"protocol": "nih-cxr14/fantom/v1"}, f"did you mean '{NIH}'"),
        (("medslip", "medklip"), {"metric": "aux"}, "did you mean 'auc'"),
        (("medslip", "medklip"), {"task": GROUNDING, "metric": "auc"}, "pixel_auc"),
        (("medslip", "medklip"), {"metric": "box_share"}, "No metric"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(
    made: Path, labels: tuple[str, str], options: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as found:
        comparing.compare(opened(made), *labels, **options)
    assert said in str(found.value)


@pytest.fixture
def copied(tmp_path: Path) -> tuple[Workspace, Folders]:
    """Two methods with one seed, in a tier of two seeds."""
    folders = make_results(tmp_path, ("medslip", "medklip"), (0, 1))
    tier = yaml.safe_load((CONFIGS / "tiers" / "phantom.yaml").read_text())
    tier |= {"methods": ["medslip", "medklip", "convirt"], "bootstrap": 50, "seeds": [0, 1]}
    tier |= {"variants": [], "variants_in_full": []}
    (tmp_path / "tier.yaml").write_text(yaml.safe_dump(tier))
    return opened(tmp_path), folders


def refused(workspace: Workspace, b: str, monkeypatch: pytest.MonkeyPatch) -> UserError:
    """The error, which must come before anything is computed."""
    monkeypatch.setattr("replication.reporting.paired.bootstrap_draws", lambda *_: pytest.fail("computed"))
    with pytest.raises(DataError) as found:
        comparing.compare(workspace, "medslip", b)
    return found.value


def test_runs_that_were_not_evaluated_are_named(
    copied: tuple[Workspace, Folders], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, folders = copied
    error = refused(workspace, "convirt", monkeypatch)
    assert error.found == "convirt.matched.seed0, convirt.matched.seed1"
    assert "--only convirt" in str(error.remedy)
    path = folders.results / "rows.parquet"
    rows = read_rows(path)
    rows = rows[(rows["method"] != "medklip") | (rows["seed"] == 0)]
    write_rows([MeasuredRow(**row) for row in rows.to_dict("records")], path)
    assert refused(workspace, "medklip", monkeypatch).found == "medklip.matched.seed1"
    path.unlink()
    assert "No rows" in refused(workspace, "medklip", monkeypatch).problem


def some_predictions(folders: Folders, task: str) -> Path:
    """Of the last run that is read."""
    rows = read_rows(folders.results / "rows.parquet")
    run = rows.loc[(rows["method"] == "medklip") & (rows["seed"] == 1), "run_id"].iloc[0]
    return next((folders.results / "predictions" / run).glob(f"{task}*.parquet"))


def test_missing_and_differing_predictions_are_named(
    copied: tuple[Workspace, Folders], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, folders = copied
    path = some_predictions(folders, RELATIONS)
    frame = read_predictions(path)
    write_predictions(frame[frame["sample"] != "s0011"], path, {})
    error = refused(workspace, "medklip", monkeypatch)
    assert error.where == str(path)
    assert "s0011" in str(error.found)
    path.unlink()
    error = refused(workspace, "medklip", monkeypatch)
    assert error.where == str(path)
    assert "not in the results folder" in error.problem


def test_what_one_method_cannot_do_is_left_out(copied: tuple[Workspace, Folders]) -> None:
    workspace, folders = copied
    path = folders.results / "rows.parquet"
    rows = read_rows(path)
    lacking = (rows["method"] == "medklip") & (rows["task"] == GROUNDING)
    runs = rows.loc[lacking, "run_id"].unique()
    write_rows([MeasuredRow(**row) for row in rows[~lacking].to_dict("records")], path)
    name = "zero_shot_grounding.nih-cxr14--phantom--v1.parquet"
    for run in runs:
        write_rows([], folders.results / "rows" / run / name, {"nothing": "The method makes no heat maps."})
    found = comparing.compare(workspace, "medslip", "medklip")
    assert {one.question.task for one in found.comparisons} == {CLASSIFICATION, RELATIONS}
    assert any("makes no heat maps" in why for why in found.left_out.values())
    assert "left out" in comparing.as_text(found)
    with pytest.raises(DataError, match="Nothing to compare"):
        comparing.compare(workspace, "medslip", "medklip", task=GROUNDING)
