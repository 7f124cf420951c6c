"""Recompute printed cells from stored predictions with scikit-learn alone; nothing of the suite is imported.

    python tests/recompute/cells.py results/phantom

Every cell of the tables below whose metric is a function of scores and labels is computed anew. A mean over
findings leaves out those without both classes, a mean over seeds is plain. Exits with 1 if a cell differs by
more than 1e-9, or a table gave nothing to compare.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

TABLES = (
    "zero_shot_classification",
    "zero_shot_per_finding",
    "zero_shot_grounding",
    "linear_probe",
    "finetune_classification",
)
TOLERANCE = 1e-9


def thresholded(metric: Callable[..., float]) -> Callable[[pd.DataFrame], float]:
    """A metric at the threshold of highest F1 on validation labels, a score equal to it being positive."""

    def measure(scores: pd.DataFrame) -> float:
        known, test = (scores[scores["split"] == split] for split in ("val", "test"))
        if known["label"].nunique() < 2:
            return float("nan")
        precision, recall, thresholds = precision_recall_curve(known["label"], known["score"])
        with np.errstate(invalid="ignore"):
            # Rounded, so that equal values are equal: the lowest threshold of these counts.
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))[:-1].round(12)
        best = thresholds[np.flatnonzero(f1 == f1.max())[0]]
        return float(metric(test["label"], test["score"] >= best))

    return measure


def ranked(metric: Callable[..., float]) -> Callable[[pd.DataFrame], float]:
    """A metric of the order of the test scores."""

    def measure(scores: pd.DataFrame) -> float:
        test = scores[scores["split"] == "test"]
        return float(metric(test["label"], test["score"])) if test["label"].nunique() == 2 else float("nan")

    return measure


def pointing_game(scores: pd.DataFrame) -> float:
    """Share of the test regions that hold the centre of the map's highest cell; ties count by their share."""
    test = scores[scores["split"] == "test"]
    hits = []
    for heat, truth in zip(test["heat"], test["truth"], strict=True):
        centres = [np.arange(cells) * len(truth) // cells + len(truth) // cells // 2 for cells in heat.shape]
        hits.append(truth[np.ix_(*centres)][heat == heat.max()].mean())
    return float(np.mean(hits)) if hits else float("nan")


METRICS: dict[str, Callable[[pd.DataFrame], float]] = {
    "auc": ranked(roc_auc_score),
    "ap": ranked(average_precision_score),
    "f1": thresholded(f1_score),
    "accuracy": thresholded(accuracy_score),
    "pointing_game": pointing_game,
}


@cache
def findings(path: Path) -> dict[str, pd.DataFrame]:
    """Predictions of known labels by finding, with heat maps and true regions where there are any."""
    frame = pd.read_parquet(path)
    frame = frame[frame["label"] >= 0].astype({"score": "float64"})
    if path.with_suffix(".npz").is_file() and path.name.startswith("zero_shot_grounding"):
        # Heat maps are stored of the lines with label 1, in their order.
        frame = frame[frame["label"] == 1]
        with np.load(path.with_suffix(".npz")) as arrays:
            size = int(arrays["size"])
            truth = np.unpackbits(arrays["truth"], axis=1).reshape(-1, size, size).astype(bool)
            frame = frame.assign(heat=list(arrays["heat"]), truth=list(truth))
    return {str(name): group for name, group in frame.groupby("finding", sort=False)}


@cache
def value(row: str, predictions: Path) -> float | None:
    """A row of the results by its name ``run/task.protocol/finding/metric``; ``None`` for other metrics."""
    run, name, *finding, metric = row.split("/")
    if metric not in METRICS:
        return None
    scores = findings(predictions / run / f"{name}.parquet")
    if finding != ["mean"]:
        return METRICS[metric](scores["/".join(finding)])
    return float(np.nanmean([METRICS[metric](group) for group in scores.values()]))


def differences(table: Path, predictions: Path) -> list[tuple[float, str]]:
    """How far each cell that can be recomputed lies from what is printed in full precision."""
    found = []
    with table.open(encoding="utf-8", newline="") as file:
        for cell in csv.DictReader(file):
            rows = [row for row in cell["rows"].split(";") if row]
            ours = [value(row, predictions) for row in rows] if cell["value"] else []
            if not ours or None in ours:
                continue
            mean = float(np.mean([one for one in ours if one is not None]))
            found.append((abs(mean - float(cell["value"])), "; ".join(rows)))
    return found


def main(results: Path) -> int:
    """Compare all tables of a tier; prints a line per table."""
    failed, compared = False, 0
    for name in TABLES:
        table = results / "tables" / f"{name}.csv"
        if not table.is_file():
            print(f"{name}: not made by this tier")
            continue
        found = differences(table, results / "predictions")
        worst, where = max(found, default=(float("nan"), "nothing to compare"))
        fine = worst <= TOLERANCE
        failed |= not fine
        compared += len(found)
        print(f"{name}: {len(found)} cells, largest difference {worst:.1e}" + ("" if fine else f" ({where})"))
    if not compared:
        print(f"{results}: nothing was compared")
    return int(failed or not compared)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
