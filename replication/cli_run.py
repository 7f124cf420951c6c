"""``replicate run`` and ``replicate search``: the jobs of a tier, or the plan of them."""

from __future__ import annotations

import subprocess
from typing import Annotated

import typer

from replication.cli_options import (
    DEFAULT_RESULTS,
    DEFAULT_WORK,
    Only,
    Results,
    Seeds,
    Threads,
    Tier,
    Work,
    labels_of,
)
from replication.errors import ConfigError, UserError, nearest
from replication.workflow.plan import Run, Workspace, runs


def _execute(command: list[str], workspace: Workspace, *, dry_run: bool) -> int:
    """Run Snakemake with its own listing of jobs, or with our progress; its exit status."""
    from replication.workflow.engine import environment_for_jobs
    from replication.workflow.progress import run_with_progress

    if dry_run:
        return subprocess.run(command, env=environment_for_jobs(), check=False).returncode
    return run_with_progress(command, workspace, environment_for_jobs())


def _measure(workspace: Workspace, chosen: list[Run]) -> None:
    """Probe each method once; what cannot be tried is said."""
    from replication.workflow.probe import probe_all
    from replication.workflow.speed import keep_speeds

    for label, outcome in probe_all(workspace, chosen):
        if isinstance(outcome, UserError):
            typer.echo(f"{label}: not measured\n{outcome}", err=True)
        else:
            typer.echo(f"{label}: {outcome.images_per_second:.2f} images/s ({outcome.source})", err=True)
            keep_speeds(workspace, [outcome])


def run(
    tier: Tier = "smoke",
    only: Only = None,
    seed: Seeds = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan: jobs, missing data, disk, time; run nothing")
    ] = False,
    jobs: Annotated[bool, typer.Option("--jobs", help="with --dry-run: Snakemake's list of jobs")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="with --dry-run: time some steps of each method on this machine")
    ] = False,
    images_per_second: Annotated[
        list[str] | None,
        typer.Option(help="with --dry-run: METHOD=N, or a CSV file like speed.csv; may be repeated"),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="jobs side by side; 2, or the profile's, if left out")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Snakemake profile: laptop, slurm, or a folder of your own")
    ] = None,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Run the whole replication of a tier; what is done already is not done again."""
    from replication.workflow.engine import environment_for_jobs, snakemake_command
    from replication.workflow.stages import write_stages

    if not dry_run and (jobs or measure or images_per_second):
        raise ConfigError(
            "--jobs, --measure and --images-per-second belong to a plan.", remedy="add --dry-run"
        )
    workspace = Workspace.open(tier, work, results, seed or [])
    labels = labels_of(only)
    chosen = runs(workspace.tier, labels)
    command = snakemake_command(
        workspace,
        tier=tier,
        only=labels,
        cores=cores,
        profile=profile,
        dry_run=dry_run,
        seeds=seed or [],
    )
    if dry_run and not jobs:
        from replication.workflow.overview import job_counts, overview
        from replication.workflow.speed import known_speeds

        if measure:
            _measure(workspace, chosen)
        speeds = known_speeds(workspace, images_per_second or [])
        typer.echo(overview(workspace, chosen, job_counts(command, environment_for_jobs()), speeds))
        return
    status = _execute(command, workspace, dry_run=dry_run)
    if dry_run:
        raise SystemExit(status)
    if status == 0:
        if taken := write_stages(workspace):
            typer.echo(taken)
        typer.echo(f"done: {workspace.results}/site/index.html, tables/, figures/, notebooks/, rows.parquet")
    raise SystemExit(status)


def search(
    tier: Tier = "phantom",
    only: Only = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the jobs, run none")] = False,
    cores: Annotated[int, typer.Option(min=1, help="jobs side by side")] = 2,
    trial: Annotated[str | None, typer.Option(help="run this trial alone, e.g. medslip.lr0.002")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="only write the table of trials")] = False,
    threads: Threads = 1,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Try every learning rate of a tier on every method; validation images judge. Writes search.csv."""
    from replication.workflow.engine import snakemake_command
    from replication.workflow.search import collect_trials, run_trial, trials

    workspace = Workspace.open(tier, work, results)
    labels = labels_of(only)
    known = {one.key: one for one in trials(workspace, labels)}
    if trial is not None:
        if trial not in known:
            raise ConfigError("No such trial.", found=trial, remedy=nearest(trial, known))
        typer.echo(run_trial(workspace, known[trial], threads=threads))
        return
    if collect:
        typer.echo(collect_trials(workspace, labels))
        return
    command = snakemake_command(
        workspace,
        tier=tier,
        only=labels,
        cores=cores,
        dry_run=dry_run,
        target="search",
    )
    status = _execute(command, workspace, dry_run=dry_run)
    if dry_run:
        raise SystemExit(status)
    if status == 0:
        typer.echo((workspace.results / "search.csv").read_text(encoding="utf-8").rstrip())
    raise SystemExit(status)
