"""What a tier consists of: its folders, its data sets and its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from replication.config import RunConfig, resolve
from replication.errors import ConfigError, nearest
from replication.protocol_config import Protocol, load_protocol
from replication.registry import METHODS, method_class, names
from replication.tier_config import TierConfig, load_tier
from replication.transfer_config import base_task

RUN_KEY = re.compile(r"(?P<method>[^~.]+)(~(?P<variant>.+))?\.(?P<recipe>[^.]+)\.seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Run:
    """One pre-training run of a tier.

    Attributes:
        label: ``medslip`` or ``medslip/no-protocl``.
    """

    label: str
    recipe: str
    seed: int

    @property
    def key(self) -> str:
        """Name of the run's folder and job, e.g. ``medslip~no-protocl.matched.seed0``."""
        return f"{self.label.replace('/', '~')}.{self.recipe}.seed{self.seed}"

    @classmethod
    def from_key(cls, key: str) -> Run:
        """The run of a folder name.

        Raises:
            ConfigError: not such a name.
        """
        match = RUN_KEY.fullmatch(key)
        if match is None:
            raise ConfigError("Not the name of a run.", found=key, allowed="METHOD[~VARIANT].RECIPE.seedN")
        label = match["method"] + (f"/{match['variant']}" if match["variant"] else "")
        return cls(label, match["recipe"], int(match["seed"]))


@dataclass(frozen=True)
class Workspace:
    """The folders of a tier.

    Attributes:
        work: everything that can be rebuilt; ignored by git.
        results: tables, figures, executed notebooks, rows and predictions.
        source: what the tier was opened by, its name or the path of its file.
    """

    tier: TierConfig
    work: Path
    results: Path
    source: str

    @classmethod
    def open(
        cls,
        tier: str,
        work: Path = Path("work"),
        results: Path = Path("results"),
        seeds: Sequence[int] = (),
    ) -> Workspace:
        """The folders of a tier below the two roots.

        Args:
            seeds: of the tier's; empty takes all.

        Raises:
            ConfigError: no such tier, or a seed is not one of the tier's.
        """
        config = load_tier(tier)
        if unknown := set(seeds) - set(config.seeds):
            raise ConfigError(
                "The tier has no such seed.",
                where=f"tier {config.name}",
                found=sorted(unknown),
                allowed=list(config.seeds),
                remedy="name one of these, or add the seed to the tier's file",
            )
        if seeds:
            config = config.model_copy(update={"seeds": tuple(seeds)})
        return cls(config, work / config.name, results / config.name, tier)

    def raw(self, dataset: str) -> Path:
        """The data set in its own on-disk format; for real data a link to where they lie."""
        return self.work / "raw" / dataset

    def prepared(self, dataset: str) -> Path:
        """Manifest and image cache."""
        return self.work / "prepared" / dataset

    @property
    def text(self) -> Path:
        """The text encoder that is trained in the pipeline."""
        return self.work / "text" / "tiny-bert"

    def run(self, run: Run) -> Path:
        """Weights and log of a run."""
        return self.work / "runs" / run.key

    @property
    def times(self) -> Path:
        """What each job took, a file per job as Snakemake measures it."""
        return self.work / "times"

    @property
    def label_fractions(self) -> Path:
        """The drawn orders of patients that label fractions are taken from."""
        return self.work / "label-fractions"

    @property
    def predictions(self) -> Path:
        """Scores and heat maps, a folder per run id."""
        return self.results / "predictions"

    @property
    def rows(self) -> Path:
        """Measured rows, a file per run id."""
        return self.results / "rows"

    def evaluated(self, key: str) -> Path:
        """Exists once all tasks of a run have their rows."""
        return self.rows / f"{key}.evaluated"


def runs(tier: TierConfig, only: Iterable[str] = ()) -> list[Run]:
    """All runs of a tier, seed by seed so that a first full picture comes early.

    Args:
        only: labels to keep, e.g. ``medslip`` or ``medslip/no-protocl``; empty keeps all.

    Raises:
        ConfigError: a label is not in the tier; names the nearest.
    """
    labels = [*tier.methods, *tier.variants]
    wanted = list(only) or labels
    for label in wanted:
        if label not in labels:
            known = {*labels, *names(METHODS)}
            raise ConfigError(
                f"Nothing of that name in tier {tier.name}.", found=label, remedy=nearest(label, known)
            )
    return [Run(label, tier.recipe, seed) for seed in tier.seeds for label in labels if label in wanted]


def protocols(tier: TierConfig, run: Run | None = None) -> list[Protocol]:
    """The protocols a tier evaluates.

    Args:
        run: only those of this run; a tier may ask for fewer of variants.
    """
    short = run is not None and "/" in run.label and run.label not in tier.variants_in_full
    fewer = tier.variant_protocols if short else ()
    return [load_protocol(protocol_id) for protocol_id in (fewer or tier.protocols)]


def datasets(tier: TierConfig) -> list[str]:
    """Data sets a tier needs: that of pre-training and those of its protocols."""
    return sorted({tier.pretrain, *(protocol.dataset for protocol in protocols(tier))})


def transfer_protocols(tier: TierConfig, task: str) -> list[Protocol]:
    """The protocols of a tier under which a task that learns from labels is done."""
    return [protocol for protocol in protocols(tier) if base_task(task) in protocol.tasks]


def transfer_tasks(tier: TierConfig, run: Run | None = None) -> list[str]:
    """The tasks of a tier that learn from labels and that a protocol of the tier asks for.

    Args:
        run: only those that this run does; variants do none unless the tier says so.
    """
    if tier.transfer is None or (run is not None and "/" in run.label and not tier.transfer.variants):
        return []
    tasks = [task for task in tier.transfer.tasks if transfer_protocols(tier, task)]
    return [t for t in tasks if run is None or run.label in tier.transfer.only.get(t, (run.label,))]


def split_rule(tier: TierConfig, dataset: str) -> str | None:
    """The split a tier prepares a data set with: that of its protocols; ``None`` is the reader's default.

    Raises:
        ConfigError: two protocols of the tier want different splits of one data set.
    """
    wanted = {protocol.split for protocol in protocols(tier) if protocol.dataset == dataset}
    if len(wanted) > 1:
        raise ConfigError(
            f"Tier {tier.name} asks for two splits of {dataset}.",
            found=sorted(wanted),
            remedy="put the protocols into two tiers, or prepare the second split into another folder",
        )
    return wanted.pop() if wanted else None


def trained_as(workspace: Workspace, run: Run) -> Run:
    """The run whose training makes the weights of a run: itself, or that of another variant."""
    return Run(run_config(workspace, run).trained_as, run.recipe, run.seed)


def run_config(workspace: Workspace, run: Run, data_fingerprint: str = "") -> RunConfig:
    """The full configuration of a run in a workspace."""
    method = run.label.partition("/")[0]
    return resolve(
        workspace.tier,
        run.label,
        run.seed,
        recipe=run.recipe,
        settings_class=method_class(method).settings_class,
        data_fingerprint=data_fingerprint,
    )
