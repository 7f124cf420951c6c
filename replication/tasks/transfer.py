"""Tasks that learn from a downstream data set's labels: for every fraction of them, predictions and rows."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from replication.config import RunConfig
from replication.config_files import derived_seed, digest
from replication.data.batches import PreparedData
from replication.data.fractions import check_classes, label_order, labelled_rows
from replication.data.leaks import refuse_leaks
from replication.devices import compute_device, device_name
from replication.errors import ConfigError, nearest
from replication.method import ImageTrunk, Method
from replication.protocol_config import Protocol
from replication.records import read_json, write_json
from replication.tasks import finetune_segmentation, zero_shot_classification
from replication.tasks.adaptation import Adaptation, Learner
from replication.tasks.common import NothingToMeasure
from replication.tasks.finetune_classification import ClassifierTuning
from replication.tasks.finetune_segmentation import SegmentationTuning
from replication.tasks.linear_probe import LinearProbe
from replication.tasks.results import EvaluatedRun, Folders, Measure, Result
from replication.transfer_config import FineTuneConfig, LinearProbeConfig, TransferConfig, base_task

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class TransferTask:
    """A task that learns from labels.

    Attributes:
        settings: its part of a tier's settings, switched as this form needs it.
        learner: made from a trunk, data and these settings.
        needs: the classes that must be among the labelled images.
        chosen: how what is evaluated was chosen; names of settings in braces.
    """

    settings: Callable[[TransferConfig], LinearProbeConfig | FineTuneConfig]
    learner: Callable[[Adaptation, Any], Learner]
    measure: Measure
    needs: tuple[str, ...]
    chosen: str


def _classification(**switches: str) -> TransferTask:
    return TransferTask(
        lambda config: config.classification.model_copy(update=switches),
        ClassifierTuning,
        zero_shot_classification.measure,
        ("present", "absent"),
        "step of highest mean AUC on {select}",
    )


def _segmentation(**switches: str) -> TransferTask:
    return TransferTask(
        lambda config: config.segmentation.model_copy(update=switches),
        SegmentationTuning,
        finetune_segmentation.measure,
        ("present",),
        "step of highest mean Dice on {select}, encoder {encoder}, decoder {decoder}",
    )


TASKS: dict[str, TransferTask] = {
    "linear_probe": TransferTask(
        lambda config: config.probe,
        LinearProbe,
        zero_shot_classification.measure,
        ("present", "absent"),
        "penalty of highest AUC on val, 1 where val has one class",
    ),
    "finetune_classification": _classification(),
    "finetune_classification_test_selected": _classification(select="test"),
    "finetune_segmentation": _segmentation(),
    "finetune_segmentation_frozen": _segmentation(encoder="frozen"),
    "finetune_segmentation_test_selected": _segmentation(select="test"),
    "finetune_segmentation_res_unet": _segmentation(decoder="res_unet"),
}
"""By the name that tiers, rows and files use."""


def transfer(
    run_folder: Path,
    method: Method,
    config: RunConfig,
    task: str,
    protocol: Protocol,
    data: PreparedData,
    settings: TransferConfig,
    *,
    fractions: Sequence[float] = (),
    folders: Folders,
    orders: Path,
    bootstrap: int = 1000,
    batch_size: int = 128,
    threads: int = 1,
    progress: bool = True,
    allow_leaks: bool = False,
) -> None:
    """One task of one run under one protocol, at every fraction; finished fractions are not done again.

    A task that has no meaning for the method or the data is reported on stderr and leaves empty rows files.

    Args:
        run_folder: of ``replication.training.pretrain``.
        fractions: instead of those of the settings.
        orders: folder of the drawn label fractions, see ``stored_order``.
        bootstrap: resamples of the intervals.
        allow_leaks: score although splits share patients or pictures.

    Raises:
        ConfigError: no such task, or not one of the protocol's. DataError: the data are not those of the
            protocol or leak, a fraction lacks a class, or predictions are damaged; before anything is
            trained.
    """
    torch.set_num_threads(threads)
    form = task_named(task)
    if base_task(task) not in protocol.tasks:
        raise ConfigError(
            f"The protocol does not ask for {base_task(task)}.",
            where=protocol.id,
            allowed=", ".join(protocol.tasks),
        )
    data.check_protocol(protocol)
    refuse_leaks(data, protocol, pretrained_on=config.dataset, allow=allow_leaks)
    wanted = fractions or settings.fractions_for(task)
    columns = [finding.column for finding in protocol.findings]
    order = stored_order(orders, protocol, data, config.seed)
    labelled = {fraction: labelled_rows(data, order, fraction) for fraction in wanted}
    for fraction, rows in labelled.items():
        check_classes(data, rows, columns, fraction, protocol.id, form.needs)
    own = form.settings(settings)
    run = EvaluatedRun.open(run_folder, method, config)
    selection = f"{config.training.select}; {form.chosen.format(**own.model_dump())}"
    learner: Learner | None = None
    for fraction, rows in labelled.items():
        inputs = {"settings": digest(own), "labelled": _digest_of_rows(rows)}
        result = Result(run, task, protocol, data, folders, selection, fraction, inputs)
        try:
            if not result.is_predicted:
                if "absent" in form.needs:
                    labels = zero_shot_classification.labels_of(data, data.rows("test"), protocol)
                    zero_shot_classification.check_test_classes(labels, protocol, data.name)
                adaptation = Adaptation(_trunk(method), data, protocol, config.seed, batch_size, progress)
                learner = learner or form.learner(adaptation, own)
                began = time.monotonic()
                predictions = learner.predict(rows, fraction)
                result.write(
                    predictions,
                    device=device_name(compute_device()),
                    dtype=_DTYPES[own.precision],
                    seconds=round(time.monotonic() - began, 2),
                )
        except NothingToMeasure as reason:
            print(f"{config.label}, {task}, {protocol.id}: {reason}", file=sys.stderr)
            result.leave_empty(str(reason))
            continue
        result.measure(form.measure, bootstrap)


def task_named(name: str) -> TransferTask:
    """A task by name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in TASKS:
        raise ConfigError("No such task that learns from labels.", found=name, remedy=nearest(name, TASKS))
    return TASKS[name]


def stored_order(folder: Path, protocol: Protocol, data: PreparedData, seed: int) -> list[str]:
    """The order of the training patients that fractions are taken from, drawn once and kept as a file.

    ``<protocol slug>.seed<n>.json`` holds the manifest's fingerprint, the findings that it is stratified by,
    the seed and the patients; a file of other data is replaced. It depends on the run's seed and on nothing
    else of a run, so methods of one seed learn from the same patients.
    """
    path = folder / f"{protocol.slug}.seed{seed}.json"
    columns = [finding.column for finding in protocol.findings]
    facts = {
        "version": 1,
        "protocol": protocol.id,
        "manifest": data.fingerprint,
        "stratified_by": columns,
        "seed": seed,
    }
    if path.is_file():
        known = read_json(path)
        if {name: known.get(name) for name in facts} == facts:
            return [str(patient) for patient in known["patients"]]
    order = label_order(data, columns, derived_seed("label fractions", protocol.id, seed))
    write_json(path, {**facts, "patients": order})
    return order


def _trunk(method: Method) -> ImageTrunk:
    trunk = getattr(method, "trunk", None)
    if not isinstance(trunk, ImageTrunk):
        raise NothingToMeasure("The method has no image trunk to adapt.", where=method.name)
    return trunk


def _digest_of_rows(rows: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").tobytes()).hexdigest()
