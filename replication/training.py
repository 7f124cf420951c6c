"""The one training loop: deterministic, resumable at any step, the same for every method.

Nothing in a run depends on when or how often it was interrupted: the order of images, their augmentation and
every draw inside the model follow from (seed, epoch, step), and all else is in the saved state.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm import tqdm

from replication.checkpoints import build_method, load_weights, save_run, save_weights
from replication.config import RunConfig
from replication.config_files import derived_seed
from replication.devices import device_name, preparing_processes, use_deterministic_kernels
from replication.errors import UserError
from replication.feeding import EpochBatches, MicroBatches, check_sizes, steps_per_epoch, validation_batches
from replication.method import Batch
from replication.networks.shared_batch_norm import share_batch_norms
from replication.run_folder import Position, RunFolder
from replication.schedule import learning_rate
from replication.training_config import OptimiserConfig

if TYPE_CHECKING:
    from replication.data.batches import PreparedData


def pretrain(
    config: RunConfig,
    data: PreparedData,
    text_encoder: nn.Module,
    out: Path,
    *,
    threads: int = 1,
    progress: bool = True,
    save_every_seconds: float = 60.0,
    log_every: int = 50,
    workers: int | None = None,
) -> Path:
    """Train one run, or go on with it, or return at once if it is done.

    Writes ``config.json``, ``log.jsonl`` (one line per epoch and per ``log_every`` steps),
    ``weights.safetensors`` and, last, ``done.json``; ``resume/`` exists while the run is unfinished. A folder
    that holds the run of another configuration is set aside, not overwritten. The run of a method without a
    trainable weight is finished at once, without a log: no image is read.

    Args:
        data: the prepared pre-training set; trained on its ``train`` split, validated on ``val``.
        threads: torch threads of this process.
        save_every_seconds: time between two saved states; one is also saved after each epoch.
        workers: processes that prepare batches ahead; 0 for none, ``preparing_processes`` if left out.

    Returns:
        ``out``.

    Raises:
        DataError: too few images. ConfigError: the batch size does not divide.
        UserError: another process trains in this folder, a loss is no longer finite, or a batch does not fit
            into the memory of the GPU.
        CheckpointError: the saved state is damaged.
    """
    workers = preparing_processes(threads) if workers is None else workers
    torch.set_num_threads(threads)
    folder = RunFolder(out)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        gradient_accumulation_steps=config.training.accumulation,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    main = accelerator.is_main_process
    with folder.locked() if main else nullcontext():
        if main:
            folder.claim(config)
        accelerator.wait_for_everyone()
        if not folder.is_done:
            run = _Run(
                config, data, text_encoder, folder, accelerator, log_every, save_every_seconds, workers
            )
            try:
                run.train(progress)
            except torch.OutOfMemoryError as error:
                raise too_large(config, accelerator.device, accelerator.num_processes) from error
        if main:
            folder.clean()
    return out


class Objective(nn.Module):
    """A method whose forward pass is its loss, so that a data-parallel wrapper sees the whole step."""

    def __init__(self, method: nn.Module, precision: str) -> None:
        super().__init__()
        self.method = method
        self.bf16 = precision == "bf16"

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss, and its parts without gradient."""
        with torch.autocast(batch.images.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            losses = self.method.loss(batch)  # type: ignore[operator]
        return losses.total.float(), {name: part.detach() for name, part in losses.parts.items()}


class _Run:
    """One pre-training run, in one process of possibly several."""

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        text_encoder: nn.Module,
        folder: RunFolder,
        accelerator: Accelerator,
        log_every: int,
        save_every_seconds: float,
        workers: int,
    ) -> None:
        self.config, self.data, self.text_encoder, self.folder = config, data, text_encoder, folder
        self.log_every, self.save_every_seconds, self.workers = log_every, save_every_seconds, workers
        training = config.training
        self.accelerator = accelerator
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        check_sizes(data, training, self.processes)
        self.steps = steps_per_epoch(data, training)
        self.batch_size = min(training.batch_size, len(data.rows("train")))
        use_deterministic_kernels()
        self.method = build_method(config, text_encoder, data.label_names)
        if self.processes > 1:
            share_batch_norms(self.method)
        self.method.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups: list[dict[str, Any]] = [
            group
            for group in self.method.parameter_groups(training.optimiser.weight_decay)
            if group["params"]
        ]
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        self.epochs = training.epochs if self.parameters else 0
        self.position = Position()
        if self.parameters:
            self.objective, self.optimiser = self.accelerator.prepare(
                Objective(self.method, training.precision), make_optimiser(groups, training.optimiser)
            )

    def train(self, progress: bool) -> None:
        """All epochs that are left, then the files of a finished run."""
        if self.parameters:
            self._all_epochs(progress)
        if self.main:
            self._finish()
        self.accelerator.wait_for_everyone()

    def _all_epochs(self, progress: bool) -> None:
        self.position = self.folder.load_state(self.method, self.optimiser)
        if self.main:
            self.folder.cut_log(self.position)
        with tqdm(
            total=self.epochs * self.steps * self.batch_size,
            initial=self.position.images,
            unit="img",
            unit_scale=True,
            desc=f"{self.config.label} seed {self.config.seed}",
            disable=not (progress and self.main),
            file=sys.stderr,
            mininterval=0.5,
            dynamic_ncols=True,
        ) as bar:
            for epoch in range(self.position.epoch, self.epochs):
                self._epoch(epoch, bar)

    def _epoch(self, epoch: int, bar: tqdm[Any]) -> None:
        position, training = self.position, self.config.training
        batches = EpochBatches(self.data, self.config, epoch, self.rank, self.processes)
        sums: dict[str, Any] = dict(position.sums)
        rate, losses = 0.0, {}
        self.objective.train()
        began = saved = time.monotonic()
        before = (position.seconds, position.training_seconds)
        for step, micro_batches in enumerate(
            batches.loader(position.step, self.steps, self.workers), position.step
        ):
            rate = learning_rate(
                training.optimiser,
                epochs=training.epochs,
                steps_per_epoch=self.steps,
                epoch=epoch,
                step=step,
                validation=position.validation,
            )
            losses = self._step(micro_batches, epoch, step, rate)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.double()
            position.step, position.images = step + 1, position.images + self.batch_size
            bar.update(self.batch_size)
            due = time.monotonic() - saved > self.save_every_seconds
            if (step + 1) % self.log_every == 0 or due:
                position.sums = _finite(sums, f"{self.folder.path}, epoch {epoch}, up to step {step}")
                spent = time.monotonic() - began
                position.seconds, position.training_seconds = before[0] + spent, before[1] + spent
                bar.set_postfix(epoch=f"{epoch + 1}/{training.epochs}", loss=f"{float(losses['total']):.3f}")
            if (step + 1) % self.log_every == 0:
                self._log("step", epoch, rate, train={name: float(value) for name, value in losses.items()})
            if due and step + 1 < self.steps:
                self._save()
                saved = time.monotonic()
        position.training_seconds = before[1] + time.monotonic() - began
        train = self._means(sums, self.steps, f"training, epoch {epoch}")
        validation = self._validation_losses(epoch)
        position.seconds = before[0] + time.monotonic() - began
        bar.set_postfix(
            epoch=f"{epoch + 1}/{training.epochs}",
            loss=f"{train['total']:.3f}",
            val=f"{validation['total']:.3f}" if validation else "none",
        )
        self._log("epoch", epoch, rate, train=train, val=validation)
        self._end_epoch(epoch, validation)

    def _step(self, micro_batches: MicroBatches, epoch: int, step: int, rate: float) -> dict[str, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        means: dict[str, Tensor] = {}
        clip = self.config.training.optimiser.clip_norm
        for micro, batch in enumerate(micro_batches):
            # Dropout draws from torch's global generator; seeding it here makes a step repeatable by itself.
            torch.manual_seed(derived_seed("step", self.config.seed, epoch, step, micro, self.rank))
            with self.accelerator.accumulate(self.objective):
                total, parts = self.objective(batch.to(self.device))
                self.accelerator.backward(total)
                if clip is not None and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters, clip)
                self.optimiser.step()
                self.optimiser.zero_grad()
            for name, value in {**parts, "total": total.detach()}.items():
                share = value / len(micro_batches)
                means[name] = means[name] + share if name in means else share
        return means

    @torch.no_grad()
    def _validation_losses(self, epoch: int) -> dict[str, float]:
        """Means over the validation images, which are the same in every epoch unless asked otherwise."""
        self.objective.eval()
        sums: dict[str, Any] = {}
        seen = 0
        for batch in validation_batches(self.data, self.config, epoch, self.rank, self.processes):
            torch.manual_seed(batch.seed)
            total, parts = self.objective(batch.to(self.device))
            for name, value in {**parts, "total": total}.items():
                sums[name] = sums.get(name, 0.0) + value.double() * len(batch)
            seen += len(batch)
        return self._means(sums, seen, f"validation, epoch {epoch}")

    def _end_epoch(self, epoch: int, validation: dict[str, float]) -> None:
        """Keep the best weights and the state; from here on the epoch is not done again."""
        position = self.position
        if validation:
            position.validation.append(validation["total"])
        best = self.config.training.select == "best_val" and position.best_epoch == epoch
        position.epoch, position.step, position.sums = epoch + 1, 0, {}
        if best and self.main:
            save_weights(self.method, self.folder.best)
        self._save()

    def _save(self) -> None:
        if self.main:
            self.folder.save_state(self.method, self.optimiser, self.position)

    def _means(self, sums: dict[str, Any], count: int, what: str) -> dict[str, float]:
        """Means over the steps or images, and over all processes."""
        means = {name: torch.as_tensor(value, device=self.device) / count for name, value in sums.items()}
        if self.processes > 1:
            means = self.accelerator.reduce(means, reduction="mean")
        return _finite(means, f"{self.folder.path}, {what}")

    def _log(self, kind: str, epoch: int, rate: float, **losses: dict[str, float]) -> None:
        if self.main:
            position = self.position
            self.folder.append(
                {
                    "kind": kind,
                    "epoch": epoch,
                    "step": position.step,
                    "lr": rate,
                    **losses,
                    "images_per_second": position.images_per_second,
                    "seconds": round(position.seconds, 3),
                }
            )

    def _finish(self) -> None:
        training, position = self.config.training, self.position
        selected = self.epochs - 1
        if self.epochs and training.select == "best_val":
            selected = position.best_epoch
            load_weights(self.method, self.folder.best)
        done = {
            "selected_epoch": selected if self.epochs else None,
            "validation_loss": position.validation[selected] if position.validation else None,
            "epochs": self.epochs,
            "steps": self.epochs * self.steps,
            "images": position.images,
            "wall_seconds": round(position.seconds, 3),
            "images_per_second": position.images_per_second,
            "parameters": sum(p.numel() for p in self.method.parameters()),
            "trainable_parameters": sum(p.numel() for p in self.parameters),
            "device": device_name(self.device),
            "precision": training.precision,
            "processes": self.processes,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        names = self.data.label_names
        save_run(self.folder.path, self.method, self.config, self.text_encoder, names, done)


def make_optimiser(groups: list[dict[str, Any]], config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser of a configuration over parameter groups."""
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, fused=True)


def too_large(config: RunConfig, device: torch.device, processes: int = 1) -> UserError:
    """What to say where the images of a step do not fit into the memory of a GPU."""
    training = config.training
    images = training.batch_size // training.accumulation // processes
    return UserError(
        "The images of a step do not fit into the memory of the GPU.",
        where=f"{config.label}, training.batch_size and training.accumulation",
        found=f"{images} images at {config.image_size} pixels on one {device_name(device)}",
        remedy="share each step between GPUs: torchrun --nproc_per_node N -m replication.cli pretrain ... "
        "gives the same result; training.accumulation would change contrasts between images",
    )


def _finite(values: dict[str, Any], where: str) -> dict[str, float]:
    """Plain numbers.

    Raises:
        UserError: one is not finite.
    """
    plain = {name: float(value) for name, value in values.items()}
    wrong = {name: value for name, value in plain.items() if not math.isfinite(value)}
    if wrong:
        raise UserError(
            "A loss is no longer finite.",
            where=where,
            found=wrong,
            remedy="lower the learning rate, clip the gradient, or use fp32",
        )
    return plain
