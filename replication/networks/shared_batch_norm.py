"""Batch normalisation by the statistics of all processes' images, as one process with the batch would have.

torch's own ``SyncBatchNorm`` does this on GPUs only; here it also works on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from replication.networks.distributed import processes, sum_over_processes


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of ``[B, C]`` or ``[B, C, ...]``; statistics in float32.

    In evaluation, and in one process, torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and type."""
        if not self.training or processes() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise(x.float()).to(x.dtype)

    def _normalise(self, x: Tensor) -> Tensor:
        every = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1, *(1 for _ in range(x.ndim - 2))]
        count = sum_over_processes(x.new_tensor(x.numel() // x.shape[1]))
        mean = sum_over_processes(x.sum(every)) / count
        centred = x - mean.view(shape)
        # From centred values: a difference of large squares would lose what one process keeps.
        var = sum_over_processes(centred.square().sum(every)) / count
        self._remember(mean.detach(), (var * count / (count - 1).clamp_min(1)).detach())
        answer = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            answer = answer * self.weight.view(shape) + self.bias.view(shape)
        return answer

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes: it also stands for ``nn.BatchNorm1d``."""


def share_batch_norms(module: nn.Module) -> None:
    """Replace every batch normalisation below a module; parameters, statistics and their names stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            made = SharedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            made.weight, made.bias = child.weight, child.bias
            for key, buffer in child.named_buffers(recurse=False):
                made.register_buffer(key, buffer)
            module.add_module(name, made.train(child.training))
        else:
            share_batch_norms(child)
