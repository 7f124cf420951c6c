"""Losses over several processes give the gradient of one process that sees the whole global batch.

Data-parallel training averages gradients over processes. A mean over a varying number of cells must
therefore be divided by the average count of all processes, and a contrastive loss must see all pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed.nn import functional


def processes() -> int:
    """Number of training processes; 1 outside distributed training."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def gather(x: Tensor) -> Tensor:
    """``[B, ...]`` of every process, in the order of ranks -> ``[processes * B, ...]``; differentiable."""
    if processes() == 1:
        return x
    parts = functional.all_gather(x.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(parts)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's tensor; differentiable, and the tensor itself in one process."""
    if processes() == 1:
        return x
    if x.requires_grad:
        return functional.all_reduce(x.clone())  # type: ignore[no-untyped-call, no-any-return]
    added = x.clone()
    distributed.all_reduce(added)
    return added


def highest_of_processes(number: int) -> int:
    """The highest of every process's number."""
    if processes() == 1:
        return number
    highest = torch.tensor(number, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    return int(highest)


def mean_where(values: Tensor, mask: Tensor, *, empty: float = 0.0) -> Tensor:
    """Mean of finite ``values`` where the boolean ``mask`` (same shape) is true, over all processes.

    Args:
        empty: the answer where nothing is true; the released code's mean of nothing is NaN.
    """
    weight = mask.to(values.dtype)
    total = (values * weight).sum()
    count = weight.sum()
    if processes() > 1:
        distributed.all_reduce(count)
        count = count / processes()
    # The sum is kept as a factor, so that a batch without a labelled cell still has (zero) gradients.
    return torch.where(count > 0, total / count.clamp_min(torch.finfo(count.dtype).tiny), total + empty)
