"""The trunk is torchvision's network at width 64, a thin one below, and refuses weights that do not fit."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from replication.errors import CheckpointError, ConfigError
from replication.network_config import TrunkConfig
from replication.networks.image_trunk import ResNetTrunk


def make(**values: object) -> ResNetTrunk:
    return ResNetTrunk(TrunkConfig.model_validate({"architecture": "resnet18", **values}))


@pytest.mark.parametrize(("name", "last_stage"), [("resnet18", 3), ("resnet34", 4), ("resnet50", 3)])
def test_width_64_is_torchvisions_network(name: str, last_stage: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    config = TrunkConfig.model_validate(
        {"architecture": name, "last_stage": last_stage, "weights": str(tmp_path / "weights.pth")}
    )
    ours = ResNetTrunk(config).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for stage in range(1, last_stage + 1):
            expected = theirs.get_submodule(f"layer{stage}")(expected)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("last_stage", "stride"), [(3, 16), (4, 32)])
def test_stages_go_from_fine_to_coarse(last_stage: int, stride: int) -> None:
    trunk = make(width=16, last_stage=last_stage).eval()
    maps = trunk.stages(torch.zeros(1, 3, 64, 96))
    assert trunk.stride == stride
    assert [m.shape[1] for m in maps] == list(trunk.stage_channels) == [16, 16, 32, 64, 128][: last_stage + 1]
    assert [m.shape[-2:] for m in maps] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)[: last_stage + 1]]
    assert maps[-1].shape[1] == trunk.channels


def test_a_thin_trunk_is_thin() -> None:
    wide = sum(p.numel() for p in make(width=64).parameters())
    thin = sum(p.numel() for p in make(width=16).parameters())
    assert 14 < wide / thin < 16.5


def test_safetensors_and_data_parallel_prefix(tmp_path: Path) -> None:
    source = make(width=8)
    state = {f"module.{key}": value.contiguous() for key, value in source.state_dict().items()}
    save_file(state, tmp_path / "trunk.safetensors")
    loaded = make(width=8, weights=str(tmp_path / "trunk.safetensors"))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in source.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(make(width=8).state_dict(), tmp_path / "w8.pth")
    with pytest.raises(CheckpointError, match="shape"):
        make(width=16, weights=str(tmp_path / "w8.pth"))
    torch.save({k: v for k, v in make(width=8).state_dict().items() if k != "bn1.bias"}, tmp_path / "gap.pth")
    with pytest.raises(CheckpointError, match=r"bn1\.bias"):
        make(width=8, weights=str(tmp_path / "gap.pth"))


def test_unknown_weights_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'IMAGENET1K_V1'"):
        make(weights="IMAGENET_V1")
    with pytest.raises(ConfigError, match="width 64"):
        make(weights="IMAGENET1K_V1", width=16)


def test_without_a_network_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(CheckpointError, match=r"give its path as trunk\.weights"):
        make(weights="IMAGENET1K_V1")
