"""The steps of a replication, one function each; the command line and the Snakefile call nothing else.

Imports of the heavy parts are inside the functions, so that a job loads only what it needs.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from replication.config import RunConfig
from replication.errors import ConfigError, DataError
from replication.files import locked, sweep
from replication.protocol_config import Protocol, load_protocol
from replication.workflow.plan import (
    Run,
    Workspace,
    protocols,
    run_config,
    runs,
    split_rule,
    trained_as,
    transfer_protocols,
)

if TYPE_CHECKING:
    from replication.data.batches import PreparedData
    from replication.knowledge.text_encoder import TextEncoder
    from replication.method import ImportReport


def make_phantom(workspace: Workspace, dataset: str, *, workers: int = 1, progress: bool = True) -> Path:
    """Generate a phantom data set in the on-disk format of the real one.

    Raises:
        DataError: the tier has no phantom, or none of that data set.
    """
    from replication.phantom.writers import write_phantom

    phantom = workspace.tier.phantom
    if phantom is None or dataset not in phantom.patients:
        raise DataError(
            "This tier does not generate that data set.",
            where=f"tier {workspace.tier.name}",
            found=dataset,
            allowed=sorted(phantom.patients) if phantom else "real data only",
            remedy=f"link the real data set to {workspace.raw(dataset)}",
        )
    out = workspace.raw(dataset)
    # Snakemake makes the folder of its output before the job runs.
    if out.is_dir() and not (out / "phantom.json").exists():
        shutil.rmtree(out)
    write_phantom(
        dataset,
        out,
        n_patients=phantom.patients[dataset],
        size=phantom.image_size,
        seed=phantom.seed,
        workers=workers,
        progress=progress,
    )
    return out


def prepare_dataset(
    workspace: Workspace, dataset: str, *, workers: int = 1, progress: bool = True, quarantine: float = 0.0
) -> Path:
    """Check a data set and write its manifest and image cache; see ``prepare`` for ``quarantine``.

    Raises:
        DataError: the data set is not there, or damaged.
    """
    from replication.data.prepare import prepare

    source, out = workspace.raw(dataset), workspace.prepared(dataset)
    if not source.exists():
        raise DataError(
            f"{dataset} is not there.",
            where=source,
            remedy=f"link the folder of the real data set to {source}, or run a tier that generates it",
        )
    if out.is_dir() and not (out / "prepare.json").exists():
        shutil.rmtree(out)
    equalize = any(p.equalize for p in protocols(workspace.tier) if p.dataset == dataset)
    return prepare(
        dataset,
        source,
        out,
        size=workspace.tier.image_size,
        split=split_rule(workspace.tier, dataset),
        workers=workers,
        progress=progress,
        equalize=equalize,
        quarantine=quarantine,
    )


def train_text_encoder(workspace: Workspace, *, threads: int = 1, progress: bool = True) -> Path:
    """Train the tiny BERT on the reports of the pre-training split."""
    import torch

    from replication.data.batches import PreparedData
    from replication.knowledge.descriptions import load_descriptions
    from replication.knowledge.tiny_bert import train_tiny_bert

    torch.set_num_threads(threads)
    config = workspace.tier.text
    data = PreparedData.open(workspace.prepared(workspace.tier.pretrain))
    studies = sorted(set(data.manifest["study_id"].iloc[data.rows("train")]))
    reports = [data.reports[study] for study in studies]
    out = workspace.text
    with locked(out, "training this text encoder"):
        train_tiny_bert(
            reports,
            load_descriptions(config.descriptions),
            out,
            seed=config.seed,
            vocab_size=config.vocabulary_size,
            hidden=config.hidden,
            layers=config.layers,
            heads=config.heads,
            epochs=config.epochs,
            progress=progress,
        )
    return out


def load_text_encoder(workspace: Workspace, run: Run) -> TextEncoder:
    """The text encoder of a run: the one trained in the pipeline, or a pre-trained one by id or path."""
    from replication.knowledge.text_encoder import TextEncoder
    from replication.workflow import text_encoders

    text = run_config(workspace, run).text
    if text.kind == "tiny-bert":
        return TextEncoder.from_pretrained(workspace.text, local_files_only=True)
    return text_encoders.load(workspace, text.name_or_path)


def configured(workspace: Workspace, run: Run, data: PreparedData, text_encoder: TextEncoder) -> RunConfig:
    """The configuration of a run, tied to the data and the text encoder it is trained with."""
    both = f"{data.fingerprint}:{text_encoder.fingerprint}"
    return run_config(workspace, run, hashlib.sha256(both.encode()).hexdigest())


def pretrain_run(workspace: Workspace, run: Run, *, threads: int = 1, progress: bool = True) -> Path:
    """Pre-train one run; resumes where it was interrupted, returns at once when it is done.

    A run that differs from another in evaluation alone takes the other's weights.

    Raises:
        CheckpointError: these are not trained yet, or do not fit.
    """
    from replication.checkpoints import adopt_weights
    from replication.data.batches import PreparedData
    from replication.run_folder import RunFolder
    from replication.training import pretrain

    text_encoder = load_text_encoder(workspace, run)
    data = PreparedData.open(workspace.prepared(workspace.tier.pretrain))
    config = configured(workspace, run, data, text_encoder)
    origin, out = trained_as(workspace, run), workspace.run(run)
    if origin != run:
        with RunFolder(out).locked():
            return adopt_weights(workspace.run(origin), config, text_encoder, out)
    return pretrain(config, data, text_encoder, out, threads=threads, progress=progress)


def evaluate_run(
    workspace: Workspace,
    run: Run,
    *,
    protocol_ids: Iterable[str] = (),
    prepared: Path | None = None,
    threads: int = 1,
    allow_leaks: bool = False,
) -> None:
    """Predictions and rows of one run on the tier's protocols, or on others.

    Args:
        protocol_ids: protocols instead of the tier's.
        prepared: folder of the prepared data set, if it is not the tier's own.
        allow_leaks: score although splits share patients or pictures.

    Raises:
        DataError: the data set was prepared with another split than the protocol names.
    """
    import torch

    from replication.checkpoints import load_run
    from replication.data.batches import PreparedData
    from replication.tasks.evaluate import evaluate

    torch.set_num_threads(threads)
    text_encoder = load_text_encoder(workspace, run)
    method, config = load_run(workspace.run(run), text_encoder)
    chosen: list[Protocol] = [load_protocol(p) for p in protocol_ids] or protocols(workspace.tier, run)
    with _evaluating(workspace, run, config):
        for protocol in chosen:
            data = PreparedData.open(prepared or workspace.prepared(protocol.dataset))
            evaluate(
                workspace.run(run),
                method,
                config,
                protocol,
                data,
                predictions_folder=workspace.predictions,
                rows_folder=workspace.rows,
                bootstrap=workspace.tier.bootstrap,
                batch_size=workspace.tier.evaluation_batch_size,
                threads=threads,
                allow_leaks=allow_leaks,
            )


@contextmanager
def _evaluating(workspace: Workspace, run: Run, config: RunConfig) -> Iterator[None]:
    """Keep other processes from the predictions and rows of a run; clear away what a killed one left."""
    with locked(workspace.run(run) / "evaluated", "evaluating this run"):
        for folder in (workspace.predictions, workspace.rows):
            sweep(folder / config.run_id)
        yield


def transfer_run(
    workspace: Workspace,
    run: Run,
    task: str,
    *,
    fractions: Sequence[float] = (),
    protocol_ids: Iterable[str] = (),
    prepared: Path | None = None,
    threads: int = 1,
    allow_leaks: bool = False,
) -> None:
    """One task that learns from labels, for one run, under the tier's protocols that ask for it.

    Args:
        fractions: of the labels, instead of the tier's.
        protocol_ids: protocols instead of the tier's.
        prepared: folder of the prepared data set, if it is not the tier's own.
        allow_leaks: score although splits share patients or pictures.

    Raises:
        ConfigError: the tier has no transfer settings, or no protocol asks for the task.
        DataError: a fraction of the labels lacks a class.
    """
    from replication.checkpoints import load_run
    from replication.data.batches import PreparedData
    from replication.tasks.results import Folders
    from replication.tasks.transfer import task_named, transfer

    tier = workspace.tier
    task_named(task)
    if tier.transfer is None:
        raise ConfigError(
            f"Tier {tier.name} has no settings for tasks that learn from labels.",
            remedy="add the key transfer to its file",
        )
    chosen = [load_protocol(p) for p in protocol_ids] or transfer_protocols(tier, task)
    if not chosen:
        raise ConfigError(f"No protocol of tier {tier.name} asks for {task}.", found=list(tier.protocols))
    method, config = load_run(workspace.run(run), load_text_encoder(workspace, run))
    with _evaluating(workspace, run, config):
        for protocol in chosen:
            transfer(
                workspace.run(run),
                method,
                config,
                task,
                protocol,
                PreparedData.open(prepared or workspace.prepared(protocol.dataset)),
                tier.transfer,
                fractions=fractions,
                folders=Folders(workspace.predictions, workspace.rows),
                orders=workspace.label_fractions,
                bootstrap=tier.bootstrap,
                batch_size=tier.evaluation_batch_size,
                threads=threads,
                allow_leaks=allow_leaks,
            )


def collect_rows(workspace: Workspace, only: Iterable[str] = ()) -> Path:
    """One ``rows.parquet`` of the tier's runs, whatever else lies in the rows folder."""
    from replication.checkpoints import read_run_config
    from replication.records import merge_rows

    ids = [read_run_config(workspace.run(run)).run_id for run in runs(workspace.tier, only)]
    return merge_rows(workspace.rows, workspace.results / "rows.parquet", run_ids=ids)


def build_report(workspace: Workspace, notebooks: Iterable[str], *, site: bool) -> list[Path]:
    """Execute notebooks, which write the tables and figures, and build the site from these."""
    from replication.reporting.notebooks import execute_all
    from replication.reporting.site import build_site

    written = execute_all(workspace.source, workspace.results, workspace.work, list(notebooks))
    return [*written, *([build_site(workspace.results, workspace.tier.name)] if site else [])]


def convert_released(
    workspace: Workspace, label: str, path: Path, out: Path, *, recipe: str | None = None
) -> ImportReport:
    """Turn the authors' checkpoint into a run folder.

    Raises:
        CheckpointError: a key is missing, left over or of another shape.
    """
    from replication.checkpoints import build_method, save_run
    from replication.data.batches import PreparedData

    run = Run(label, recipe or workspace.tier.recipe, 0)
    text_encoder = load_text_encoder(workspace, run)
    config = run_config(workspace, run, hashlib.sha256(path.read_bytes()).hexdigest())
    labels = PreparedData.open(workspace.prepared(workspace.tier.pretrain)).label_names
    method = build_method(config, text_encoder, labels)
    report = method.load_released(path)
    save_run(out, method, config, text_encoder, labels, {"released": path.name, "mapped": len(report.mapped)})
    return report
