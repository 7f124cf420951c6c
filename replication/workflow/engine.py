"""Snakemake under a lock of the folders that it writes into; ``replicate run`` starts it as a process.

Snakemake's own lock outlives a killed process and then keeps the next run out. This one goes with the process
that does the work, so a run whose starter alone was killed still keeps others away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from replication.errors import UserError
from replication.files import locked

if TYPE_CHECKING:
    from replication.workflow.plan import Workspace


def snakemake_command(
    workspace: Workspace,
    *,
    work: Path,
    results: Path,
    tier: str,
    only: Iterable[str],
    cores: int,
    dry_run: bool,
    target: str = "all",
    seeds: Iterable[int] = (),
) -> list[str]:
    """The Snakemake call behind ``replicate run`` and ``replicate search``."""
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
        "--cores",
        str(cores),
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
        f"work={work}",
        f"results={results}",
        f"only={','.join(only)}",
        f"seeds={','.join(map(str, seeds))}",
    ]


def environment_for_jobs() -> dict[str, str]:
    """The environment of jobs: one thread for numerical libraries, so that parallel jobs do not compete."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}


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


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
