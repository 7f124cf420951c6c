"""Where the numbers of a table or a figure come from: collected from its rows, printed as a footer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from replication.reporting.tables import list_of, write_atomically

HASH_DIGITS = 12
_COLLECTED = {
    "code_versions": "code_version",
    "modified": "code_dirty",
    "runs": "run_id",
    "configurations": "config_hash",
    "manifests": "manifest_hash",
    "environments": "environment_hash",
    "seeds": "seed",
    "protocols": "protocol",
    "devices": "device",
}


def collect(rows: pd.DataFrame, *, tier: str, phantom: bool, **extra: Any) -> dict[str, Any]:
    """Distinct values of what identifies the rows, sorted; nothing that changes from day to day.

    Args:
        rows: of ``rows.parquet``; may be empty.
        tier: name of the tier. phantom: whether its data are generated.
        extra: further facts, e.g. the generator's version.
    """
    found: dict[str, Any] = {"tier": tier, "phantom": phantom}
    for key, column in _COLLECTED.items():
        if column in rows:
            values = rows[column].dropna().unique().tolist()
            found[key] = sorted(values, key=lambda value: (str(type(value)), value))
    return {**found, **extra}


def footer(provenance: dict[str, Any]) -> str:
    """One line: code version, runs, configuration and manifest hashes, seeds."""
    parts = [f"Tier {provenance.get('tier', '?')}"]
    if versions := provenance.get("code_versions"):
        modified = " (with local changes)" if any(provenance.get("modified", [])) else ""
        parts.append(f"code {list_of([str(v)[:HASH_DIGITS] for v in versions], 3)}{modified}")
    for key, title in (("configurations", "configurations"), ("manifests", "manifests")):
        if hashes := provenance.get(key):
            parts.append(f"{len(hashes)} {title} ({list_of([str(h)[:8] for h in hashes], 4)})")
    if seeds := provenance.get("seeds"):
        parts.append(f"seeds {list_of([str(seed) for seed in seeds], 12)}")
    for key in sorted(set(provenance) & {"generator", "images"}):
        parts.append(f"{key} {provenance[key]}")
    return "; ".join(parts) + "."


def write_sidecar(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """``<name>.json`` beside a figure: title, caption and provenance."""
    return write_atomically(folder / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
