"""Credentialed data with canaries as identifiers, in reports and as images: none leaves the work folder."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import harness_doubles as doubles
import numpy as np
import pytest
from canaries import contents
from PIL import Image

from replication.checkpoints import load_run, save_run
from replication.data.batches import PreparedData
from replication.data.prepare import prepare
from replication.data.privacy import is_credentialed
from replication.protocol_config import Protocol
from replication.reporting.grounding_maps import examples_of
from replication.reporting.report import Report
from replication.tasks.evaluate import evaluate

from . import raw

CANARY = "zebrafinch"
PATIENT = "99887766"
NUMBERS = ("10000000", "10000004", "50000000", "50000004")


def credentialed(root: Path, *, phantom: bool = False) -> PreparedData:
    """MIMIC-CXR's format with a canary as image id, patient and report text, and noise as images."""
    source = raw.write_mimic(root / "mimic")
    for path in sorted(source.rglob("*"), reverse=True):
        text = path.name.replace("dicom-", f"{CANARY}-")
        text = text.replace("10000004", PATIENT)
        if text != path.name:
            path.rename(path.with_name(text))
    for path in [*source.glob("*.csv"), source / "MIMIC-CXR_graphs.json"]:
        text = path.read_text().replace("dicom-", f"{CANARY}-").replace("10000004", PATIENT)
        path.write_text(text.replace("p10/p998", "p99/p998"))
    (source / "files/p99").mkdir(exist_ok=True)
    (source / f"files/p10/p{PATIENT}").rename(source / f"files/p99/p{PATIENT}")
    for report in source.rglob("s5*.txt"):
        report.write_text(report.read_text() + f"\n IMPRESSION: {CANARY} in the left lung.\n")
    for k, image in enumerate(sorted(source.rglob("*.jpg"))):
        Image.fromarray(canary_image(k)).save(image, quality=100)
    if phantom:
        (source / "phantom.json").write_text("{}")
    return PreparedData.open(prepare("mimic-cxr", source, root / "prepared", size=32, progress=False))


def canary_image(k: int = 0) -> np.ndarray:
    return np.random.default_rng([7, k]).integers(0, 256, (32, 32)).astype(np.uint8)


PROTOCOL = Protocol.model_validate(
    {
        "id": "mimic-cxr/double/v1",
        "dataset": "mimic-cxr",
        "split": "official",
        "description": "a double",
        "findings": [{"name": name, "column": name, "text": name} for name in ("atelectasis", "edema")],
        "tasks": ["zero_shot_classification", "zero_shot_grounding"],
        "grounding": "boxes",
    }
)


def evaluated(data: PreparedData, root: Path) -> Path:
    """Results of a method on the data."""
    run, text, config = root / "run", doubles.FakeText(), doubles.run_config()
    labels = ("atelectasis", "edema")
    method = doubles.method()
    method.label_names = labels
    save_run(run, method, config, text, labels, {"wall_seconds": 1.0})
    method, config = load_run(run, text)
    results = root / "results"
    evaluate(
        run,
        method,
        config,
        PROTOCOL,
        data,
        predictions_folder=results / "predictions",
        rows_folder=results / "rows",
        bootstrap=10,
        progress=False,
    )
    return results


def test_the_search_would_find_a_canary(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=canary_image())
    assert any(canary_image().tobytes() in content for _, content in contents(tmp_path))
    data = doubles.prepared()
    frame = data.manifest[["sample_id"]].assign(sample_id=CANARY)
    frame.to_parquet(tmp_path / "b.parquet")
    assert any(CANARY.encode() in content for _, content in contents(tmp_path))


def test_nothing_of_credentialed_data_is_among_the_results(tmp_path: Path) -> None:
    data = credentialed(tmp_path)
    assert is_credentialed(data)
    assert CANARY in " ".join([*data.reports.values(), *data.manifest["sample_id"]])
    results = evaluated(data, tmp_path)
    assert list(results.rglob("*.parquet"))
    secrets = [CANARY.encode(), PATIENT.encode(), *(number.encode() for number in NUMBERS)]
    for image in data.images:
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        secrets += [image.tobytes(), png.getvalue()]
    secrets += [digest.encode() for digest in data.manifest["sha256"]]
    secrets += [data.provenance["digests"]["images"].encode()]
    for name, content in contents(results):
        for secret in secrets:
            assert secret not in content, name
            assert secret not in name.encode()


def test_figures_show_no_image_of_credentialed_data(tmp_path: Path) -> None:
    data = credentialed(tmp_path)
    data.folder.rename(tmp_path / "mimic-cxr")
    (tmp_path / "prepared").mkdir()
    (tmp_path / "mimic-cxr").rename(tmp_path / "prepared/mimic-cxr")
    # Nothing but the work folder may be asked for: whatever else would be drawn is never reached.
    report = cast(Report, SimpleNamespace(work=tmp_path))
    assert examples_of(report, PROTOCOL) == []


@pytest.mark.parametrize("phantom", [True, False])
def test_folders_prepared_before_the_mark_are_judged_by_their_source(tmp_path: Path, phantom: bool) -> None:
    data = credentialed(tmp_path, phantom=phantom)
    del data.provenance["credentialed"]
    assert is_credentialed(data) is not phantom
    data.provenance["source"] = str(tmp_path / "moved")
    assert is_credentialed(data)
