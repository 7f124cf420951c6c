"""The device that computes: the GPU if torch sees one, else the CPU."""

from __future__ import annotations

import os

import torch


def compute_device() -> torch.device:
    """The GPU, from here on with kernels that give the same again, or the CPU."""
    use_deterministic_kernels()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_deterministic_kernels() -> None:
    """Let a GPU use kernels that give the same again, not the fastest ones; torch warns where it has none."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if torch.cuda.is_available():
        # Gradients of word embeddings, for one, are summed in no fixed order otherwise.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def device_name(device: torch.device) -> str:
    """``cpu``, or the model of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def preparing_processes(threads: int) -> int:
    """How many prepare batches ahead: all threads but one beside a GPU; none on a CPU, which is busy."""
    return threads - 1 if torch.cuda.is_available() else 0
