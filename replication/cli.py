"""``replicate``: the commands of the suite."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from replication.cli_checkpoint import checkpoint_app
from replication.cli_data import data_app
from replication.cli_options import (
    DEFAULT_RESULTS,
    DEFAULT_WORK,
    AllowLeaks,
    AsJson,
    Only,
    RecipeName,
    Results,
    Seeds,
    Threads,
    Tier,
    Work,
    labels_of,
)
from replication.cli_run import run, search
from replication.errors import ConfigError, UserError, nearest
from replication.files import storage_error
from replication.workflow.plan import Run, Workspace, transfer_tasks

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=__doc__,
)
app.add_typer(data_app, name="data")
app.add_typer(checkpoint_app, name="checkpoint")
app.command()(run)
app.command()(search)


@app.command("list")
def list_things(
    what: Annotated[str, typer.Argument(help="methods, datasets, tasks, protocols, tables or tiers")],
    as_json: AsJson = False,
) -> None:
    """List what the suite knows."""
    from replication.workflow.catalogue import CATALOGUES

    if what not in CATALOGUES:
        raise ConfigError("Nothing of that kind to list.", found=what, remedy=nearest(what, CATALOGUES))
    entries: list[dict[str, Any]] = CATALOGUES[what]()
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        name, *rest = entry.values()
        typer.echo("  ".join([f"{name:32}", *(str(value) for value in rest)]).rstrip())


@app.command("text-encoder")
def text_encoder(
    tier: Tier = "smoke", threads: Threads = 1, work: Work = DEFAULT_WORK, results: Results = DEFAULT_RESULTS
) -> None:
    """Train the tier's text encoder on its reports; or fetch the pre-trained ones, as safetensors."""
    from replication.workflow import text_encoders
    from replication.workflow.steps import train_text_encoder

    workspace = Workspace.open(tier, work, results)
    if workspace.tier.text.kind == "tiny-bert":
        typer.echo(train_text_encoder(workspace, threads=threads))
        return
    for path in text_encoders.fetch(workspace):
        typer.echo(path)


def _selected(
    workspace: Workspace, method: str | None, run_key: str | None, seed: int | None, recipe: str | None
) -> list[Run]:
    """The runs a command is meant for: one by its key, or those of a method."""
    if run_key:
        return [Run.from_key(run_key)]
    if method is None:
        raise ConfigError("No method given.", remedy="name a METHOD, or a run with --run")
    seeds = [seed] if seed is not None else list(workspace.tier.seeds)
    return [Run(method, recipe or workspace.tier.recipe, s) for s in seeds]


Method = Annotated[str | None, typer.Argument(help="METHOD or METHOD/VARIANT")]
RunKey = Annotated[str | None, typer.Option("--run", help="METHOD[~VARIANT].RECIPE.seedN, instead of METHOD")]
Seed = Annotated[int | None, typer.Option(help="one seed; all of the tier if left out")]


@app.command()
def pretrain(
    method: Method = None,
    run_key: RunKey = None,
    seed: Seed = None,
    recipe: RecipeName = None,
    tier: Tier = "smoke",
    threads: Threads = 1,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Pre-train a method; resumes an interrupted run."""
    from replication.workflow.steps import pretrain_run

    workspace = Workspace.open(tier, work, results)
    for chosen in _selected(workspace, method, run_key, seed, recipe):
        typer.echo(pretrain_run(workspace, chosen, threads=threads))


@app.command()
def evaluate(
    method: Method = None,
    run_key: RunKey = None,
    seed: Seed = None,
    recipe: RecipeName = None,
    protocol: Annotated[list[str] | None, typer.Option(help="protocols instead of the tier's")] = None,
    prepared: Annotated[Path | None, typer.Option(help="prepared folder instead of the tier's")] = None,
    allow_leaks: AllowLeaks = False,
    and_transfer: Annotated[
        bool, typer.Option("--transfer", help="also the tier's tasks that learn from labels")
    ] = False,
    tier: Tier = "smoke",
    threads: Threads = 1,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Predict and measure: writes predictions and rows of a pre-trained run."""
    from replication.workflow.steps import evaluate_run, transfer_run

    workspace = Workspace.open(tier, work, results)
    for chosen in _selected(workspace, method, run_key, seed, recipe):
        evaluate_run(
            workspace,
            chosen,
            protocol_ids=protocol or [],
            prepared=prepared,
            threads=threads,
            allow_leaks=allow_leaks,
        )
        for task in transfer_tasks(workspace.tier, chosen) if and_transfer else ():
            transfer_run(workspace, chosen, task, threads=threads, allow_leaks=allow_leaks)
        typer.echo(f"evaluated {chosen.key}")


@app.command()
def transfer(
    method: Method = None,
    task: Annotated[
        str, typer.Option(help="a task that learns from labels, see `replicate list tasks`")
    ] = "",
    run_key: RunKey = None,
    seed: Seed = None,
    recipe: RecipeName = None,
    fraction: Annotated[list[float] | None, typer.Option(help="of the labels, instead of the tier's")] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="protocols instead of the tier's")] = None,
    prepared: Annotated[Path | None, typer.Option(help="prepared folder instead of the tier's")] = None,
    allow_leaks: AllowLeaks = False,
    tier: Tier = "smoke",
    threads: Threads = 1,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Learn from the labels of downstream data: linear probe, fine-tuned classification, segmentation."""
    from replication.workflow.steps import transfer_run

    workspace = Workspace.open(tier, work, results)
    for chosen in _selected(workspace, method, run_key, seed, recipe):
        transfer_run(
            workspace,
            chosen,
            task,
            fractions=fraction or [],
            protocol_ids=protocol or [],
            prepared=prepared,
            threads=threads,
            allow_leaks=allow_leaks,
        )
        typer.echo(f"{task} of {chosen.key}")


@app.command()
def rows(
    tier: Tier = "smoke",
    only: Only = None,
    seed: Seeds = None,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Collect the measured rows of a tier into rows.parquet."""
    from replication.workflow.steps import collect_rows

    typer.echo(collect_rows(Workspace.open(tier, work, results, seed or []), labels_of(only)))


@app.command()
def report(
    tier: Tier = "smoke",
    notebook: Annotated[list[str] | None, typer.Option(help="only these notebooks")] = None,
    site: Annotated[bool, typer.Option("--site", help="only the site")] = False,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Execute the notebooks (tables and figures) and build the site."""
    from replication.workflow.steps import build_report

    workspace = Workspace.open(tier, work, results)
    names = [] if site else (notebook or list(workspace.tier.notebooks))
    for path in build_report(workspace, names, site=site or not notebook):
        typer.echo(path)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="CSV: sample, finding, score (one row per pair)")],
    protocol: Annotated[str, typer.Option(help="protocol to score with")],
    prepared: Annotated[Path, typer.Option(help="prepared folder of the protocol's data set")],
    out: Annotated[Path | None, typer.Option(help="CSV of rows to write; printed if left out")] = None,
    allow_leaks: AllowLeaks = False,
) -> None:
    """Score somebody else's predictions; no model needed."""
    from replication.data.batches import PreparedData
    from replication.files import atomic
    from replication.protocol_config import load_protocol
    from replication.tasks.evaluate import score_predictions

    table = score_predictions(
        predictions, load_protocol(protocol), PreparedData.open(prepared), allow_leaks=allow_leaks
    )
    if out is None:
        typer.echo(table.to_string(index=False))
    else:
        with atomic(out) as temporary:
            table.to_csv(temporary, index=False)
        typer.echo(out)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="METHOD or METHOD/VARIANT")],
    b: Annotated[str, typer.Argument(help="the one that is subtracted from it")],
    tier: Tier = "smoke",
    task: Annotated[str | None, typer.Option(help="only this task")] = None,
    protocol: Annotated[str | None, typer.Option(help="only this protocol")] = None,
    metric: Annotated[str | None, typer.Option(help="this metric instead of the main ones")] = None,
    as_json: AsJson = False,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Test the difference of two methods on the images that both were evaluated on."""
    from replication.workflow import compare as comparing

    outcome = comparing.compare(
        Workspace.open(tier, work, results), a, b, task=task, protocol=protocol, metric=metric
    )
    typer.echo(comparing.as_json(outcome) if as_json else comparing.as_text(outcome))


@app.command()
def doctor(tier: Tier = "smoke", work: Work = DEFAULT_WORK, results: Results = DEFAULT_RESULTS) -> None:
    """Check that this machine and its data are ready for a tier."""
    from replication.workflow.doctor import examine

    findings = examine(Workspace.open(tier, work, results))
    for finding in findings:
        typer.echo(f"{finding.status:7}  {finding.what}: {finding.state}")
        if finding.remedy:
            typer.echo(f"         {finding.remedy}")
    raise SystemExit(0 if all(finding.status == "ok" for finding in findings) else 1)


def _fail(error: UserError) -> NoReturn:
    typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
    sys.exit(2)


def main() -> None:
    """Run a command; a user's mistake, or a disk that cannot be written, is printed without a traceback."""
    try:
        app()
    except UserError as error:
        _fail(error)
    except OSError as error:
        if (reported := storage_error(error)) is None:
            raise
        _fail(reported)
    except KeyboardInterrupt:
        typer.secho("interrupted; run the same command again to go on", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
