"""A pre-training step at the released size: seconds, and the share of the machine's matrix-multiply peak.

ResNet-50, 224 px, batch 4, published recipes: the shapes of the released code's times in docs/efficiency.md.
Run it alone on a quiet machine: `pytest tests/benchmarks/test_steps.py --benchmark-enable -m slow`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from doubles import batch, ingredients
from torch.utils.flop_counter import FlopCounterMode

from replication.config import load_recipes
from replication.method import Method
from replication.network_config import TrunkConfig
from replication.networks.image_trunk import build_trunk
from replication.registry import method_class

pytestmark = pytest.mark.slow
BATCH, SIDE = 4, 224


def published(name: str) -> Method:
    """The method as published, with a text encoder of the width of BERT."""
    kind = method_class(name)
    recipe = load_recipes(name).recipes["published"]
    torch.manual_seed(0)
    trunk = build_trunk(TrunkConfig(architecture="resnet50"), SIDE)
    made = replace(ingredients(text_width=768), trunk=trunk)
    return kind.build(kind.settings_class.model_validate(recipe.model), made).train()


def peak_flops(size: int = 1024, tries: int = 5) -> float:
    """Floating-point operations a second of the fastest of some float32 matrix multiplications."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


@pytest.mark.benchmark(group=f"pre-training step, ResNet-50, {SIDE} px, batch {BATCH}", min_rounds=5)
@pytest.mark.parametrize("name", ["medslip", "medklip"])
def test_step(benchmark: Any, name: str) -> None:
    method, data = published(name), batch(BATCH, SIDE)
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        total = method.loss(data).total
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(total.detach())

    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    assert flops > 1e9
    assert torch.isfinite(torch.tensor(benchmark(step)))
    if benchmark.stats:
        share = flops / benchmark.stats.stats.min / peak_flops()
        benchmark.extra_info.update(gigaflops=round(flops / 1e9, 1), share_of_matmul_peak=round(share, 3))
        print(f"{name}: {flops / 1e9:.0f} GFLOP a step, {share:.0%} of the matrix-multiply peak")
