"""The search for settings: equal trials for all methods, and tiers that use what the trials say."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from replication.config import resolve
from replication.config_files import CONFIGS
from replication.errors import ConfigError
from replication.registry import method_class
from replication.tier_config import SearchConfig, load_tier
from replication.workflow.plan import Workspace
from replication.workflow.search import Trial, collect_trials, trial_config, trials

ROOT = Path(__file__).resolve().parents[2]
SEARCHED = [
    name for name in (path.stem for path in (CONFIGS / "tiers").glob("*.yaml")) if load_tier(name).search
]


def workspace(tmp_path: Path, **search: object) -> Workspace:
    tier = load_tier("phantom").model_copy(
        update={
            "search": SearchConfig.model_validate(
                {"learning_rates": (1e-3, 4e-3), "epochs": 2, "seed": 99, "protocol": "x", **search}
            ),
            "methods": ("medslip", "convirt"),
            "variants": ("medslip/no-protocl",),
            "tuned": {"convirt": {"optimiser": {"lr": 0.5}}},
        }
    )
    return Workspace(tier, tmp_path / "work", tmp_path / "results", "phantom")


def test_every_method_gets_the_same_trials(tmp_path: Path) -> None:
    found = trials(workspace(tmp_path))
    assert sorted((t.method, t.learning_rate) for t in found) == [
        ("convirt", 1e-3),
        ("convirt", 4e-3),
        ("medslip", 1e-3),
        ("medslip", 4e-3),
    ]


def test_a_trial_differs_in_nothing_but_length_and_rate(tmp_path: Path) -> None:
    place = workspace(tmp_path)
    first, second = (trial_config(place, Trial("convirt", rate)).model_dump() for rate in (1e-3, 4e-3))
    assert (first["training"]["optimiser"]["lr"], second["training"]["optimiser"]["lr"]) == (1e-3, 4e-3)
    assert first["training"]["epochs"] == 2
    assert first["seed"] == 99
    second["training"]["optimiser"]["lr"] = 1e-3
    assert first == second


def test_a_trial_shares_no_seed_with_reported_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        trials(workspace(tmp_path, seed=0))


def test_a_tier_without_search_says_so(tmp_path: Path) -> None:
    tier = load_tier("phantom").model_copy(update={"search": None})
    with pytest.raises(ConfigError, match="no search"):
        trials(Workspace(tier, tmp_path, tmp_path, "phantom"))


def test_the_best_trial_is_chosen_and_ties_go_to_the_lower_rate(tmp_path: Path) -> None:
    place = workspace(tmp_path)
    aucs = {"medslip.lr0.001": 0.6, "medslip.lr0.004": 0.7, "convirt.lr0.001": 0.5, "convirt.lr0.004": 0.5}
    for trial in trials(place):
        folder = place.work / "search" / trial.key
        folder.mkdir(parents=True)
        values = {"method": trial.method, "learning_rate": trial.learning_rate}
        (folder / "trial.json").write_text(json.dumps({**values, "validation_auc": aucs[trial.key]}))
    table = pd.read_csv(collect_trials(place))
    chosen = table[table["chosen"]].set_index("method")["learning_rate"].to_dict()
    assert chosen == {"medslip": 0.004, "convirt": 0.001}


@pytest.mark.parametrize("name", SEARCHED)
def test_a_tier_trains_every_method_at_the_rate_its_trials_chose(name: str) -> None:
    """The trials on record and the tier's file must not drift apart."""
    tier = load_tier(name)
    table = pd.read_csv(ROOT / "results" / name / "search.csv")
    assert tier.search is not None
    chosen = table[table["chosen"]].set_index("method")["learning_rate"]
    for method in tier.methods:
        kind = method_class(method)
        if kind.supervision == "none":
            continue
        tried = table.loc[table["method"] == method, "learning_rate"]
        assert sorted(tried) == sorted(tier.search.learning_rates)
        run = resolve(tier, method, tier.seeds[0], settings_class=kind.settings_class)
        assert run.training.optimiser.lr == pytest.approx(chosen[method])
