"""How alike images and reports are: the inner product of one vector each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from replication.method import ReportScorer

REPORTS_AT_ONCE = 64
"""Reports that are encoded together."""


@torch.no_grad()
def vector_scorer(
    of_images: Callable[[Tensor], Tensor],
    of_reports: Callable[[Sequence[str]], Tensor],
    reports: Sequence[str],
    *,
    normalise: bool = True,
) -> ReportScorer:
    """The cosine of an image's and a report's vector, or their product as they are.

    Args:
        of_images: images -> ``[B, D]``. of_reports: N reports -> ``[N, D]``.
    """

    def scaled(features: Tensor) -> Tensor:
        return functional.normalize(features.float(), dim=-1) if normalise else features.float()

    encoded = scaled(torch.cat([of_reports(part) for part in portions(reports)]))

    @torch.no_grad()
    def score(images: Tensor) -> Tensor:
        return scaled(of_images(images)) @ encoded.T

    return score


def portions(reports: Sequence[str]) -> list[Sequence[str]]:
    """The reports in groups that are encoded together."""
    return [reports[start : start + REPORTS_AT_ONCE] for start in range(0, len(reports), REPORTS_AT_ONCE)]
