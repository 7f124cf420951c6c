from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import harness_doubles as doubles
import numpy as np
import pytest

from replication.checkpoints import load_run, save_run
from replication.data.batches import PreparedData
from replication.errors import ConfigError, DataError
from replication.records import (
    merge_rows,
    read_json,
    read_metadata,
    read_predictions,
    read_rows,
    result_name,
    write_json,
)
from replication.tasks import transfer as module
from replication.tasks.evaluate import evaluate
from replication.tasks.finetune_classification import ClassifierTuning
from replication.tasks.linear_probe import LinearProbe
from replication.tasks.results import Folders
from replication.tasks.transfer import TASKS, stored_order, transfer
from replication.transfer_config import TransferConfig, base_task

CONFIG, TEXT = doubles.run_config(), doubles.FakeText()
CLASSIFICATION = ("linear_probe", "finetune_classification")
PROTOCOL = doubles.protocol(tasks=["zero_shot_classification", *CLASSIFICATION])
SPOT = [{"name": "spot", "column": "spot", "text": "spot"}]
REGIONS = doubles.protocol(
    id="nih-cxr14/regions/v1", findings=SPOT, tasks=["zero_shot_classification", "finetune_segmentation"]
)
SETTINGS = TransferConfig.model_validate(
    {
        "fractions": (0.25, 1.0),
        "classification": {"epochs": 0, "min_steps": 2, "checks": 1, "batch_size": 8},
        "segmentation": {
            "epochs": 0,
            "min_steps": 2,
            "checks": 1,
            "batch_size": 8,
            "decoder_channels": (8, 8, 8, 8),
        },
    }
)


class Place:
    """Folders of one run."""

    def __init__(self, root: Path) -> None:
        self.run, self.orders = root / "run", root / "orders"
        self.folders = Folders(root / "predictions", root / "rows")
        save_run(self.run, doubles.method(), CONFIG, TEXT, doubles.LABELS, {"wall_seconds": 12.5})

    def transfer(
        self,
        task: str = "finetune_classification",
        *,
        data: PreparedData | None = None,
        protocol: object = PROTOCOL,
        settings: TransferConfig = SETTINGS,
        fractions: Sequence[float] = (),
    ) -> None:
        method, config = load_run(self.run, TEXT)
        transfer(
            self.run,
            method,
            config,
            task,
            protocol,
            data or doubles.prepared(40),
            settings,
            fractions=fractions,
            folders=self.folders,
            orders=self.orders,
            bootstrap=20,
            progress=False,
        )

    def path(self, task: str, fraction: float, protocol: object = PROTOCOL) -> Path:
        return self.folders.predictions / CONFIG.run_id / result_name(task, protocol.id, fraction)

    def rows(self, task: str, fraction: float, protocol: object = PROTOCOL) -> Path:
        return self.folders.rows / CONFIG.run_id / result_name(task, protocol.id, fraction)

    def files(self) -> dict[str, int]:
        paths = [p for folder in vars(self.folders).values() for p in folder.rglob("*.*")]
        return {str(path): path.stat().st_mtime_ns for path in paths}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_writes_a_file_and_rows_per_fraction(task: str, place: Place) -> None:
    protocol = PROTOCOL if base_task(task) in CLASSIFICATION else REGIONS
    place.transfer(task, protocol=protocol)
    rows = read_rows(merge_rows(place.folders.rows))
    assert set(rows["task"]) == {task}
    assert set(rows["label_fraction"]) == {0.25, 1.0}
    assert {len(group) for _, group in rows.groupby("label_fraction")} == {len(rows) // 2}
    metric = "dice" if base_task(task) == "finetune_segmentation" else "auc"
    assert rows.loc[rows["metric"] == metric, "value"].between(0, 1).all()
    select = "test" if task.endswith("test_selected") else "val"
    assert set(rows["selection"].str.split(" on ").str[1].str.split(",").str[0]) == {select}
    assert rows["selection"].str.startswith("best_val; ").all()
    assert place.path(task, 0.25, protocol).name == f"{task}.{protocol.slug}.f0.25.parquet"
    frame = read_predictions(place.path(task, 1.0, protocol))
    assert set(frame["split"]) == {"val", "test"}


def test_the_second_time_nothing_is_learned(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in CLASSIFICATION:
        place.transfer(task)
    before = place.files()
    monkeypatch.setattr(ClassifierTuning, "predict", None)
    monkeypatch.setattr(LinearProbe, "predict", None)
    for task in CLASSIFICATION:
        place.transfer(task)
    assert place.files() == before


def test_a_killed_job_goes_on_with_the_fraction_it_was_at(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Place(tmp_path / "other")
    undisturbed.transfer()
    learn = ClassifierTuning.predict

    def killed(self: ClassifierTuning, rows: np.ndarray, fraction: float) -> object:
        if fraction == 1.0:
            raise KeyboardInterrupt
        return learn(self, rows, fraction)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTuning, "predict", killed)
        with pytest.raises(KeyboardInterrupt):
            place.transfer()
    finished = place.files()
    assert {Path(path).name for path in finished} == {place.path("finetune_classification", 0.25).name}
    place.transfer()
    assert finished.items() <= place.files().items()
    ours, theirs = (merge_rows(one.folders.rows).read_bytes() for one in (place, undisturbed))
    assert ours == theirs


def test_methods_of_a_seed_learn_from_the_same_stored_patients(place: Place) -> None:
    place.transfer("linear_probe")
    path = place.orders / f"{PROTOCOL.slug}.seed{CONFIG.seed}.json"
    stored = read_json(path)
    data = doubles.prepared(40)
    assert stored["manifest"] == data.fingerprint
    assert stored["stratified_by"] == list(doubles.LABELS)
    assert sorted(stored["patients"]) == sorted(set(data.manifest["patient_id"].iloc[data.rows("train")]))
    write_json(path, {**stored, "patients": stored["patients"][::-1]})
    assert stored_order(place.orders, PROTOCOL, data, CONFIG.seed) == stored["patients"][::-1]
    data.provenance["fingerprint"] = "e" * 64
    assert stored_order(place.orders, PROTOCOL, data, CONFIG.seed) == stored["patients"]
    assert stored_order(place.orders, PROTOCOL, data, 8) != stored["patients"]


def test_a_fraction_without_a_class_is_refused_before_anything_is_learned(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassifierTuning, "predict", None)
    data = doubles.prepared(40)
    train = data.rows("train")
    data.labels[train, 0] = 0
    data.labels[train[-1], 0] = 1
    with pytest.raises(DataError) as error:
        place.transfer(data=data, settings=SETTINGS.model_copy(update={"fractions": (1.0, 0.1)}))
    assert "no image has spot present" in str(error.value)
    assert "0.1 of the labels" in str(error.value)
    assert not place.folders.predictions.exists() and not place.folders.rows.exists()


def test_other_settings_of_a_task_are_learned_anew_and_those_of_others_are_not(place: Place) -> None:
    for task in CLASSIFICATION:
        place.transfer(task)
    before = place.files()
    classification = SETTINGS.classification.model_copy(update={"min_steps": 3})
    for task in CLASSIFICATION:
        place.transfer(task, settings=SETTINGS.model_copy(update={"classification": classification}))
    changed = {Path(path).name for path, time in place.files().items() if before[path] != time}
    assert changed == {place.path("finetune_classification", fraction).name for fraction in (0.25, 1.0)}


def test_a_single_fraction_can_be_asked_for(place: Place) -> None:
    place.transfer("linear_probe", fractions=[0.5])
    assert {Path(path).name for path in place.files()} == {place.path("linear_probe", 0.5).name}


def test_one_more_task_leaves_zero_shot_predictions_as_they_are(place: Place) -> None:
    method, config = load_run(place.run, TEXT)
    data, folders = doubles.prepared(40), place.folders

    def scored(protocol: object) -> dict[str, int]:
        evaluate(
            place.run,
            method,
            config,
            protocol,
            data,
            predictions_folder=folders.predictions,
            rows_folder=folders.rows,
            bootstrap=10,
            progress=False,
        )
        return place.files()

    first = scored(PROTOCOL)
    assert len(first) == 2
    assert scored(PROTOCOL.model_copy(update={"tasks": PROTOCOL.tasks[:2], "description": "other"})) == first
    assert scored(PROTOCOL.model_copy(update={"threshold_source": "test"})) != first


def test_a_task_may_be_done_at_shares_of_its_own(place: Place) -> None:
    settings = SETTINGS.model_copy(update={"fractions_of": {"linear_probe": (0.5,)}})
    for task in CLASSIFICATION:
        place.transfer(task, settings=settings)
    done = {task: [f for f in (0.25, 0.5, 1.0) if place.path(task, f).is_file()] for task in CLASSIFICATION}
    assert done == {"linear_probe": [0.5], "finetune_classification": [0.25, 1.0]}


def test_a_method_without_a_trunk_leaves_empty_rows_and_the_reason(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "ImageTrunk", str)
    place.transfer("linear_probe")
    assert "no image trunk" in capsys.readouterr().err
    for fraction in SETTINGS.fractions:
        path = place.rows("linear_probe", fraction)
        assert len(read_rows(path)) == 0
        assert "no image trunk" in read_metadata(path)["nothing"]


def test_a_wrong_name_or_a_task_the_protocol_lacks_is_refused(place: Place) -> None:
    with pytest.raises(ConfigError, match="did you mean 'linear_probe'"):
        place.transfer("linear_prob")
    with pytest.raises(ConfigError, match="does not ask for finetune_segmentation"):
        place.transfer("finetune_segmentation_frozen")


def test_wrong_settings_are_refused() -> None:
    for wrong in (
        {"tasks": ["linear"]},
        {"fractions": []},
        {"probe": {"c": 1}},
        {"classification": {"min_steps": 0}},
    ):
        with pytest.raises(ValueError, match="validation error"):
            TransferConfig.model_validate(wrong)
