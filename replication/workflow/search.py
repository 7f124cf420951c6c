"""The search for settings: the same trials for every method, judged on validation images alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from replication.config import RunConfig
from replication.config_files import merge
from replication.errors import ConfigError
from replication.protocol_config import load_protocol
from replication.records import atomic, provenance, read_json, write_json
from replication.registry import method_class
from replication.tier_config import SearchConfig
from replication.workflow.plan import Run, Workspace, run_config, runs

TABLE = "search.csv"


@dataclass(frozen=True)
class Trial:
    """One method at one learning rate."""

    method: str
    learning_rate: float

    @property
    def key(self) -> str:
        """Name of the trial's folder and job, e.g. ``medslip.lr0.002``."""
        return f"{self.method}.lr{self.learning_rate:g}"


def search_config(workspace: Workspace) -> SearchConfig:
    """The search of a tier.

    Raises:
        ConfigError: the tier names none, or its seed is one of the seeds that results are reported of.
    """
    tier = workspace.tier
    if tier.search is None:
        raise ConfigError(f"Tier {tier.name} has no search.", remedy="add the key search to its file")
    if tier.search.seed in tier.seeds:
        raise ConfigError(
            "Trials must not share a seed with reported runs.",
            where=f"tier {tier.name}, search.seed",
            found=tier.search.seed,
            allowed=f"none of {list(tier.seeds)}",
        )
    return tier.search


def trials(workspace: Workspace, only: Iterable[str] = ()) -> list[Trial]:
    """All trials of a tier; a method that learns nothing has none, and variants go by their method."""
    rates = search_config(workspace).learning_rates
    labels = dict.fromkeys(run.label for run in runs(workspace.tier, only))
    methods = [label for label in labels if "/" not in label and method_class(label).supervision != "none"]
    return [Trial(method, rate) for rate in rates for method in methods]


def trial_workspace(workspace: Workspace, trial: Trial) -> Workspace:
    """The tier as a trial sees it: shorter, at the trial's learning rate, nothing tuned."""
    search = search_config(workspace)
    changed = {"epochs": search.epochs, "optimiser": {"lr": trial.learning_rate}}
    tier = workspace.tier.model_copy(
        update={"training": merge(workspace.tier.training, changed), "tuned": {}}
    )
    return replace(workspace, tier=tier)


def trial_config(workspace: Workspace, trial: Trial) -> RunConfig:
    """The configuration of a trial, before it is tied to data."""
    seed = search_config(workspace).seed
    return run_config(trial_workspace(workspace, trial), Run(trial.method, workspace.tier.recipe, seed))


def run_trial(workspace: Workspace, trial: Trial, *, threads: int = 1, progress: bool = True) -> Path:
    """Train a trial, judge it, and write ``trial.json`` into its folder."""
    from replication.checkpoints import load_run
    from replication.data.batches import PreparedData
    from replication.tasks.zero_shot_classification import validation_auc
    from replication.training import pretrain
    from replication.workflow.steps import configured, load_text_encoder

    search = search_config(workspace)
    run = Run(trial.method, workspace.tier.recipe, search.seed)
    out = workspace.work / "search" / trial.key
    text_encoder = load_text_encoder(trial_workspace(workspace, trial), run)
    data = PreparedData.open(workspace.prepared(workspace.tier.pretrain))
    config = configured(trial_workspace(workspace, trial), run, data, text_encoder)
    pretrain(config, data, text_encoder, out, threads=threads, progress=progress)
    method, _ = load_run(out, text_encoder)
    protocol = load_protocol(search.protocol)
    judged = PreparedData.open(workspace.prepared(protocol.dataset))
    outcome = {
        "method": trial.method,
        "learning_rate": trial.learning_rate,
        "epochs": search.epochs,
        "seed": search.seed,
        "protocol": protocol.id,
        "images": len(judged.rows("val")),
        "validation_auc": validation_auc(method, judged, protocol),
        "run_id": config.run_id,
        "code_version": provenance().code_version,
    }
    write_json(out / "trial.json", outcome)
    return out / "trial.json"


def collect_trials(workspace: Workspace, only: Iterable[str] = ()) -> Path:
    """Write ``search.csv`` of a tier: every trial, and which one its method is trained with.

    The best is the highest validation AUC; of equal ones, the lower learning rate.
    """
    done = [read_json(workspace.work / "search" / t.key / "trial.json") for t in trials(workspace, only)]
    table = pd.DataFrame(done).sort_values(["method", "learning_rate"], ignore_index=True)
    table["chosen"] = table.index.isin(table.groupby("method")["validation_auc"].idxmax())
    target = workspace.results / TABLE
    with atomic(target) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return target
