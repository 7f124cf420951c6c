"""Rows and predictions on disk: typed Parquet, written whole or not at all, with their provenance."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from replication.errors import DataError
from replication.files import atomic as atomic
from replication.files import read_json as read_json
from replication.files import write_json as write_json

DISTRIBUTION = "medslip-bench"
PACKAGES = ("replication", "medslip", "baselines")
NO_COMMIT = f"{DISTRIBUTION} {version(DISTRIBUTION)}, not under version control"


@dataclass(frozen=True)
class Row:
    """One measured number with all that is needed to reproduce it.

    Attributes:
        label_fraction: share of the target data set's labels that was trained on; 0 for zero-shot.
        finding: a finding of the protocol, or ``mean`` over them.
        value: NaN where the data leave it undefined (no positive among ``n``, for one).
        lower, upper: 95 % interval of the patient-cluster bootstrap; NaN where there is none.
        n, n_positive: what was measured, in images; for ``mean``, n_positive is the sum over findings.
        selection: which weights of the run were taken. threshold_rule: how a threshold was chosen, or "".
        code_version: git commit, or the package version outside version control.
        wall_seconds: of the pre-training, as its run recorded it.
    """

    method: str
    variant: str
    recipe: str
    supervision: str
    tier: str
    seed: int
    dataset: str
    protocol: str
    task: str
    label_fraction: float
    finding: str
    metric: str
    value: float
    lower: float
    upper: float
    n: int
    n_positive: int
    higher_is_better: bool
    selection: str
    threshold_rule: str
    run_id: str
    config_hash: str
    manifest_hash: str
    code_version: str
    code_dirty: bool
    environment_hash: str
    device: str
    dtype: str
    wall_seconds: float


_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
ROW_SCHEMA = pa.schema(
    [pa.field(field.name, _ARROW[str(field.type)], nullable=False) for field in fields(Row)]
)
_ROW_ORDER = [
    *("task", "protocol", "label_fraction", "method", "variant", "recipe", "tier", "seed", "run_id"),
    *("finding", "metric", "threshold_rule"),
]

PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("sample", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("finding", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
    ]
)
"""One line per image and finding; label 1 present, 0 absent, -1 unknown."""


_REMEDY = "correct the scores, or delete the file and predict again"


def _write_table(table: pa.Table, path: Path, metadata: dict[str, Any] | None) -> None:
    note = {"medslip-bench": json.dumps(metadata or {}, sort_keys=True)}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(note), temporary, write_page_checksum=True)


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            "The Parquet file cannot be read.",
            where=path,
            found=error,
            remedy="delete it; the step that wrote it makes it again",
        ) from error
    if not table.schema.equals(schema, check_metadata=False):
        raise DataError(
            "The columns are not those of this version.",
            where=path,
            found=_unlike(table.schema, schema) or f"another order: {', '.join(table.schema.names)}",
            allowed=", ".join(map(_column, schema)),
            remedy="delete the file; the step that wrote it makes it again",
        )
    return table


def _unlike(found: pa.Schema, wanted: pa.Schema) -> str:
    """Columns that one of the two lacks or that are of another type."""
    lacking = [f"no {name}" for name in wanted.names if name not in found.names]
    return ", ".join(lacking + [_column(field) for field in found if field not in list(wanted)])


def _column(field: pa.Field) -> str:
    return f"{field.name} ({field.type}{' or nothing' if field.nullable else ''})"


def result_name(task: str, protocol_id: str, label_fraction: float = 0.0) -> str:
    """File name of predictions and of rows, e.g. ``linear_probe.nih-cxr14--phantom--v1.f0.01.parquet``."""
    fraction = f".f{label_fraction:g}" if label_fraction else ""
    return f"{task}.{protocol_id.replace('/', '--')}{fraction}.parquet"


def row_name(
    run_id: str, task: str, protocol_id: str, label_fraction: float, finding: str, metric: str
) -> str:
    """What tables call a row, e.g. ``0123456789ab/linear_probe.nih-cxr14--phantom--v1.f0.01/mass/auc``."""
    source = result_name(task, protocol_id, label_fraction).removesuffix(".parquet")
    return f"{run_id}/{source}/{finding}/{metric}"


def protocol_of(row: str) -> str:
    """The protocol in a row's name, e.g. ``nih-cxr14/phantom/v1``; ``""`` for other names."""
    named = re.fullmatch(r"[^/]+/\w+\.([^/]+?)(\.f[-+.e\d]+)?/.+", row)
    return named[1].replace("--", "/") if named else ""


def read_metadata(path: Path) -> dict[str, Any]:
    """What a Parquet file of ours says about its making; empty if there is no such (readable) file."""
    try:
        note = (pq.read_schema(path).metadata or {}).get(b"medslip-bench", b"{}")
    except (OSError, pa.ArrowInvalid):
        return {}
    values: dict[str, Any] = json.loads(note)
    return values


def write_rows(rows: Sequence[Row], path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write rows; none at all is allowed, so that "measured, nothing to say" is on record."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=ROW_SCHEMA)
    _write_table(table, path, metadata)


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of one file; columns as in ``Row``.

    Raises:
        DataError: missing, damaged, or of another version.
    """
    frame: pd.DataFrame = _read_table(path, ROW_SCHEMA).to_pandas()
    return frame


def merge_rows(folder: Path, out: Path | None = None, *, run_ids: Collection[str] | None = None) -> Path:
    """All rows below a folder in one file, sorted: equal rows give an equal file, whatever the order of jobs.

    Args:
        out: default ``rows.parquet`` beside the folder.
        run_ids: take only rows of these runs, whatever else lies in the folder.

    Raises:
        DataError: a file is damaged, or two files hold the same row.
    """
    out = out or folder.parent / "rows.parquet"
    tables = [_read_table(path, ROW_SCHEMA) for path in sorted(folder.rglob("*.parquet"))]
    merged = pa.concat_tables([ROW_SCHEMA.empty_table(), *tables]).replace_schema_metadata(None)
    frame = merged.to_pandas()
    if run_ids is not None:
        frame = frame[frame["run_id"].isin(list(run_ids))]
    frame = frame.sort_values(_ROW_ORDER, kind="stable")
    twice = frame[frame.duplicated(_ROW_ORDER)]
    if len(twice):
        first = twice.iloc[0]
        raise DataError(
            "The same row was measured twice.",
            where=folder,
            found={key: first[key] for key in ("run_id", "protocol", "task", "finding", "metric")},
            remedy="delete the older file of that run and protocol",
        )
    _write_table(merged.take(frame.index.to_numpy()), out, None)
    return out


def write_predictions(
    frame: pd.DataFrame, path: Path, metadata: dict[str, Any], *, where: str | Path | None = None
) -> None:
    """Check and write predictions with the facts that their rows need.

    Raises:
        DataError: see ``check_predictions``.
    """
    check_predictions(frame, where or path)
    columns = frame[PREDICTION_SCHEMA.names]
    _write_table(pa.Table.from_pandas(columns, PREDICTION_SCHEMA, preserve_index=False), path, metadata)


def read_predictions(path: Path, *, samples: Collection[str] | None = None) -> pd.DataFrame:
    """Checked predictions; columns as in ``PREDICTION_SCHEMA``.

    Args:
        samples: every finding must have a score for each of these.

    Raises:
        DataError: missing, damaged, or see ``check_predictions``.
    """
    frame: pd.DataFrame = _read_table(path, PREDICTION_SCHEMA).to_pandas()
    check_predictions(frame, path, samples=samples)
    return frame


def check_scores(frame: pd.DataFrame, where: str | Path, *, first_line: int = 0) -> None:
    """Every score a finite number, every image and finding once.

    Args:
        frame: columns sample, finding and score. first_line: number of its first line in the file.

    Raises:
        DataError: names the line.
    """
    keys = ["sample", "finding"]
    scores = pd.to_numeric(frame["score"], errors="coerce")
    finite = scores.abs().lt(float("inf"))
    _refuse(frame, ~finite, "A score is not finite.", [*keys, "score"], "a finite number", where, first_line)
    twice = frame.duplicated(keys)
    _refuse(
        frame, twice, "An image is scored twice.", keys, "one line per image and finding", where, first_line
    )


def check_predictions(
    frame: pd.DataFrame, where: str | Path, *, samples: Collection[str] | None = None
) -> None:
    """One finite score per image and finding.

    Raises:
        DataError: a score is NaN or infinite, a pair of image and finding occurs twice, an image lacks a
            finding, a label is none of -1, 0, 1; names the first line or image.
    """
    check_scores(frame, where)
    wrong = ~frame["label"].isin([-1, 0, 1])
    _refuse(frame, wrong, "Not a label.", ["sample", "finding", "label"], "-1, 0 or 1", where, 0)
    if frame.groupby("sample", sort=False)["patient"].nunique().gt(1).any():
        raise DataError("An image belongs to two patients.", where=where, remedy=_REMEDY)
    expected = set(frame["sample"]) if samples is None else set(samples)
    for finding, group in frame.groupby("finding", sort=False):
        missing = expected - set(group["sample"])
        if missing:
            raise DataError(
                f"{len(missing)} of {len(expected)} images have no score for {finding!r}.",
                where=where,
                found=f"first missing: {min(missing)}",
                allowed="a score for every image of the protocol and every finding",
                remedy=_REMEDY,
            )


def _refuse(
    frame: pd.DataFrame,
    bad: pd.Series,
    problem: str,
    columns: list[str],
    allowed: str,
    where: str | Path,
    first_line: int,
) -> None:
    if bad.any():
        line = int(bad.to_numpy().argmax())
        raise DataError(
            problem,
            where=f"{where}, line {line + first_line}",
            found=frame.iloc[line][columns].to_dict(),
            allowed=allowed,
            remedy=_REMEDY,
        )


@dataclass(frozen=True)
class Provenance:
    """Code and environment of this process.

    Attributes:
        environment_hash: SHA-256 over names and versions of all installed distributions.
    """

    code_version: str
    code_dirty: bool
    environment_hash: str


@cache
def provenance() -> Provenance:
    """Collected once per process."""
    installed = sorted({f"{d.metadata['Name']}=={d.version}".lower() for d in distributions()})
    environment = hashlib.sha256("\n".join(installed).encode()).hexdigest()
    return Provenance(*code_version(Path(__file__).resolve().parents[1]), environment)


def code_version(root: Path) -> tuple[str, bool]:
    """Commit of the checkout at ``root`` and whether the packages' files differ from it.

    Without git, or where ``root`` is not the top of a checkout (an installed package), the version of the
    package stands for the commit and nothing is known to be changed.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if not top or not commit or Path(top).resolve() != root:
        return NO_COMMIT, False
    present = [name for name in PACKAGES if (root / name).is_dir()]
    return commit, bool(_git(root, "status", "--porcelain", "--", *present))


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command; ``None`` where git is absent or answers with an error."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
