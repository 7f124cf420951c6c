from __future__ import annotations

from pathlib import Path

import pytest

from replication.config import load_recipes
from replication.config_files import CONFIGS
from replication.errors import ConfigError
from replication.tier_config import load_tier
from replication.transfer_config import TransferConfig
from replication.workflow.plan import (
    Run,
    Workspace,
    datasets,
    protocols,
    run_config,
    runs,
    split_rule,
    trained_as,
    transfer_protocols,
    transfer_tasks,
)


@pytest.mark.parametrize("label", ["medslip", "medslip/no-protocl", "medslip/alpha-0.5"])
def test_run_key_round_trips(label: str) -> None:
    run = Run(label, "matched", 3)
    assert Run.from_key(run.key) == run


def test_a_folder_name_that_is_no_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="METHOD"):
        Run.from_key("medslip")


def test_runs_come_seed_by_seed_and_only_filters() -> None:
    tier = load_tier("phantom")
    everything = runs(tier)
    assert len(everything) == len(tier.seeds) * (len(tier.methods) + len(tier.variants))
    assert [run.seed for run in everything] == sorted(run.seed for run in everything)
    assert {run.label for run in runs(tier, ["medklip"])} == {"medklip"}


def test_unknown_label_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'medklip'"):
        runs(load_tier("phantom"), ["medklipp"])


def test_a_variant_of_evaluation_takes_the_weights_of_its_method(tmp_path: Path) -> None:
    workspace = Workspace.open("phantom", tmp_path / "work", tmp_path / "results")
    variant = Run("medslip/random-grounding-query", "matched", 1)
    assert trained_as(workspace, variant) == Run("medslip", "matched", 1)
    trained = Run("medslip/linear-gate", "matched", 1)
    assert trained_as(workspace, trained) == trained


@pytest.mark.parametrize("method", [path.stem for path in (CONFIGS / "recipes").glob("*.yaml")])
def test_variants_of_evaluation_change_nothing_that_is_trained(method: str, tmp_path: Path) -> None:
    workspace = Workspace.open("phantom", tmp_path / "work", tmp_path / "results")
    for variant in load_recipes(method).variants:
        run = Run(f"{method}/{variant}", "matched", 0)
        config, origin = run_config(workspace, run), run_config(workspace, trained_as(workspace, run))
        if run != trained_as(workspace, run):
            assert config.run_id != origin.run_id
            assert (config.training, config.trunk, config.text) == (
                origin.training,
                origin.trunk,
                origin.text,
            )


def test_run_ids_differ_between_methods_seeds_and_data(tmp_path: Path) -> None:
    workspace = Workspace.open("phantom", tmp_path / "work", tmp_path / "results")
    ids = {run_config(workspace, run, data).run_id for run in runs(workspace.tier) for data in ("a", "b")}
    assert len(ids) == 2 * len(runs(workspace.tier))


def test_datasets_include_pretraining_and_protocols() -> None:
    tier = load_tier("phantom")
    assert tier.pretrain in datasets(tier)
    assert split_rule(tier, "nih-cxr14") == "official"


def test_two_splits_of_one_data_set_in_one_tier_are_refused() -> None:
    tier = load_tier("phantom").model_copy(
        update={"protocols": ("nih-cxr14/phantom/v1", "nih-cxr14/patient-seeded/v1")}
    )
    with pytest.raises(ConfigError, match="two splits of nih-cxr14"):
        split_rule(tier, "nih-cxr14")


def test_a_tier_does_the_tasks_that_its_protocols_ask_for() -> None:
    tasks = ("linear_probe", "finetune_segmentation_frozen")
    tier = load_tier("phantom").model_copy(update={"transfer": TransferConfig(tasks=tasks)})
    assert transfer_tasks(tier) == list(tasks)
    datasets_of = {task: [p.dataset for p in transfer_protocols(tier, task)] for task in tasks}
    assert datasets_of["linear_probe"] == ["nih-cxr14", "rsna-pneumonia", "siim-acr", "covidx-cxr4"]
    assert datasets_of["finetune_segmentation_frozen"] == ["rsna-pneumonia", "siim-acr"]
    without = tier.model_copy(update={"protocols": ("nih-cxr14/phantom/v1",)})
    assert transfer_tasks(without) == ["linear_probe"]
    assert transfer_tasks(tier.model_copy(update={"transfer": None})) == []


def test_variants_are_transferred_only_if_the_tier_says_so() -> None:
    tier = load_tier("phantom").model_copy(update={"transfer": TransferConfig(tasks=("linear_probe",))})
    method, variant = Run("medslip", "matched", 0), Run("medslip/no-protocl", "matched", 0)
    assert transfer_tasks(tier, method) == ["linear_probe"]
    assert transfer_tasks(tier, variant) == []
    everything = tier.model_copy(update={"transfer": tier.transfer.model_copy(update={"variants": True})})
    assert transfer_tasks(everything, variant) == ["linear_probe"]


def test_variants_are_evaluated_under_the_protocols_that_the_tier_keeps_for_them() -> None:
    kept = ("nih-cxr14/phantom/v1",)
    tier = load_tier("phantom").model_copy(update={"variant_protocols": kept})
    method, variant = Run("medslip", "matched", 0), Run("medslip/alpha-2", "matched", 0)
    in_full = Run(tier.variants_in_full[0], "matched", 0)
    assert tuple(protocol.id for protocol in protocols(tier, variant)) == kept
    assert protocols(tier, in_full) == protocols(tier)
    assert protocols(tier, method) == protocols(tier)
    without = tier.model_copy(update={"variant_protocols": ()})
    assert protocols(without, variant) == protocols(without)


def test_a_task_can_be_left_to_some_methods() -> None:
    settings = TransferConfig(
        tasks=("linear_probe", "finetune_classification_test_selected"),
        only={"finetune_classification_test_selected": ("medslip",)},
    )
    tier = load_tier("phantom").model_copy(update={"transfer": settings})
    assert transfer_tasks(tier, Run("medslip", "matched", 0)) == list(settings.tasks)
    assert transfer_tasks(tier, Run("convirt", "matched", 0)) == ["linear_probe"]
    assert transfer_tasks(tier) == list(settings.tasks)
