"""``replicate checkpoint``: released weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from replication.cli_options import DEFAULT_RESULTS, DEFAULT_WORK, RecipeName, Results, Tier, Work
from replication.workflow.plan import Workspace

checkpoint_app = typer.Typer(
    no_args_is_help=True, help="Released weights: inspect, convert, check agreement.", rich_markup_mode=None
)


@checkpoint_app.command("inspect")
def checkpoint_inspect(path: Annotated[Path, typer.Argument(help="a .pth or .safetensors file")]) -> None:
    """List the tensors of a checkpoint; nothing in the file is executed."""
    from replication.checkpoints import read_tensors

    for key, tensor in read_tensors(path).items():
        typer.echo(f"{key}\t{tuple(tensor.shape)}\t{str(tensor.dtype).removeprefix('torch.')}")


@checkpoint_app.command("convert")
def checkpoint_convert(
    path: Annotated[Path, typer.Argument(help="the authors' checkpoint")],
    method: Annotated[str, typer.Option(help="whose checkpoint it is")],
    out: Annotated[Path, typer.Option(help="run folder to write")],
    tier: Tier = "paper",
    recipe: RecipeName = "published",
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Turn released weights into a run folder that `replicate evaluate` understands."""
    from replication.workflow.steps import convert_released

    report = convert_released(Workspace.open(tier, work, results), method, path, out, recipe=recipe)
    typer.echo(json.dumps({"mapped": report.mapped, "ignored": report.ignored}, indent=2))


@checkpoint_app.command("parity")
def checkpoint_parity(
    method: Annotated[str, typer.Option(help="medslip or medklip")],
    reference: Annotated[Path, typer.Option(help="stem of the reference: STEM.json and STEM.npz")],
) -> None:
    """Compare with outputs of the released code; prints one JSON object, exit status 1 if they differ."""
    from replication.parity import check_parity

    outcome = check_parity(method, reference)
    typer.echo(json.dumps(outcome))
    raise SystemExit(0 if outcome["ok"] else 1)
