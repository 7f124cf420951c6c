"""Batch normalisation in which padding does not count."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from replication.networks.distributed import processes, sum_over_processes


class MaskedBatchNorm(nn.Module):
    """``nn.BatchNorm1d`` over the last axis, with its parameter names, statistics of real elements only.

    Elements of all processes count.
    Where there is a single element its features become the bias; where there is none, nothing is learnt and
    the running statistics stay.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[..., width]``, float32 or lower; ``mask`` ``[...]`` bool, true where there is an element."""
        rows = x.flatten(0, -2)
        if self.training:
            self.num_batches_tracked.add_(1)
        alone = processes() == 1
        if not self.training or (alone and mask is None and len(rows) > 1):
            mean, var = self.running_mean, self.running_var
            answer = functional.batch_norm(
                rows, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps
            )
            return answer.view(x.shape)
        present = torch.ones_like(rows[:, :1]) if mask is None else mask.flatten().unsqueeze(1)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise(rows.float(), present.float()).to(x.dtype).view(x.shape)

    def _normalise(self, rows: Tensor, present: Tensor) -> Tensor:
        """``[N, width]`` by the statistics of the rows where ``present`` ``[N, 1]`` is 1."""
        total = sum_over_processes(present.sum())
        count = total.clamp_min(1)
        mean = sum_over_processes((rows * present).sum(dim=0)) / count
        centred = rows - mean
        var = sum_over_processes((centred.square() * present).sum(dim=0)) / count
        with torch.no_grad():
            step = self.momentum * (total > 0)
            self.running_mean.lerp_(mean, step)
            self.running_var.lerp_(var * count / (count - 1).clamp_min(1), step)
        return centred * (var + self.eps).rsqrt() * self.weight + self.bias
