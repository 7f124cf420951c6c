"""Two methods on the same test images: their predictions matched line by line, their difference tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replication.comparison import (
    Difference,
    PairedScores,
    delong_difference,
    hierarchical_difference,
    hierarchical_difference_by_seed,
    paired_difference,
)
from replication.errors import DataError
from replication.protocol_config import Protocol, load_protocol
from replication.records import read_metadata, read_predictions, result_name, row_name
from replication.reporting.draws import bootstrap_draws
from replication.reporting.report import Entry, Report
from replication.reporting.same_lines import KEYS, check_same_lines
from replication.reporting.summary import MEAN
from replication.statistics import FloatArray

PRIMARY: dict[str, tuple[str, ...]] = {
    "zero_shot_classification": ("auc",),
    "zero_shot_grounding": ("pointing_game",),
    "zero_shot_relations": ("laterality_auc", "site_auc", "relation_auc"),
    "linear_probe": ("auc",),
    "finetune_classification": ("auc",),
    "finetune_segmentation": ("dice",),
}
"""Metrics that methods are compared in unless others are asked for."""

TESTED_BY_DELONG = ("auc", "relation_auc")
"""Metrics that are AUCs of the stored scores against the stored labels."""

ZERO = Entry((), "zero", "", "")
"""Stands for a competitor where a metric that is a difference is compared with none."""


@dataclass(frozen=True)
class Question:
    """What methods are compared in.

    Attributes:
        finding: of the rows; "" takes the mean, or the only one.
    """

    task: str
    protocol: Protocol
    metric: str
    label_fraction: float = 0.0
    finding: str = ""

    @property
    def predictions(self) -> str:
        """File name of the predictions that answer it."""
        return result_name(self.task, self.protocol.id, self.label_fraction)

    def row_of(self, run: str, finding: str) -> str:
        """Name of the row with the number of a run."""
        return row_name(run, self.task, self.protocol.id, self.label_fraction, finding, self.metric)


def questions(
    report: Report,
    *,
    labels: Sequence[str] = (),
    tasks: Sequence[str] = (),
    protocols: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> list[Question]:
    """What was measured and can be compared, in the order of the tier's protocols.

    Args:
        labels: of the methods whose rows are looked at; all if empty. tasks: all if empty.
        protocols: those of the tier if empty. metrics: of each task its ``PRIMARY`` ones if empty.
    """
    rows = report.select(protocol=list(protocols or report.tier.protocols))
    rows = rows[rows["higher_is_better"]]
    for column, wanted in (("label", labels), ("task", tasks), ("metric", metrics)):
        rows = rows[rows[column].isin(list(wanted))] if wanted else rows
    place = {protocol_id: i for i, protocol_id in enumerate(report.tier.protocols)}
    order = list(PRIMARY)
    keys = ["task", "protocol", "label_fraction", "metric"]
    found = []
    for task, protocol, fraction, metric in rows[keys].drop_duplicates().itertuples(index=False):
        # Forms of a task, such as a frozen encoder, have names that begin with its own.
        base = next((name for name in order if task.startswith(name)), "")
        primary = PRIMARY.get(base, ())
        if metrics or metric in primary:
            rank = primary.index(metric) if metric in primary else len(primary)
            number = order.index(base) if base in order else len(order)
            question = Question(task, load_protocol(protocol), metric, float(fraction))
            found.append(((number, task, place.get(protocol, len(place)), fraction, rank, metric), question))
    return [question for _, question in sorted(found, key=lambda one: one[0])]


class NothingToCompare(DataError):
    """A method has no number to compare; the message says why."""


@dataclass(frozen=True)
class Side:
    """One of the two methods.

    Attributes:
        finding: what its numbers are of, ``mean`` where a protocol has several findings.
        seeds, runs: of its S runs, by seed. values: ``[S]`` the metric of each.
        rows: keys of the rows.
    """

    entry: Entry
    finding: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    values: FloatArray
    rows: tuple[str, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(self.values.mean())

    def of(self, seeds: Sequence[int]) -> Side:
        """The same, for some of its seeds."""
        at = [self.seeds.index(seed) for seed in seeds]
        runs, rows = (tuple(keys[i] for i in at) for keys in (self.runs, self.rows))
        return replace(self, seeds=tuple(seeds), runs=runs, values=self.values[at], rows=rows)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; ``None`` for one seed."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """A minus B in one question.

    Attributes:
        patients: paired bootstrap over test patients, the trained networks taken as given.
        seeds: also covers the choice of training seeds; ``None`` where a method has one seed.
        delong: as ``patients``, by DeLong's test; ``None`` for metrics that are no AUC of the scores.
    """

    question: Question
    a: Side
    b: Side
    patients: Difference
    seeds: Difference | None
    delong: Difference | None

    @property
    def by_seed(self) -> bool:
        """Whether runs of one seed are pairs."""
        return of_one_method(self.a.entry, self.b.entry)

    @property
    def widest(self) -> Difference:
        """The test that covers most."""
        return self.seeds or self.patients


def of_one_method(a: Entry, b: Entry) -> bool:
    """Whether the two are variants of one method."""
    return a.label.partition("/")[0] == b.label.partition("/")[0]


class Comparer:
    """Compares methods of a tier, and remembers what it has read and drawn."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._sides: dict[tuple[Entry, str, str, str], Side] = {}
        self._sheets: dict[str, tuple[Path, pd.DataFrame]] = {}
        self._scores: dict[Path, NDArray[Any]] = {}
        self._draws: dict[Path, dict[tuple[str, str], FloatArray]] = {}

    def side(self, entry: Entry, question: Question) -> Side:
        """The measured numbers of a method.

        Raises:
            NothingToCompare: it has none.
        """
        key = (entry, question.predictions, question.metric, question.finding)
        if key not in self._sides:
            self._sides[key] = self._side(entry, question)
        return self._sides[key]

    def _side(self, entry: Entry, question: Question) -> Side:
        rows = self.report.rows
        mine = (rows["label"] == entry.label) & (rows["recipe"] == entry.recipe)
        chosen = rows[
            mine
            & (rows["task"] == question.task)
            & (rows["protocol"] == question.protocol.id)
            & (rows["label_fraction"] == question.label_fraction)
            & (rows["metric"] == question.metric)
        ]
        if question.finding or (chosen["finding"] == MEAN).any():
            chosen = chosen[chosen["finding"] == (question.finding or MEAN)]
        if chosen.empty:
            raise NothingToCompare(self._why_none(set(rows.loc[mine, "run_id"]), question))
        if chosen["finding"].nunique() > 1:
            raise NothingToCompare("it has several findings and no mean of them")
        chosen = chosen.sort_values("seed")
        runs = tuple(chosen["run_id"].astype(str))
        if chosen["value"].isna().any():
            n, positive = int(chosen["n"].iloc[0]), int(chosen["n_positive"].iloc[0])
            raise NothingToCompare(f"undefined on these data: {positive:,} positive of {n:,} images")
        finding = str(chosen["finding"].iloc[0])
        return Side(
            entry,
            finding,
            tuple(chosen["seed"].astype(int)),
            runs,
            chosen["value"].to_numpy(dtype=np.float64),
            tuple(question.row_of(run, finding) for run in runs),
        )

    def paths(self, side: Side, question: Question) -> list[Path]:
        """Predictions of each seed.

        Raises:
            NothingToCompare: a file is not in the results folder.
        """
        found = [self.report.results / "predictions" / run / question.predictions for run in side.runs]
        for path in found:
            if not path.is_file():
                raise NothingToCompare(
                    "its predictions are not in the results folder",
                    where=path,
                    remedy=f"run `replicate evaluate {side.entry.label} --tier {self.report.tier.name}`",
                )
        return found

    def scores(self, side: Side, question: Question) -> NDArray[Any]:
        """``[S, L]`` scores of each seed, in the order of the lines of ``sheet``.

        Raises:
            NothingToCompare: see ``paths``. DataError: predictions are damaged, or not of the same lines.
        """
        paths = self.paths(side, question)
        for path in paths:
            if path not in self._scores:
                frame = read_predictions(path).sort_values(KEYS)
                own = (path, frame.drop(columns="score"))
                first, sheet = self._sheets.setdefault(question.predictions, own)
                check_same_lines(sheet, first, frame, path)
                self._scores[path] = frame["score"].to_numpy()
        return np.stack([self._scores[path] for path in paths])

    def sheet(self, question: Question) -> pd.DataFrame:
        """The lines that all runs share: finding, sample, patient, split and label, after ``scores``."""
        return self._sheets[question.predictions][1]

    def compare(self, a: Entry, b: Entry, question: Question) -> Comparison:
        """Test A minus B; runs of one seed are pairs where both are variants of one method.

        They start from the same weights and see the same batches; only seeds that both have are compared.

        Raises:
            NothingToCompare: one of them has no numbers, or no predictions, or a single seed where the other
                has several. DataError: see ``scores``.
        """
        sides = [self.side(entry, question) for entry in (a, b)]
        by_seed = of_one_method(a, b)
        if by_seed:
            if not (common := sorted(set(sides[0].seeds) & set(sides[1].seeds))):
                raise NothingToCompare("the two have no seed in common")
            sides = [side.of(common) for side in sides]
        counts = [len(side.seeds) for side in sides]
        if min(counts) == 1 < max(counts):
            # The seeds of one side vary, and how much those of the other do is not known.
            alone = a.label if counts[0] == 1 else b.label
            raise NothingToCompare(f"{alone} rests on one seed and the other on {max(counts)}")
        scores = [self.scores(side, question) for side in sides]
        draws = [self._drawn(side, question) for side in sides]
        first, second = sides
        paired = paired_difference(first.mean, draws[0].mean(axis=0), second.mean, draws[1].mean(axis=0))
        over_seeds = None
        if len(first.seeds) > 1:
            test = hierarchical_difference_by_seed if by_seed else hierarchical_difference
            over_seeds = test(first.values, draws[0], second.values, draws[1])
        delong = None
        if question.metric in TESTED_BY_DELONG:
            delong = delong_difference(self._findings(question, *scores))
        return Comparison(question, first, second, paired, over_seeds, delong)

    def from_zero(self, entry: Entry, question: Question) -> Comparison:
        """Test whether a metric that is a difference itself is not zero.

        Returns:
            A comparison whose second side is zero, of no runs.

        Raises:
            NothingToCompare, DataError: see ``compare``.
        """
        side = self.side(entry, question)
        draws = self._drawn(side, question)
        zero = replace(side, entry=ZERO, values=np.zeros_like(side.values), runs=(), rows=())
        paired = paired_difference(side.mean, draws.mean(axis=0), 0.0, np.zeros_like(draws[0]))
        over_seeds = None
        if len(side.seeds) > 1:
            nothing = np.zeros_like(draws)
            over_seeds = hierarchical_difference_by_seed(side.values, draws, zero.values, nothing)
        return Comparison(question, side, zero, paired, over_seeds, None)

    def _drawn(self, side: Side, question: Question) -> FloatArray:
        """Bootstrap draws of each seed: ``[S, R]``."""
        paths, protocol = self.paths(side, question), question.protocol
        for path in paths:
            if path not in self._draws:
                draws = self.report.tier.bootstrap
                self._draws[path] = bootstrap_draws(path, question.task, protocol, draws)
        return np.stack([self._draws[path][side.finding, question.metric] for path in paths])

    def _findings(self, question: Question, a: NDArray[Any], b: NDArray[Any]) -> list[PairedScores]:
        sheet = self.sheet(question)
        known = ((sheet["split"] == "test") & (sheet["label"] >= 0)).to_numpy()
        labels, patients = sheet["label"].to_numpy(), sheet["patient"].to_numpy(dtype=str)
        names = sheet["finding"].to_numpy(dtype=str)
        found = []
        for finding in np.unique(names[known]):
            at = known & (names == finding)
            found.append(PairedScores(labels[at], a[:, at], b[:, at], patients[at]))
        return found

    def _why_none(self, runs: set[str], question: Question) -> str:
        if not runs:
            return "no run of it has been evaluated"
        files = [self.report.results / "rows" / run / question.predictions for run in sorted(runs)]
        told = dict.fromkeys(str(note) for path in files if (note := read_metadata(path).get("nothing")))
        reasons = ["; ".join(part.strip(" .") for part in note.splitlines()) for note in told]
        return " / ".join(reasons) or "it has no such row under this protocol"
