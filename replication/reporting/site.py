"""One static page with every table and figure of a tier; it needs no network, only the folder ``figures``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from replication.errors import DataError
from replication.files import write_whole
from replication.reporting.provenance import footer
from replication.reporting.tables import Table, printed

TABLES = (
    "zero_shot_classification",
    "zero_shot_classification_further",
    "zero_shot_per_finding",
    "zero_shot_grounding",
    "zero_shot_relations",
    "finetune_classification",
    "linear_probe",
    "finetune_segmentation",
    "ablation_components",
    "ablation_loss_weights",
    "ablation_text",
    "claims",
    "disentanglement",
    "disentanglement_variants",
    "audit",
    "audit_medklip",
    "audit_mavl",
    "audit_kad",
    "published_vs_measured",
    "published_not_comparable",
    "efficiency",
    "significance",
)
"""Order of the tables on the page; others follow by name."""

FIGURES = (
    "phantom_atlas",
    "roc",
    "per_finding",
    "grounding_maps",
    "data_efficiency",
    "ablation_effects",
    "stream_embeddings",
    "text_vs_cooccurrence",
    "critical_difference",
    "training_curves",
)
"""Order of the figures on the page; others follow by name."""


def build_site(results: Path, tier: str) -> Path:
    """Write ``<results>/site/index.html`` from the tables and figures that are there.

    Args:
        results: the tier's results folder. tier: its name, for the heading.

    Raises:
        DataError: there is neither a table nor a figure, or one is damaged.
    """
    tables = [_table_view(Table.from_json(path)) for path in _ordered(results / "tables", "*.json", TABLES)]
    figures = [_figure_view(path) for path in _ordered(results / "figures", "*.json", FIGURES)]
    if not tables and not figures:
        raise DataError(
            "There is nothing to show.",
            where=results,
            remedy="execute the notebooks first: `replicate report`",
        )
    environment = Environment(
        loader=PackageLoader("replication.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    warnings = sorted({view["data"] for view in (*tables, *figures) if view["data"]})
    page = environment.get_template("index.html").render(
        tier=tier, tables=tables, figures=figures, warnings=warnings
    )
    return write_whole(results / "site" / "index.html", page)


def _ordered(folder: Path, pattern: str, order: tuple[str, ...]) -> list[Path]:
    def place(path: Path) -> tuple[int, str]:
        return (order.index(path.stem) if path.stem in order else len(order), path.stem)

    return sorted(folder.glob(pattern), key=place)


def _table_view(table: Table) -> dict[str, Any]:
    best = table.best()
    rows = []
    for i, row in enumerate(table.rows):
        cells = []
        for j, (column, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
            estimate, interval = printed(cell, column)
            measured = f"{cell.n_seeds} seed(s); runs {', '.join(cell.runs)}"
            detail = cell.missing or (measured if cell.n_seeds else "; ".join(cell.rows))
            cells.append(
                {"estimate": estimate, "interval": interval, "best": (i, j) in best, "detail": detail}
            )
        rows.append({"labels": row.labels, "cells": cells, "reference": row.reference})
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.caption,
        "header": table.header.lines(),
        "data": table.header.data,
        "label_names": table.label_names,
        "groups": table.groups() if any(group for group, _ in table.groups()) else [],
        "headings": [column.heading for column in table.columns],
        "rows": rows,
        "remarks": table.remarks(),
        "footer": footer(table.provenance),
    }


def _figure_view(sidecar: Path) -> dict[str, Any]:
    picture = sidecar.with_suffix(".png")
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        if not picture.is_file():
            raise FileNotFoundError(f"no {picture.name}")
        return {
            "name": facts["name"],
            "title": facts["title"],
            "caption": facts["caption"],
            "data": facts["data"],
            "footer": footer(facts["provenance"]),
            "source": f"../figures/{picture.name}",
        }
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "A figure is incomplete.", where=sidecar, found=error, remedy="run `replicate report` again"
        ) from error
