"""The probe of a method's speed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from replication.devices import compute_device, device_name
from replication.errors import UserError
from replication.method import Batch
from replication.training import Objective
from replication.workflow.plan import Run, Workspace, run_config, runs
from replication.workflow.probe import probe, probe_all, random_data


def test_a_probe_needs_nothing_but_the_configuration(tmp_path: Path) -> None:
    workspace = Workspace.open("smoke", tmp_path / "work", tmp_path / "results")
    found = probe(run_config(workspace, Run("convirt", "matched", 0)), threads=1, steps=1)
    device = device_name(compute_device())
    assert (found.label, found.recipe, found.device, found.threads) == ("convirt", "matched", device, 1)
    assert found.images_per_second > 0
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit_are_halved_until_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2

    def forward(self: Objective, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if len(batch) > limit:
            raise torch.OutOfMemoryError("no more")
        return whole(self, batch)

    whole = Objective.forward
    monkeypatch.setattr(Objective, "forward", forward)
    workspace = Workspace.open("smoke", tmp_path / "work", tmp_path / "results")
    config = run_config(workspace, Run("convirt", "matched", 0))
    assert re.search(r"of 2 images; \d+ do not fit", probe(config, threads=1, steps=1).source)
    limit = 0
    with pytest.raises(UserError, match="do not fit into the memory of the GPU"):
        probe(config, threads=1, steps=1)


def test_what_learns_nothing_is_not_probed(tmp_path: Path) -> None:
    workspace = Workspace.open("smoke", tmp_path / "work", tmp_path / "results")
    chosen = runs(workspace.tier, ["random", "medslip/random-grounding-query", "supervised"])
    found = dict(probe_all(workspace, chosen))
    assert list(found) == ["supervised"]
    assert not isinstance(found["supervised"], UserError)


def test_noise_is_the_same_for_the_same_seed() -> None:
    first, second = random_data(3, 32, seed=1), random_data(3, 32, seed=1)
    assert (first.images == second.images).all()
    assert first.reports == second.reports
    assert first.manifest.equals(second.manifest)
