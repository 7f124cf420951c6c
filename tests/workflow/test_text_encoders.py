"""Local copies of pre-trained text encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from replication.config_files import CONFIGS, read_yaml
from replication.errors import ConfigError
from replication.knowledge.random_encoder import random_text_encoder
from replication.workflow.doctor_inputs import text_encoders as doctor
from replication.workflow.plan import Workspace
from replication.workflow.text_encoders import fetch, load, local_copy


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A tier that asks the hub for ``someone/encoder``; the hub's cache is empty and there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    tier = read_yaml(CONFIGS / "tiers" / "paper.yaml")
    tier |= {"methods": ["medslip"], "text": {"kind": "pretrained", "name_or_path": "someone/encoder"}}
    Path("tier.yaml").write_text(yaml.safe_dump(tier))
    return Workspace.open("tier.yaml", tmp_path / "work", tmp_path / "results")


def older_format(folder: Path) -> None:
    """Turn an encoder's folder into one with ``pytorch_model.bin`` alone."""
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_an_encoder_in_the_older_format_is_copied_as_safetensors(workspace: Workspace) -> None:
    original = random_text_encoder(hidden=32, layers=1, heads=2, vocabulary=100)
    folder = Path("published")
    original.save(folder)
    older_format(folder)
    # Stands for the hub, which is not asked in tests.
    Path("someone").mkdir()
    Path("someone/encoder").symlink_to(folder.absolute())
    with pytest.raises(ConfigError, match="replicate text-encoder"):
        load(workspace, "someone/encoder")
    assert [finding.status for finding in doctor(workspace)] == ["wrong"]
    assert list(fetch(workspace)) == [local_copy(workspace, "someone/encoder")]
    assert load(workspace, "someone/encoder").fingerprint == original.fingerprint
    assert [finding.status for finding in doctor(workspace)] == ["ok"]
    assert list(fetch(workspace)) == []


def test_an_encoder_that_cannot_be_had_is_an_error_with_a_remedy(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        list(fetch(workspace))
    assert [finding.status for finding in doctor(workspace)] == ["missing"]
