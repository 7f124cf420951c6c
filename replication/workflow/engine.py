"""How Snakemake is called, on this machine or through a profile on a cluster, under a lock of its folders.

Snakemake's own lock outlives a killed process and then keeps the next run out. This one goes with the process
that does the work, so a run whose starter alone was killed still keeps others away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from replication.config_files import read_yaml
from replication.errors import ConfigError, UserError, nearest
from replication.files import locked

if TYPE_CHECKING:
    from replication.workflow.plan import Workspace

JOB_RATE = "1000/1m"
"""Snakemake looks at all jobs once per this time for each job that has ended; by default that is each second,
which comes to a tenth of a core in a run of a hundred jobs."""


def snakemake_command(
    workspace: Workspace,
    *,
    tier: str,
    only: Iterable[str],
    cores: int | None,
    dry_run: bool,
    target: str = "all",
    seeds: Iterable[int] = (),
    profile: str | None = None,
) -> list[str]:
    """The Snakemake call behind ``replicate run`` and ``replicate search``.

    Args:
        tier: name or file, as ``workspace`` was opened with.
        cores: jobs side by side; ``None`` is two, or what the profile says.
        profile: see ``profile_folder``.
    """
    engine = ["replication.workflow.engine", str(workspace.work), str(workspace.results)]
    return [
        sys.executable,
        "-m",
        *(["snakemake"] if dry_run else engine),
        target,
        "--snakefile",
        str(Path(__file__).with_name("Snakefile")),
        "--directory",
        str(Path.cwd()),
        *(["--profile", str(profile_folder(profile))] if profile else []),
        *(["--cores", str(cores or 2)] if cores or not profile else []),
        *([] if profile else ["--max-jobs-per-timespan", JOB_RATE]),
        "--rerun-incomplete",
        "--rerun-triggers",
        "mtime",
        "params",
        "input",
        "--keep-going",
        "--nolock",
        *(["--dry-run", "--printshellcmds"] if dry_run else ["--quiet", "rules"]),
        "--config",
        f"tier={tier}",
        f"work={workspace.work.parent}",
        f"results={workspace.results.parent}",
        f"only={','.join(only)}",
        f"seeds={','.join(map(str, seeds))}",
    ]


def profile_folder(name_or_path: str) -> Path:
    """A Snakemake profile of the suite by name, or a folder of the user's own.

    Raises:
        ConfigError: no such profile.
    """
    own, ours = Path(name_or_path), Path(__file__).with_name("profiles")
    for folder in (ours / name_or_path, own):
        if (folder / "config.yaml").is_file():
            _require_executor(folder / "config.yaml")
            return folder.resolve()
    known = sorted(path.parent.name for path in ours.glob("*/config.yaml"))
    raise ConfigError(
        "No such profile of Snakemake.",
        found=name_or_path,
        allowed=f"{', '.join(known)}, or a folder with a config.yaml",
        remedy=nearest(name_or_path, known),
    )


def _require_executor(profile: Path) -> None:
    """Refuse a profile whose executor is not installed."""
    executor = (read_yaml(profile) or {}).get("executor", "local")
    if executor != "local" and find_spec(f"snakemake_executor_plugin_{executor.replace('-', '_')}") is None:
        raise ConfigError(
            "The executor of a profile is not installed.",
            where=profile,
            found=executor,
            remedy=f"pip install snakemake-executor-plugin-{executor}",
        )


def environment_for_jobs() -> dict[str, str]:
    """The environment of jobs.

    One thread for numerical libraries, so that parallel jobs do not compete. Memory that is freed stays with
    the process (settings of glibc, which others ignore): a training step asks for the same again, and giving
    it back and forth costs 5 to 8 % of a step.
    """
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "MALLOC_MMAP_THRESHOLD_": str(2**25),
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
        "MALLOC_TOP_PAD_": str(2**28),
    }


def main(work: str, results: str, arguments: Sequence[str]) -> None:
    """Run Snakemake; exits with its status, or with 2 where the folders are in use or cannot be written.

    Args:
        work, results: the folders of the tier. arguments: Snakemake's.
    """
    doing = "running this tier"
    try:
        with locked(Path(work), doing), locked(Path(results), doing):
            from snakemake.cli import main as snakemake

            snakemake(list(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        # Not by sys.exit, which would wait up to a minute for the timers behind JOB_RATE.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
