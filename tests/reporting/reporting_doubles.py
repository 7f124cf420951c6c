"""A small tier's results, from a fixed seed: rows, predictions, run folders. No model is involved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from replication.config import RunConfig
from replication.metrics import best_threshold, roc_auc
from replication.protocol_config import Protocol, load_protocol
from replication.records import Row, write_predictions, write_rows
from replication.tasks import common, zero_shot_grounding, zero_shot_relations
from replication.tasks.common import Measurement
from replication.tier_config import load_tier

TIER = "phantom"
SKILL = {"medslip": 1.1, "medklip": 1.4, "convirt": 0.8, "supervised": 2.6}
SUPERVISION = {"medslip": "triplets", "medklip": "triplets", "convirt": "report", "supervised": "labels"}
PATIENTS, IMAGES = 90, 160
SIZE = 64
CLASSIFICATION, GROUNDING, RELATIONS = (
    "zero_shot_classification",
    "zero_shot_grounding",
    "zero_shot_relations",
)


@dataclass(frozen=True)
class Folders:
    """Where the synthetic results lie."""

    results: Path
    work: Path


def run_config(method: str, seed: int) -> RunConfig:
    """A run of the synthetic tier."""
    return RunConfig(method=method, recipe="matched", tier=TIER, seed=seed, image_size=64)


def row(
    config: RunConfig, task: str, protocol: str, finding: str, metric: str, value: float, **more: object
) -> Row:
    """A row with everything that does not matter to a test filled in."""
    facts: dict[str, object] = {
        "method": config.method,
        "variant": config.variant,
        "recipe": config.recipe,
        "supervision": SUPERVISION[config.method],
        "tier": TIER,
        "seed": config.seed,
        "dataset": protocol.partition("/")[0],
        "protocol": protocol,
        "task": task,
        "label_fraction": 0.0,
        "finding": finding,
        "metric": metric,
        "value": value,
        "lower": max(0.0, value - 0.04),
        "upper": min(1.0, value + 0.04),
        "n": IMAGES // 2,
        "n_positive": 20,
        "higher_is_better": True,
        "selection": "best_val",
        "threshold_rule": "" if metric == "auc" else "val",
        "run_id": config.run_id,
        "config_hash": config.run_id * 4,
        "manifest_hash": "5" * 64,
        "code_version": "0123456789abcdef0123456789abcdef01234567",
        "code_dirty": False,
        "environment_hash": "e" * 64,
        "device": "cpu",
        "dtype": "float32",
        "wall_seconds": 1.0,
        **more,
    }
    return Row(**facts)  # type: ignore[arg-type]


def predictions(config: RunConfig, findings: list[str], protocol: str) -> pd.DataFrame:
    """Scores whose distance between classes is the method's skill."""
    seed = [sum(map(ord, protocol)), sum(map(ord, config.method)), config.seed]
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng([7, sum(map(ord, protocol))])
    patients = np.sort(truth.integers(0, PATIENTS, IMAGES))
    frames = []
    for finding in findings:
        label = truth.integers(0, 4, IMAGES) == 0
        frames.append(
            pd.DataFrame(
                {
                    "sample": [f"s{i:04d}" for i in range(IMAGES)],
                    "patient": [f"p{p:03d}" for p in patients],
                    "split": np.where(patients % 2, "test", "val"),
                    "finding": finding,
                    "score": rng.standard_normal(IMAGES).astype(np.float32)
                    + np.float32(SKILL[config.method]) * label,
                    "label": label.astype(np.int8),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def classification_rows(config: RunConfig, protocol_id: str, frame: pd.DataFrame) -> list[Row]:
    """AUC, F1 and accuracy of each finding and of their mean."""
    rows: list[Row] = []
    values: dict[str, list[float]] = {"auc": [], "f1": [], "accuracy": []}
    for finding, one in frame.groupby("finding", sort=False):
        val, test = one[one["split"] == "val"], one[one["split"] == "test"]
        labels, scores = test["label"].to_numpy(), test["score"].to_numpy()
        threshold = best_threshold(val["label"].to_numpy(), val["score"].to_numpy())
        calls = scores >= threshold
        hits = int((calls & (labels == 1)).sum())
        found = {
            "auc": roc_auc(labels, scores),
            "f1": 2 * hits / max(1, int(calls.sum() + (labels == 1).sum())),
            "accuracy": float((calls == (labels == 1)).mean()),
        }
        for metric, value in found.items():
            values[metric].append(value)
            rows.append(row(config, CLASSIFICATION, protocol_id, str(finding), metric, value))
    if len(values["auc"]) > 1:
        rows += [
            row(config, CLASSIFICATION, protocol_id, "mean", metric, float(np.mean(found)))
            for metric, found in values.items()
        ]
    return rows


def blob(size: int, y: float, x: float, radius: float) -> np.ndarray:
    """A smooth hill of height 1, [size, size]; place and radius in fractions of the side."""
    grid = (np.arange(size) + 0.5) / size
    return np.exp(-((grid[:, None] - y) ** 2 + (grid[None] - x) ** 2) / (2 * radius**2))


def write_grounding(
    config: RunConfig, protocol: Protocol, findings: list[str], path: Path
) -> tuple[common.Predictions, list[Measurement]]:
    """Predictions with heat maps whose hill is near the region, and what the task measures of them."""
    truth_rng = np.random.default_rng([11, sum(map(ord, protocol.id))])
    rng = np.random.default_rng([12, sum(map(ord, config.method)), config.seed])
    lines, heat, truth = [], [], []
    for finding in findings:
        for i in range(40):
            y, x = truth_rng.uniform(0.25, 0.75, 2)
            split = "val" if i % 2 else "test"
            lines.append((f"{protocol.dataset}-{i:03d}", f"p{i // 2:03d}", split, finding, 1.0, 1))
            truth.append(blob(SIZE, y, x, 0.12) > 0.5)
            off = rng.normal(0, 0.3 / SKILL[config.method], 2)
            noise = 0.15 * rng.random((8, 8))
            heat.append((blob(8, y + off[0], x + off[1], 0.15) + noise).astype(np.float32))
    frame = pd.DataFrame(lines, columns=["sample", "patient", "split", "finding", "score", "label"])
    frame = frame.astype({"score": np.float32, "label": np.int8})
    arrays: dict[str, Any] = {
        "heat": np.stack(heat),
        "truth": np.packbits(np.stack(truth).reshape(len(truth), -1), axis=1),
        "size": np.asarray(SIZE),
    }
    write_predictions(frame, path, {})
    np.savez(path.with_suffix(".npz"), **arrays)
    made = common.Predictions(frame, arrays)
    return made, zero_shot_grounding.measure(made, protocol, draws=20)


def task_rows(config: RunConfig, protocol: Protocol, task: str, measured: Sequence[Measurement]) -> list[Row]:
    """Rows of what a task measured."""
    return [row(config, task, protocol.id, **vars(one)) for one in measured]


def write_log(folder: Path, config: RunConfig) -> None:
    """A plausible training log of six epochs."""
    names = {"medslip": ("anatomy", "pathology", "protocl", "icl"), "medklip": ("existence", "location")}
    parts = names.get(config.method, ("contrast",))
    rng = np.random.default_rng([3, config.seed])
    lines = []
    for epoch in range(6):
        losses = {part: 2.0 * 0.7**epoch + 0.05 * rng.random() for part in parts}
        train = {**losses, "total": sum(losses.values())}
        val = {name: 1.1 * value + 0.02 * rng.random() for name, value in train.items()}
        lines.append({"kind": "step", "epoch": epoch, "step": 10, "lr": 1e-3, "train": train})
        lines.append({"kind": "epoch", "epoch": epoch, "step": 20, "lr": 1e-3, "train": train, "val": val})
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(config.model_dump_json())


def make_results(
    root: Path, methods: tuple[str, ...] = tuple(SKILL), seeds: tuple[int, ...] = (0, 1, 2)
) -> Folders:
    """Results of a tier below a folder."""
    results, work = root / "results" / TIER, root / "work" / TIER
    protocols = [load_protocol(p) for p in load_tier(TIER).protocols]
    every: list[Row] = []
    for method in methods:
        for seed in seeds:
            config = run_config(method, seed)
            write_log(work / "runs" / f"{method}.matched.seed{seed}", config)
            rows: list[Row] = []
            for protocol in protocols:
                beside = results / "predictions" / config.run_id
                names = [f.name for f in protocol.findings]
                if CLASSIFICATION in protocol.tasks:
                    frame = predictions(config, names, protocol.id)
                    write_predictions(frame, beside / f"{CLASSIFICATION}.{protocol.slug}.parquet", {})
                    rows += classification_rows(config, protocol.id, frame)
                if GROUNDING in protocol.tasks:
                    path = beside / f"{GROUNDING}.{protocol.slug}.parquet"
                    _, measured = write_grounding(config, protocol, names[:3], path)
                    rows += task_rows(config, protocol, GROUNDING, measured)
                if RELATIONS in protocol.tasks:
                    names = [f"{side}_pleural/effusion" for side in ("left", "right")]
                    frame = predictions(config, names, protocol.id)
                    frame["split"] = "test"
                    write_predictions(frame, beside / f"{RELATIONS}.{protocol.slug}.parquet", {})
                    measured = zero_shot_relations.measure(common.Predictions(frame), protocol, draws=20)
                    rows += task_rows(config, protocol, RELATIONS, measured)
            every += rows
    write_rows(every, results / "rows.parquet")
    return Folders(results, work)
