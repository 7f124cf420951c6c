"""``replicate data``: generate, prepare and verify data sets, fetch split lists, look for leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replication.cli_options import DEFAULT_RESULTS, DEFAULT_WORK, Results, Tier, Work
from replication.errors import ConfigError
from replication.workflow.plan import Workspace, datasets

if TYPE_CHECKING:
    import pandas as pd

data_app = typer.Typer(
    no_args_is_help=True,
    help="Generate, prepare and verify data sets, fetch split lists, look for leaks.",
    rich_markup_mode=None,
)
splits_app = typer.Typer(no_args_is_help=True, help="Published split lists.", rich_markup_mode=None)
data_app.add_typer(splits_app, name="splits")


@data_app.command("phantom")
def data_phantom(
    dataset: Annotated[str | None, typer.Argument(help="one data set; all of the tier if left out")] = None,
    tier: Tier = "smoke",
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Generate phantom data sets in the on-disk formats of the real ones."""
    from replication.workflow.steps import make_phantom

    workspace = Workspace.open(tier, work, results)
    for name in [dataset] if dataset else datasets(workspace.tier):
        typer.echo(make_phantom(workspace, name, workers=workers))


@data_app.command("prepare")
def data_prepare(
    dataset: Annotated[str, typer.Argument(help="name of the data set, see `replicate list datasets`")],
    source: Annotated[
        Path | None, typer.Option(help="folder of the data set; the tier's if left out")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder to write; the tier's if left out")] = None,
    split: Annotated[str | None, typer.Option(help="split rule; the tier's or the reader's default")] = None,
    size: Annotated[int | None, typer.Option(min=16, help="side of the cached images in pixels")] = None,
    equalize: Annotated[bool, typer.Option(help="histogram equalisation on reading")] = False,
    quarantine: Annotated[
        float,
        typer.Option(min=0, max=1, help="share of the images that may be damaged; listed in quarantine.csv"),
    ] = 0.0,
    tier: Tier = "smoke",
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Check every file of a data set and write its manifest and image cache."""
    workspace = Workspace.open(tier, work, results)
    if source is None:
        from replication.workflow.steps import prepare_dataset

        typer.echo(prepare_dataset(workspace, dataset, workers=workers, quarantine=quarantine))
        return
    from replication.data.prepare import prepare

    typer.echo(
        prepare(
            dataset,
            source,
            out or workspace.prepared(dataset),
            size=size or workspace.tier.image_size,
            split=split,
            workers=workers,
            equalize=equalize,
            quarantine=quarantine,
        )
    )


@data_app.command("verify")
def data_verify(
    folder: Annotated[Path, typer.Argument(help="a prepared folder, or the files of --dataset")],
    source: Annotated[Path | None, typer.Option(help="also compare with the files it was made from")] = None,
    protocol: Annotated[str | None, typer.Option(help="also check the counts of this protocol")] = None,
    dataset: Annotated[str | None, typer.Option(help="what the files are, where none is prepared")] = None,
    split: Annotated[str | None, typer.Option(help="split rule of --dataset")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Check a prepared folder (schema, hashes, patients, counts), or every file of a data set."""
    from replication.data.verify import verify
    from replication.protocol_config import load_protocol

    report = verify(
        folder,
        source=source,
        protocol=load_protocol(protocol) if protocol else None,
        dataset=dataset,
        split=split,
        workers=workers,
    )
    typer.echo(json.dumps(report, indent=2))


@data_app.command("leaks")
def data_leaks(
    a: Annotated[Path | None, typer.Argument(help="a prepared folder, unless --tier is given")] = None,
    b: Annotated[Path | None, typer.Argument(help="a second one, compared with the first")] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the table; beside the prepared folder if left out")
    ] = None,
    tier: Annotated[
        str | None, typer.Option(help="a table for each protocol of a tier, pre-training data included")
    ] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="of --tier; may be repeated")] = None,
    work: Work = DEFAULT_WORK,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Look for patients and pictures in two splits, of one data set or across two; exit status 1 if any."""
    if a is not None and tier is None and not protocol:
        leak = _folder_leaks(a, b, out)
    elif a is None and tier is not None and out is None:
        leak = _protocol_leaks(Workspace.open(tier, work, results), protocol or [])
    else:
        raise ConfigError(
            "Name what to compare.",
            where="replicate data leaks",
            allowed="one or two prepared folders, with --out; or --tier, with --protocol",
        )
    raise SystemExit(1 if leak else 0)


def _folder_leaks(a: Path, b: Path | None, out: Path | None) -> bool:
    from replication.data.batches import PreparedData
    from replication.data.leaks import check_leaks

    first = PreparedData.open(a, allow_leaks=True)
    second = PreparedData.open(b, allow_leaks=True) if b is not None else None
    check = check_leaks(first, second)
    path = check.write(out)
    _tell_shared(check.table)
    typer.echo(f"{'LEAKS' if len(check.leaks) else 'no leak'}: {path}")
    return bool(len(check.leaks))


def _protocol_leaks(workspace: Workspace, protocols: list[str]) -> bool:
    from replication.workflow.leak_tables import leak_tables

    leak = False
    for found in leak_tables(workspace, protocols):
        typer.echo(found.protocol)
        _tell_shared(found.table)
        typer.echo(f"{'LEAKS' if found.leaks else 'no leak'}: {found.path}\n")
        leak = leak or found.leaks
    return leak


def _tell_shared(table: pd.DataFrame) -> None:
    shared = table[table["shared"] > 0]
    columns = [name for name in table.columns if not name.startswith("example")]
    typer.echo(shared[columns].to_string(index=False) if len(shared) else "nothing is shared")


@splits_app.command("list")
def splits_list() -> None:
    """Name the published split lists, what they come from, and what of them is checked."""
    from replication.data.split_lists import all_split_lists

    for one in all_split_lists():
        typer.echo(f"{one.id:32}  {one.origin}")


@splits_app.command("fetch")
def splits_fetch(
    name: Annotated[str, typer.Argument(help="DATASET/RULE, see `replicate data splits list`")],
    source: Annotated[Path, typer.Option(help="folder of the raw data set, which the lists are put into")],
    file: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH: a list that you already have; may be repeated")
    ] = None,
) -> None:
    """Put the lists of a published split beside the raw data, from their public repository or from files."""
    from replication.data.split_fetch import fetch
    from replication.data.split_lists import load_split_list

    given = dict(item.partition("=")[::2] for item in file or [])
    for path in fetch(load_split_list(name), source, {key: Path(value) for key, value in given.items()}):
        typer.echo(path)
