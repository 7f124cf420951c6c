"""What tasks that learn from labels share: what they are given, inference, and the fine-tuning loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from replication import protocol_config
from replication.config_files import derived_seed
from replication.data.batches import PreparedData
from replication.devices import compute_device
from replication.errors import UserError
from replication.method import ImageTrunk
from replication.schedule import learning_rate
from replication.tasks.common import Predictions
from replication.training_config import OptimiserConfig
from replication.transfer_config import FineTuneConfig


@dataclass(frozen=True)
class Adaptation:
    """A pre-trained trunk, and the data it is adapted to.

    Attributes:
        trunk: never changed; learners work on copies.
        seed: of the run.
        batch_size: images per step of inference.
    """

    trunk: ImageTrunk
    data: PreparedData
    protocol: protocol_config.Protocol
    seed: int
    batch_size: int = 128
    progress: bool = False

    def fresh_trunk(self) -> ImageTrunk:
        """A copy of the trunk with every weight trainable, on the device."""
        trunk = copy.deepcopy(self.trunk).requires_grad_(True)
        return trunk.to(compute_device(), memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int8]:
        """``[N, F]`` labels of the protocol's findings; -1 unknown."""
        columns = [self.data.label_names.index(finding.column) for finding in self.protocol.findings]
        return np.asarray(self.data.labels[rows][:, columns])

    def images(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        """Normalised images of some rows, batch by batch, on the device."""
        device = compute_device()
        for start in range(0, len(rows), self.batch_size):
            batch = self.data.batch(rows[start : start + self.batch_size], augmentation=None, seed=0)
            yield batch.images.to(device, memory_format=torch.channels_last)

    def seed_of(self, what: str, fraction: float = 0.0) -> int:
        """The same for every method, so that methods see the same images in the same order."""
        return derived_seed("transfer", what, self.protocol.id, f"{fraction:g}", self.seed)


class Learner(Protocol):
    """A task that learns from labels, bound to a trunk and the data of one protocol."""

    def predict(self, rows: NDArray[np.int64], fraction: float) -> Predictions:
        """Learn from the labels of some rows; predictions of the validation and the test images.

        Args:
            rows: of the training split. fraction: the share of the patients that they belong to.
        """


def precision(name: str) -> torch.autocast:
    """The autocast of a precision setting."""
    return torch.autocast(compute_device().type, dtype=torch.bfloat16, enabled=name == "bf16")


def pooled(trunk: ImageTrunk, images: Tensor) -> Tensor:
    """Mean of the last feature map over its cells: ``[B, 3, H, W]`` -> ``[B, C]`` float32."""
    return trunk(images).float().mean((2, 3))  # type: ignore[no-any-return]


def step_rows(rows: NDArray[np.int64], batch_size: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of each step: all rows in random order, then all again in another one, cut into batches."""
    generator = np.random.default_rng(seed)
    size = min(batch_size, len(rows))
    waiting = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        while len(waiting) < size:
            waiting = np.concatenate([waiting, generator.permutation(rows)])
        yield np.sort(waiting[:size])
        waiting = waiting[size:]


def fine_tune(
    model: nn.Module,
    new: nn.Module,
    loss: Callable[[NDArray[np.int64], int], Tensor],
    judge: Callable[[], float],
    rows: NDArray[np.int64],
    settings: FineTuneConfig,
    seed: int,
    *,
    title: str,
    progress: bool = False,
) -> float:
    """Train a model and leave it with the weights of the check that was judged best; the first of equals.

    torch's generator is left as it was.

    Args:
        model: parameters without gradient stay as they are. new: its part that starts from random weights.
        loss: of a step, from its rows and its seed; called in training mode and under autocast.
        judge: higher is better; called in evaluation mode without gradient.

    Returns:
        The best judgement.

    Raises:
        UserError: the loss is no longer finite.
    """
    fresh = {id(parameter) for parameter in new.parameters()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for rate, members in (
        (settings.trunk_lr, [p for p in trainable if id(p) not in fresh]),
        (settings.head_lr, [p for p in trainable if id(p) in fresh]),
    ):
        for decay, part in (
            (settings.weight_decay, [p for p in members if p.ndim > 1]),
            (0.0, [p for p in members if p.ndim <= 1]),
        ):
            if part:
                groups.append({"params": part, "lr": rate, "peak": rate, "weight_decay": decay})
    optimiser = torch.optim.AdamW(groups, fused=True)
    steps = settings.steps(len(rows))
    checks = {math.ceil(steps * (i + 1) / settings.checks) for i in range(settings.checks)}
    best, kept = -math.inf, None
    batches = step_rows(rows, settings.batch_size, steps, seed)
    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        tqdm(total=steps, desc=title, unit="step", disable=not progress, mininterval=0.5) as bar,
    ):
        for step, chosen in enumerate(batches):
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * _rate(step, steps, settings.warmup)
            model.train()
            step_seed = derived_seed("transfer step", seed, step)
            torch.manual_seed(step_seed)
            with precision(settings.precision):
                value = loss(chosen, step_seed)
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            bar.update()
            if step + 1 in checks:
                _check_finite(float(value.detach()), f"{title}, step {step + 1}")
                model.eval()
                with torch.inference_mode():
                    score = judge()
                if score > best:
                    best, kept = score, copy.deepcopy(model.state_dict())
    if kept is not None:
        model.load_state_dict(kept)
    model.eval()
    return best


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the highest rate: a linear rise, then a cosine towards zero behind the last step."""
    shape = OptimiserConfig(lr=1.0, min_lr=0.0, warmup_lr=0.0, warmup_epochs=warmup * steps)
    return learning_rate(shape, epochs=steps + 1, steps_per_epoch=1, epoch=step + 1, step=0)


def _check_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise UserError(
            "The loss is no longer finite.",
            where=where,
            found=loss,
            remedy="lower trunk_lr and head_lr in the tier's transfer settings, or use fp32",
        )


def inference(
    model: Callable[[Tensor], Tensor], adaptation: Adaptation, rows: NDArray[np.int64], precision_name: str
) -> Iterator[Tensor]:
    """A model's answers for some rows, batch by batch, float32."""
    for images in adaptation.images(rows):
        with torch.inference_mode(), precision(precision_name):
            yield model(images).float()


def concatenated(parts: Sequence[Tensor]) -> NDArray[np.float32]:
    """Batches in one array."""
    return torch.cat(list(parts)).cpu().numpy()
