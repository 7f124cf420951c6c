"""Runs of MeDSLIP's variants beside those of ``reporting_doubles``: its scores, made better or worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from reporting_doubles import (
    CLASSIFICATION,
    GROUNDING,
    RELATIONS,
    TIER,
    classification_rows,
    predictions,
    run_config,
    task_rows,
    write_grounding,
)

from replication.config import RunConfig
from replication.protocol_config import Protocol, load_protocol
from replication.records import Row, write_predictions, write_rows
from replication.reporting.report import Report
from replication.tasks import common, zero_shot_relations
from replication.tier_config import load_tier


def variant_report(
    root: Path,
    shifts: Mapping[str, float],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    draws: int = 60,
    variant_training: Mapping[str, object] | None = None,
    in_full: Sequence[str] = (),
) -> Report:
    """Results of several lines; ``""`` is the method itself, ``medklip`` another method.

    Args:
        shifts: line -> by how much the scores of images with a finding are higher than the method's.
        variant_training: of the tier; none, so that variants are compared with the method.
        in_full: labels of variants that it does not hold for.
    """
    rows: list[Row] = []
    for name, shift in shifts.items():
        for seed in seeds:
            config = run_config("medklip" if name == "medklip" else "medslip", seed)
            if name not in ("", "medklip"):
                config = config.model_copy(update={"variant": name})
            rows += _rows(root, config, shift)
    write_rows(rows, root / "rows.parquet")
    report = Report.open(TIER, root, root)
    changes = {
        "bootstrap": draws,
        "variant_training": dict(variant_training or {}),
        "variants_in_full": tuple(in_full),
    }
    return replace(report, tier=report.tier.model_copy(update=changes))


def _rows(root: Path, config: RunConfig, shift: float) -> list[Row]:
    rows: list[Row] = []
    beside = root / "predictions" / config.run_id
    for protocol in [load_protocol(name) for name in load_tier(TIER).protocols]:
        names = [finding.name for finding in protocol.findings]
        if CLASSIFICATION in protocol.tasks:
            frame = _moved(predictions(config, names, protocol.id), shift)
            write_predictions(frame, beside / f"{CLASSIFICATION}.{protocol.slug}.parquet", {})
            rows += classification_rows(config, protocol.id, frame)
        if GROUNDING in protocol.tasks:
            path = beside / f"{GROUNDING}.{protocol.slug}.parquet"
            _, found = write_grounding(config, protocol, names[:1], path)
            rows += task_rows(config, protocol, GROUNDING, found)
        if RELATIONS in protocol.tasks:
            rows += _relations(config, protocol, shift, beside)
    return rows


def _relations(config: RunConfig, protocol: Protocol, shift: float, beside: Path) -> list[Row]:
    names = [f"{side}_pleural/effusion" for side in ("left", "right")]
    frame = _moved(predictions(config, names, protocol.id), shift).assign(split="test")
    write_predictions(frame, beside / f"{RELATIONS}.{protocol.slug}.parquet", {})
    measured = zero_shot_relations.measure(common.Predictions(frame), protocol, draws=20)
    return task_rows(config, protocol, RELATIONS, measured)


def _moved(frame: pd.DataFrame, shift: float) -> pd.DataFrame:
    score = frame["score"] + np.float32(shift) * frame["label"]
    return frame.assign(score=score.astype(np.float32))
