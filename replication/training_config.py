"""Typed settings of pre-training: augmentation, optimiser, length."""

from __future__ import annotations

from typing import Literal

from replication.config_files import Strict


class AugmentationConfig(Strict):
    """Training augmentation, applied to uint8 images of the cache.

    Attributes:
        kind: ``released`` is RandomResizedCrop + flip + RandAugment of the released code (per image, CPU);
            ``batched`` is one affine warp with brightness and contrast jitter for the whole batch.
        crop_scale: smallest and largest share of the image's area that a crop keeps.
        hflip: what a horizontal flip does to lateral labels: ``off`` never flips, ``keep_labels`` flips and
            leaves labels as they are (released code, audit P7), ``swap_labels`` also swaps left and right.
        autocontrast, sharpness: behaviour of the two RandAugment operations (audit P8, P9).
        rotation: largest angle in degrees. translation: share of the side. jitter: brightness and contrast.
    """

    kind: Literal["released", "batched"] = "batched"
    crop_scale: tuple[float, float] = (0.8, 1.0)
    hflip: Literal["off", "keep_labels", "swap_labels"] = "off"
    autocontrast: Literal["albef_bug", "pil"] = "pil"
    sharpness: Literal["wrap", "clip"] = "clip"
    rotation: float = 8.0
    translation: float = 0.04
    jitter: float = 0.2


class OptimiserConfig(Strict):
    """Optimiser and learning-rate schedule.

    Attributes:
        name: ``sgd`` has momentum 0.9.
        betas: decay rates of Adam's and AdamW's averages of the gradient and of its square.
        warmup: ``epochs`` warms up linearly over ``warmup_epochs``; ``iters_in_epoch0`` is the released
            schedule, stepped every 100 iterations of the first epoch (audit P10); ``none``.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1.0e-4
    min_lr: float = 1.0e-5
    warmup_lr: float = 1.0e-5
    warmup: Literal["epochs", "iters_in_epoch0", "none"] = "epochs"
    warmup_epochs: float = 1.0
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None


class TrainingConfig(Strict):
    """How long and how a run trains.

    Attributes:
        batch_size: images per optimiser step, over all processes and accumulation steps.
        accumulation: micro-batches per optimiser step.
        select: which weights are kept: those of the ``last`` epoch, or the epoch of ``best_val`` loss.
        validation: ``fixed`` takes all validation images as in evaluation, in fixed batches; ``as_training``
            augments them, in another order every epoch, without the last incomplete batch (audit P11).
        precision: ``bf16`` runs the forward pass under autocast.
    """

    epochs: int = 100
    batch_size: int = 64
    accumulation: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    select: Literal["last", "best_val"] = "best_val"
    validation: Literal["fixed", "as_training"] = "fixed"
    optimiser: OptimiserConfig = OptimiserConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
