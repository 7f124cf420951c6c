"""The tasks that learn from labels, on radiographs that nobody here generated."""

from __future__ import annotations

from pathlib import Path

import harness_doubles as doubles
import pytest

from replication.checkpoints import load_run, save_run
from replication.data.batches import PreparedData
from replication.data.prepare import prepare
from replication.protocol_config import load_protocol
from replication.records import merge_rows, read_rows
from replication.tasks.results import Folders
from replication.tasks.transfer import transfer
from replication.transfer_config import TransferConfig

SETTINGS = TransferConfig.model_validate(
    {
        "fractions": (0.2, 1.0),
        "classification": {"epochs": 0, "min_steps": 5, "checks": 1, "batch_size": 16},
        "segmentation": {
            **{"epochs": 0, "min_steps": 40, "checks": 1, "batch_size": 16},
            **{"trunk_lr": 1e-3, "head_lr": 2e-2, "decoder_channels": (16, 16, 8)},
        },
    }
)


@pytest.mark.slow
def test_covid_and_lungs_from_an_untrained_trunk(realdata: Path, tmp_path: Path) -> None:
    source = realdata / "covid_cxr"
    data = PreparedData.open(
        prepare("covid-chestxray", source, tmp_path / "data", size=64, workers=1, progress=False)
    )
    config, text = doubles.run_config(), doubles.FakeText()
    run, folders = tmp_path / "run", Folders(tmp_path / "predictions", tmp_path / "rows")
    save_run(run, doubles.method(), config, text, doubles.LABELS, {"wall_seconds": 1.0})
    for task, name in (
        ("linear_probe", "patient-seeded"),
        ("finetune_classification", "patient-seeded"),
        ("finetune_segmentation", "lungs"),
    ):
        method, _ = load_run(run, text)
        protocol = load_protocol(f"covid-chestxray/{name}/v1")
        transfer(
            run,
            method,
            config,
            task,
            protocol,
            data,
            SETTINGS,
            folders=folders,
            orders=tmp_path / "orders",
            bootstrap=200,
            progress=False,
        )
    rows = read_rows(merge_rows(folders.rows))
    shown = rows[rows["metric"].isin(["auc", "dice"])]
    assert len(shown) == 6
    assert (shown["lower"] < shown["value"]).all() and (shown["value"] < shown["upper"]).all()
    dice = shown[shown["metric"] == "dice"].set_index("label_fraction")["value"]
    # Lungs lie in the same place in most films, so that even a small untrained trunk finds them.
    assert dice[1.0] > 0.6
