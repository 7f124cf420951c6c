"""Typed settings of the tasks that learn from a downstream data set's labels; the same for all methods."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from replication.config_files import Strict
from replication.training_config import AugmentationConfig

TransferTask = Literal[
    "linear_probe",
    "finetune_classification",
    "finetune_classification_test_selected",
    "finetune_segmentation",
    "finetune_segmentation_frozen",
    "finetune_segmentation_test_selected",
    "finetune_segmentation_res_unet",
]

_BASES = ("linear_probe", "finetune_classification", "finetune_segmentation")


def base_task(task: str) -> str:
    """The task that protocols name; forms of it, such as a frozen encoder, have names that begin with it."""
    return next(base for base in _BASES if task.startswith(base))


class LinearProbeConfig(Strict):
    """Logistic regression on the frozen trunk's pooled features.

    Attributes:
        inverse_penalties: values of C (inverse strength of the L2 penalty) that validation chooses from.
        iterations: most iterations of the solver.
        precision: ``bf16`` runs the trunk under autocast.
    """

    inverse_penalties: tuple[PositiveFloat, ...] = Field(default=(0.001, 0.01, 0.1, 1.0, 10.0), min_length=1)
    iterations: PositiveInt = 1000
    precision: Literal["fp32", "bf16"] = "fp32"


class FineTuneConfig(Strict):
    """AdamW with a linear warm-up and a cosine decay, over a number of steps that all methods share.

    Attributes:
        epochs: passes over the labelled images. min_steps: optimiser steps that small fractions get at least.
        checks: how often in the course of training the model is judged, at equal distances; the weights of
            the best check are kept.
        batch_size: images per step; all labelled images where there are fewer.
        trunk_lr, head_lr: highest learning rate of the pre-trained trunk and of what is new.
        warmup: share of the steps in which the rates rise.
        precision: ``bf16`` runs the forward pass under autocast.
        select: the split that a check is judged on. ``test`` is what the released code does (audit F2); it is
            there to measure how much that flatters a method.
    """

    epochs: float = Field(default=20, ge=0)
    min_steps: PositiveInt = 1000
    checks: PositiveInt = 10
    batch_size: PositiveInt = 64
    trunk_lr: PositiveFloat = 1.0e-4
    head_lr: PositiveFloat = 1.0e-3
    weight_decay: float = Field(default=0.02, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    augmentation: AugmentationConfig = AugmentationConfig()
    select: Literal["val", "test"] = "val"

    def steps(self, images: int) -> int:
        """Optimiser steps for a number of labelled images."""
        return max(self.min_steps, math.ceil(self.epochs * images / self.batch_size))


class SegmentationConfig(FineTuneConfig):
    """A trunk with a decoder that gives every pixel a probability.

    Attributes:
        negatives: training images without a region: ``balanced`` draws as many as there are with one (the
            protocol of GLoRIA), ``all`` takes every one (the released code of MeDSLIP and MedKLIP).
        encoder: whether the trunk's weights are ``updated`` or ``frozen``, BatchNorm statistics included.
        decoder: ``unet`` of segmentation-models-pytorch, or ``res_unet`` of the released code.
        decoder_channels: of the U-Net's blocks from coarse to fine; the last ones where a trunk has fewer
            feature maps than there are channels. With fewer blocks than maps the network ends at a coarser
            size than the image's, and its logits are enlarged bilinearly.
    """

    negatives: Literal["balanced", "all"] = "balanced"
    encoder: Literal["updated", "frozen"] = "updated"
    decoder: Literal["unet", "res_unet"] = "unet"
    decoder_channels: tuple[PositiveInt, ...] = Field(default=(256, 128, 64, 32, 16), min_length=1)


class TransferConfig(Strict):
    """The tasks of a tier that learn from labels, and how.

    Attributes:
        tasks: which are done, each under the protocols that name it; its forms (test-selected, released
            decoder) under the same.
        fractions: shares of the training patients whose labels are used.
        fractions_of: tasks that are done at other shares, with these.
        variants: whether variants of methods (ablations, audit) are transferred too, or methods only.
        only: tasks that only some methods do, with these; all methods do the others.
    """

    tasks: tuple[TransferTask, ...] = (
        "linear_probe",
        "finetune_classification",
        "finetune_segmentation",
        "finetune_segmentation_frozen",
    )
    fractions: tuple[float, ...] = Field(default=(0.01, 0.1, 1.0), min_length=1)
    fractions_of: dict[TransferTask, tuple[float, ...]] = Field(default_factory=dict)
    variants: bool = False
    only: dict[TransferTask, tuple[str, ...]] = Field(default_factory=dict)
    probe: LinearProbeConfig = LinearProbeConfig()
    classification: FineTuneConfig = FineTuneConfig()
    segmentation: SegmentationConfig = SegmentationConfig()

    def fractions_for(self, task: str) -> tuple[float, ...]:
        """The shares at which a task is done."""
        own = {str(name): shares for name, shares in self.fractions_of.items()}
        return own.get(task, self.fractions)
