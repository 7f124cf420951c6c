"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Tier = Annotated[str, typer.Option(help="smoke, phantom, paper, or a YAML file of your own")]
Work = Annotated[Path, typer.Option(help="folder for everything that can be rebuilt")]
Results = Annotated[Path, typer.Option(help="folder for tables, figures and predictions")]
Threads = Annotated[int, typer.Option(min=1, help="threads of one job")]
Only = Annotated[list[str] | None, typer.Option(help="a method, or METHOD/VARIANT; may be repeated")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="a seed of the tier; may be repeated")]
AllowLeaks = Annotated[
    bool, typer.Option("--allow-leaks", help="score although splits share patients or pictures")
]
RecipeName = Annotated[str | None, typer.Option(help="published or matched; the tier's if left out")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

DEFAULT_WORK = Path("work")
DEFAULT_RESULTS = Path("results")


def labels_of(only: list[str] | None) -> list[str]:
    """The labels that ``--only`` names, one each or several between commas."""
    return [label for item in only or [] for label in item.split(",") if label]
