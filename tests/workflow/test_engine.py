"""The profiles of Snakemake, and what each rule declares."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from replication.config_files import CONFIGS
from replication.errors import ConfigError
from replication.tier_config import load_tier
from replication.workflow import engine
from replication.workflow.engine import profile_folder, snakemake_command
from replication.workflow.needs import needs
from replication.workflow.plan import Workspace

SNAKEFILE = Path(engine.__file__).with_name("Snakefile")
TIERS = [path.stem for path in (CONFIGS / "tiers").glob("*.yaml")]


def rules() -> list[str]:
    lines = SNAKEFILE.read_text().splitlines()
    return [line.strip()[5:-1] for line in lines if line.strip().startswith("rule ") and "all" not in line]


def body(rule: str) -> str:
    return SNAKEFILE.read_text().partition(f"rule {rule}:\n")[2].partition("rule ")[0]


@pytest.mark.parametrize("rule", rules())
def test_every_rule_declares_cores_memory_time_and_accelerator(rule: str) -> None:
    assert f'threads: NEEDS["{rule}"].threads' in body(rule)
    assert f'**NEEDS["{rule}"].resources' in body(rule)


@pytest.mark.parametrize("tier", TIERS)
def test_what_rules_declare_is_set_for_every_tier(tier: str) -> None:
    config = load_tier(tier)
    found = needs(config)
    assert set(found) == set(rules()) - (set() if config.phantom else {"phantom"})
    for need in found.values():
        assert set(need.resources) == {"mem_mb", "runtime", "gpu"}
        assert min(need.threads, need.mem_mb, need.minutes) > 0
    assert all(found[rule].gpu == (config.phantom is None) for rule in ("pretrain", "trial", "evaluate"))


def command(**changes: object) -> list[str]:
    settings = {
        "tier": "smoke",
        "only": [],
        "cores": None,
        "dry_run": True,
    }
    return snakemake_command(Workspace.open("smoke"), **(settings | changes))  # type: ignore[arg-type]


def test_cores_are_two_the_profiles_or_the_users() -> None:
    assert command()[command().index("--cores") + 1] == "2"
    assert "--cores" not in command(profile="laptop")
    both = command(profile="laptop", cores=4)
    assert both[both.index("--cores") + 1] == "4"


def test_a_folder_of_ones_own_is_a_profile(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("cores: 3\n")
    assert profile_folder(str(tmp_path)) == tmp_path.resolve()


def test_an_executor_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("executor: no-such-thing\n")
    with pytest.raises(ConfigError, match="pip install snakemake-executor-plugin-no-such-thing"):
        profile_folder(str(tmp_path))


def test_the_slurm_profile_asks_for_what_only_the_user_knows() -> None:
    profile = yaml.safe_load((SNAKEFILE.parent / "profiles" / "slurm" / "config.yaml").read_text())
    assert profile["executor"] == "slurm"
    assert set(profile["default-resources"]) == {"slurm_account", "slurm_partition"}
    if find_spec("snakemake_executor_plugin_slurm") is None:
        with pytest.raises(ConfigError, match="pip install snakemake-executor-plugin-slurm"):
            profile_folder("slurm")
