"""From rows of single seeds to a cell: mean over seeds, its interval, the spread of the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.protocol_config import Protocol, load_protocol
from replication.records import read_metadata, read_predictions, result_name, row_name
from replication.reporting.report import Entry, Report
from replication.reporting.tables import Cell
from replication.statistics import FloatArray, hierarchical_mean

MEAN = "mean"
"""The finding of rows that average over the findings of a protocol."""

Draws = dict[tuple[str, str], FloatArray]

_BARS = {
    "hierarchical": (
        "mean over seeds ± sample standard deviation over seeds; in brackets the 95 % interval of the mean "
        "over seeds and test patients (hierarchical: variance between seeds plus bootstrap over patients as "
        "clusters, {draws:,} resamples; Student's t for the seeds; cut where the metric's range ends)"
    ),
    "patients": (
        "one seed; in brackets the 95 % interval by bootstrap over test patients as clusters, which does not "
        "cover the choice of the seed"
    ),
    "spread": (
        "mean over seeds ± sample standard deviation over seeds; no interval, because the predictions of the "
        "single seeds are not in the results folder"
    ),
}

_LIMITS = {"contrast": (-1.0, 1.0), "contrast_to_trunk": (-2.0, 2.0), "median_rank": (1.0, math.inf)}
"""Least and greatest value of metrics that are no shares of 1."""


class Summariser:
    """Makes cells, and remembers what their error bars cover."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._used: set[str] = set()
        self._draws: dict[Path, Draws | None] = {}

    def cell(
        self,
        entry: Entry,
        task: str,
        protocol: str,
        finding: str | None,
        metric: str,
        fraction: float = 0.0,
        *,
        interval: bool = True,
    ) -> Cell:
        """The number of one method under one protocol, over all its seeds.

        Args:
            finding: ``None`` asks for the protocol as a whole: the mean over its findings, or its only one.
            fraction: share of the data set's labels that was learned from.
            interval: over several seeds it takes bootstrap draws of each; leave it out where it is not shown.
        """
        rows = self._rows(entry, task, protocol, fraction)
        of_metric = rows[rows["metric"] == metric]
        if finding is None:
            finding = MEAN if (of_metric["finding"] == MEAN).any() else _only(of_metric["finding"])
        chosen = of_metric[of_metric["finding"] == finding].sort_values("seed")
        name = result_name(task, protocol, fraction)
        if reason := self._why_missing(entry, name, chosen):
            return Cell.absent(reason)
        runs = tuple(chosen["run_id"].astype(str))
        values = chosen["value"].to_numpy(dtype=np.float64)
        lower, upper = self._interval(chosen, values, name) if interval else (None, None)
        return Cell(
            value=float(values.mean()),
            lower=lower,
            upper=upper,
            spread=float(values.std(ddof=1)) if len(values) > 1 else None,
            n_seeds=len(values),
            rows=tuple(row_name(run, task, protocol, fraction, str(finding), metric) for run in runs),
            runs=runs,
            higher_is_better=bool(chosen["higher_is_better"].iloc[0]),
        )

    def predictions(self, entry: Entry, task: str, protocol: str) -> list[pd.DataFrame]:
        """Test predictions of each seed that are in the results folder, by seed."""
        frames = [read_predictions(path) for path in self.paths(entry, task, protocol)]
        return [frame[frame["split"] == "test"] for frame in frames]

    def paths(self, entry: Entry, task: str, protocol: str) -> list[Path]:
        """Files of predictions of each seed that are in the results folder, by seed."""
        runs = self._rows(entry, task, protocol)[["seed", "run_id"]].drop_duplicates().sort_values("seed")
        paths = [self._file("predictions", run_id, result_name(task, protocol)) for run_id in runs["run_id"]]
        return [path for path in paths if path.is_file()]

    def _file(self, kind: str, run_id: str, name: str) -> Path:
        return self.report.results / kind / run_id / name

    def undefined_findings(self, task: str, protocol: Protocol, metric: str) -> list[str]:
        """Findings that no method's mean includes, because the data leave the metric undefined."""
        rows = self.report.select(task=task, protocol=protocol.id, metric=metric)
        defined = set(rows.loc[rows["value"].notna(), "finding"])
        return [f.name for f in protocol.findings if len(rows) and f.name not in defined]

    def error_bars(self) -> str:
        """What the error bars of the cells made so far cover."""
        draws = self.report.tier.bootstrap
        return "; ".join(_BARS[kind].format(draws=draws) for kind in _BARS if kind in self._used)

    def _rows(self, entry: Entry, task: str, protocol: str, fraction: float = 0.0) -> pd.DataFrame:
        rows = self.report.rows
        same = (rows["label"] == entry.label) & (rows["recipe"] == entry.recipe)
        same &= (rows["task"] == task) & (rows["protocol"] == protocol)
        return rows[same & (rows["label_fraction"] == fraction)]

    def _why_missing(self, entry: Entry, name: str, chosen: pd.DataFrame) -> str:
        every = self.report.rows
        own = every[(every["label"] == entry.label) & (every["recipe"] == entry.recipe)]
        if own.empty:
            return "no run of it has been evaluated"
        if chosen.empty:
            files = [self._file("rows", str(run), name) for run in sorted(own["run_id"].unique())]
            reasons = {str(note) for path in files if (note := read_metadata(path).get("nothing"))}
            told = ["; ".join(part.strip(" .") for part in reason.splitlines()) for reason in sorted(reasons)]
            return " / ".join(told) or "it has no such row under this protocol"
        if chosen["value"].isna().any():
            n, positive = int(chosen["n"].iloc[0]), int(chosen["n_positive"].iloc[0])
            return f"undefined on these data: {positive:,} positive of {n:,} images"
        return ""

    def _interval(
        self, chosen: pd.DataFrame, values: NDArray[np.float64], name: str
    ) -> tuple[float | None, float | None]:
        first = chosen.iloc[0]
        if len(chosen) == 1:
            ends = (float(first["lower"]), float(first["upper"]))
            if all(math.isfinite(end) for end in ends):
                self._used.add("patients")
                return ends
            return None, None
        task, protocol = str(first["task"]), str(first["protocol"])
        paths = [self._file("predictions", str(run), name) for run in chosen["run_id"]]
        found = [self._run_draws(path, task, protocol) for path in paths]
        key = (str(first["finding"]), str(first["metric"]))
        draws = [one[key] for one in found if one is not None and key in one]
        if len(draws) < len(chosen):
            self._used.add("spread")
            return None, None
        self._used.add("hierarchical")
        estimate = hierarchical_mean(values, np.stack(draws))
        if not math.isfinite(estimate.lower):
            return None, None
        # A symmetric interval knows no limits.
        low, high = _LIMITS.get(key[1], (0.0, 1.0))
        return max(low, estimate.lower), min(high, estimate.upper)

    def _run_draws(self, path: Path, task: str, protocol: str) -> Draws | None:
        # The tasks bring PyTorch along, which tables of single seeds do not need.
        from replication.reporting.draws import bootstrap_draws

        if path not in self._draws:
            self._draws[path] = (
                bootstrap_draws(path, task, load_protocol(protocol), self.report.tier.bootstrap)
                if path.is_file()
                else None
            )
        return self._draws[path]


def _only(findings: pd.Series) -> str | None:
    unique = findings.unique()
    return str(unique[0]) if len(unique) == 1 else None


def mean_notes(
    summariser: Summariser, task: str, protocols: Sequence[Protocol], metric: str
) -> tuple[str, ...]:
    """A sentence per protocol whose mean leaves findings out."""
    notes = []
    for protocol in protocols:
        left_out = summariser.undefined_findings(task, protocol, metric)
        if left_out and len(protocol.findings) > 1:
            count = len(protocol.findings)
            notes.append(
                f"{protocol.id}: means are over {count - len(left_out)} of {count} findings; on these test "
                f"images the others are undefined ({', '.join(left_out)})."
            )
    return tuple(notes)
