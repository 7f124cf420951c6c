"""Tables and figure of streams and retrieval, on synthetic results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reporting_doubles import TIER, row, run_config

from replication.protocol_config import load_protocol
from replication.records import result_name, write_predictions, write_rows
from replication.reporting import disentanglement, retrieval
from replication.reporting.claims import Claims, claims_table, examine
from replication.reporting.figures import style
from replication.reporting.paired import Comparer, Comparison
from replication.reporting.report import Report
from replication.reporting.tables import Cell, Table
from replication.tasks import retrieval as retrieval_task
from replication.tasks import stream_probes
from replication.tasks.common import Predictions

STREAMS, RETRIEVAL = "mimic-cxr/streams/v1", "mimic-cxr/retrieval/v1"
METHODS = {"medslip": ("pathology", "anatomy", "trunk"), "convirt": ("trunk",)}
SEEDS, IMAGES = (0, 1), 60


def lines(count: int) -> pd.DataFrame:
    names = [f"image{i:02d}" for i in range(count)]
    return pd.DataFrame({"sample": names, "patient": [name[:-1] for name in names], "split": "test"})


def probes(streams: tuple[str, ...], seed: int) -> Predictions:
    """A stream knows its own target well and the other's badly."""
    rng, truth = np.random.default_rng([1, seed]), np.random.default_rng(2)
    labels = {
        f"{target}/{kind}": truth.integers(0, 2, IMAGES).astype(np.int8)
        for target, kinds in (("pathology", "ab"), ("anatomy", "xy"), ("side", ["left"]))
        for kind in kinds
    }
    frames = [
        lines(IMAGES).assign(
            finding=f"{stream}/{name}",
            score=(rng.standard_normal(IMAGES) + (3 if name.startswith(stream) else 0.5) * label).astype(
                np.float32
            ),
            label=label,
        )
        for stream in streams
        for name, label in labels.items()
    ]
    chance = rng.standard_normal((len(frames), 2, IMAGES)).astype(np.float16)
    features = {f"features/{stream}": rng.standard_normal((20, 6)).astype(np.float16) for stream in streams}
    return Predictions(pd.concat(frames), {"chance": chance, "shown": np.arange(20), **features})


def ranks(seed: int) -> Predictions:
    rng = np.random.default_rng([3, seed])
    directions = (retrieval_task.TO_REPORT, retrieval_task.TO_IMAGE)
    frames = [
        lines(IMAGES).assign(
            finding=name, score=rng.integers(1, 60, IMAGES).astype(np.float32), label=np.int8(1)
        )
        for name in directions
    ]
    arrays = {"candidates": np.array([60, 60]), "hits": np.ones((IMAGES, 2), dtype=np.int32)}
    return Predictions(pd.concat(frames), arrays)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    results = tmp_path_factory.mktemp("streams")
    rows = []
    for method, streams in METHODS.items():
        for seed in SEEDS:
            config = run_config(method, seed)
            asked = [(disentanglement.IMAGES, STREAMS, probes(streams, seed), stream_probes.measure)]
            if method == "convirt":
                asked.append((retrieval.TASK, RETRIEVAL, ranks(seed), retrieval_task.measure))
            for task, protocol, made, measure in asked:
                path = results / "predictions" / config.run_id / result_name(task, protocol)
                write_predictions(made.frame, path, {})
                np.savez(path.with_suffix(".npz"), **made.arrays)
                measured = measure(made, load_protocol(protocol), draws=20)
                rows += [row(config, task, protocol, **vars(one)) for one in measured]
    write_rows(rows, results / "rows.parquet")
    found = Report.open(TIER, results, results)
    tier = found.tier.model_copy(
        update={"bootstrap": 20, "methods": tuple(METHODS), "protocols": (STREAMS, RETRIEVAL)}
    )
    return replace(found, tier=tier)


def cells(table: Table, row_number: int) -> dict[str, Cell]:
    names = [f"{column.group}/{column.name}" for column in table.columns]
    return dict(zip(names, table.rows[row_number].cells, strict=True))


def test_variants_that_were_measured_have_a_table_with_their_method(report: Report) -> None:
    assert not disentanglement.streams_table(report, variants=True).rows
    rows = report.rows[report.rows["label"] == "medslip"]
    variant = rows.assign(variant="no-gate", label="medslip/no-gate")
    table = disentanglement.streams_table(
        replace(report, rows=pd.concat([report.rows, variant], ignore_index=True)), variants=True
    )
    assert list(dict.fromkeys(row.labels[1] for row in table.rows)) == ["medslip", "medslip/no-gate"]


def test_a_contrast_of_streams_is_tested_against_zero(report: Report) -> None:
    measures = [
        {"task": task, "dataset": "mimic-cxr", "metric": "contrast_to_trunk", "finding": stream}
        for task in disentanglement.TASKS
        for stream in ("pathology", "anatomy")
    ]
    claim = {"id": "C", "text": "They differ.", "abstract": "v1", "above_zero": True, "measures": measures}
    claims = Claims.model_validate({"method": "medslip", "baselines": ["convirt"], "claims": [claim]})
    (evidence,) = examine(report, Comparer(report), claims)
    own = evidence.contrasts[0].found
    assert isinstance(own, Comparison)
    values = report.select(label="medslip", finding="pathology", metric="contrast_to_trunk")["value"]
    assert own.seeds is not None
    assert own.seeds.value == pytest.approx(values.mean())
    # It covers the seeds' spread on top of the patients', which alone are beyond chance here.
    assert own.seeds.lower < own.patients.lower < own.patients.value < own.patients.upper < own.seeds.upper
    assert own.patients.lower > 0
    assert own.patients.p_value == pytest.approx(2 / (20 + 1))
    assert [isinstance(one.found, str) for one in evidence.contrasts] == [False, False, True, True]
    table = claims_table(report, claims, [evidence])
    assert {row.labels[-1] for row in table.rows} == {"zero", "none measured"}
    assert "zero" not in " ".join(table.notes)


def test_the_table_has_a_row_for_every_stream_and_level(report: Report) -> None:
    table = disentanglement.streams_table(report)
    assert [(r.labels[0], r.labels[1], r.labels[-1]) for r in table.rows] == [
        *(("image", "medslip", stream) for stream in ("trunk", "pathology", "anatomy")),
        ("image", "convirt", "trunk"),
        *(("patch", "medslip", stream) for stream in ("trunk", "pathology", "anatomy")),
        ("patch", "convirt", "trunk"),
    ]
    own = cells(table, 1)
    first = report.select(finding="pathology", metric="contrast_to_trunk")["value"]
    shown = own["Contrast/Minus trunk's"]
    assert shown.value == pytest.approx(first.mean())
    assert shown.n_seeds == 2
    assert shown.lower is not None and shown.upper is not None
    assert shown.lower < shown.upper
    assert cells(table, 2)["Contrast/Own - other"].value is not None
    assert own["Shuffled labels/Side"].lower is None
    remarks = " ".join(table.missing())
    assert "the trunk has no target of its own" in remarks
    assert "the regions of patches name their side" in remarks


def test_the_figure_has_a_column_for_every_stream(report: Report, tmp_path: Path) -> None:
    with style():
        figure, caption, rows = disentanglement.embeddings_figure(report)
    assert set(rows["label"]) == {"medslip"}
    assert set(rows["seed"]) == {report.rows["seed"].min()}
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["stream trunk", "stream pathology", "stream anatomy"]
    assert "fixed seed" in caption
    sides = figure.axes[-1].get_legend_handles_labels()[1]
    assert sides == ["left", "right"]
    empty = replace(report, rows=report.rows.iloc[:0], results=tmp_path)
    with style():
        assert disentanglement.embeddings_figure(empty)[0].axes


def test_embeddings_repeat() -> None:
    features = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    found = disentanglement.embedded(features)
    assert found.shape == (30, 2)
    assert np.array_equal(disentanglement.embedded(features), found)


def test_the_retrieval_table_says_what_chance_is(report: Report) -> None:
    table = retrieval.retrieval_table(report)
    by_method = {r.labels[0]: r for r in table.rows}
    assert all(cell.value is None for cell in by_method["medslip"].cells)
    assert all(cell.value is not None for cell in by_method["convirt"].cells)
    median = by_method["convirt"].cells[3]
    assert median.value is not None and median.upper is not None
    assert median.upper > median.value > 1
    assert "R@10 0.1667" in table.notes[0]
    assert "0 findings" not in table.header.protocols
