"""CLIP's towers: sizes of the published networks, weights from files, and what a text's end means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from doubles import clip_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from replication.errors import CheckpointError, ConfigError
from replication.knowledge.text_encoder import Tokens
from replication.network_config import TrunkConfig
from replication.networks.clip_text import ClipText
from replication.networks.clip_transformer import SelfAttention
from replication.networks.clip_trunk import ClipResNetTrunk, ClipVisionTransformerTrunk
from replication.networks.image_trunk import ResNetTrunk, build_trunk


def config(**values: object) -> TrunkConfig:
    return TrunkConfig.model_validate({"architecture": "clip-resnet50", **values})


def text_tower(**values: object) -> ClipText:
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 514, "max_length": 16, "width": 16, "layers": 2, "heads": 2, "output_dim": 8}
    return ClipText(**{**sizes, "tokenizer": clip_tokenizer(), **values}).eval()  # type: ignore[arg-type]


def test_published_sizes() -> None:
    with torch.device("meta"):
        resnet = build_trunk(config(last_stage=4), 224)
        transformer = build_trunk(config(architecture="clip-vit-b32"), 224)
    assert (resnet.channels, resnet.stride) == (2048, 32)
    # 38,316,896 is the visual part of RN50 as published; its attention pool has 14,789,632 of them.
    assert sum(p.numel() for p in resnet.parameters()) == 38_316_896 - 14_789_632
    assert (transformer.channels, transformer.stride) == (768, 32)
    # 87,849,216 with the projection of 768 x 512.
    assert sum(p.numel() for p in transformer.parameters()) == 87_849_216 - 768 * 512
    assert type(build_trunk(config(architecture="resnet18", width=8), 64)) is ResNetTrunk


@pytest.mark.parametrize(("last_stage", "stride"), [(3, 16), (4, 32)])
def test_stages_of_the_resnet(last_stage: int, stride: int) -> None:
    trunk = ClipResNetTrunk(8, (1, 2, 1, 1), last_stage).eval()
    maps = trunk.stages(torch.randn(2, 3, 64, 96))
    assert tuple(m.shape[1] for m in maps) == trunk.stage_channels
    assert [m.shape[-2:] for m in maps] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)[: last_stage + 1]]
    assert trunk.stride == stride


def test_a_residual_branch_starts_at_zero() -> None:
    trunk = ClipResNetTrunk(8, (1, 2, 1, 1)).eval()
    x = torch.rand(1, 32, 8, 8)
    second = trunk.get_submodule("layer2.1")
    assert isinstance(second, nn.Module)
    y = trunk.get_submodule("layer2.0")(x)
    torch.testing.assert_close(second(y), y)


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(16, 4, causal=True), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 16)
    blocked = torch.ones(5, 5, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x), theirs(x, x, x, attn_mask=blocked)[0])


def test_the_vision_transformer_takes_one_size() -> None:
    trunk = ClipVisionTransformerTrunk(image_size=64, patch=16, width=32, layers=1, heads=2).eval()
    images = torch.randn(2, 3, 64, 64)
    maps = trunk(images)
    assert maps.shape == (2, 32, 4, 4)
    torch.testing.assert_close(maps[:, :, 1, 2], trunk.tokens(images)[:, 1 + 4 + 2])
    with pytest.raises(ConfigError, match="another image size"):
        trunk(torch.randn(2, 3, 96, 96))
    with pytest.raises(ConfigError, match="smaller than a patch"):
        ClipVisionTransformerTrunk(image_size=16)


def whole_clip(trunk: nn.Module) -> dict[str, Tensor]:
    state = {f"visual.{key}": value.contiguous() for key, value in trunk.state_dict().items()}
    return {**state, "visual.attnpool.c_proj.bias": torch.zeros(4), "logit_scale": torch.zeros(1)}


def test_weights_come_from_a_whole_clip(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    source = build_trunk(config(width=4, last_stage=4), 64)
    save_file(whole_clip(source), path)
    for last_stage in (3, 4):
        loaded = build_trunk(config(width=4, last_stage=last_stage, weights=str(path)), 64)
        expected = source.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
        assert getattr(loaded, "weights_file", None) == path
    state = whole_clip(source)
    del state["visual.layer2.0.bn1.bias"]
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"layer2\.0\.bn1\.bias"):
        build_trunk(config(width=4, last_stage=4, weights=str(path)), 64)
    save_file({**whole_clip(source), "visual.surplus": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="surplus"):
        build_trunk(config(width=4, last_stage=4, weights=str(path)), 64)


def test_without_a_network_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(CheckpointError, match=r"trunk\.weights"):
        build_trunk(config(width=4, weights="OPENAI"), 64)


def test_tokens_end_and_padding_says_nothing() -> None:
    tower = text_tower()
    tokens = tower.tokenize(["No nodule", "a", ""])
    start, end = 512, 513
    assert tokens.input_ids[:, 0].tolist() == [start] * 3
    assert tokens.attention_mask.sum(1).tolist() == [10, 3, 2]
    ends = tokens.attention_mask.sum(1) - 1
    assert tokens.input_ids[torch.arange(3), ends].tolist() == [end] * 3
    torch.testing.assert_close(tokens.input_ids.argmax(1), ends)
    together, alone = tower(tokens), torch.cat([tower(tower.tokenize([t])) for t in ("No nodule", "a", "")])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert tower(tower.tokenize([])).shape == (0, 8)
    torch.testing.assert_close(tower(tower.tokenize(["NO NODULE"])), together[:1], rtol=1e-4, atol=1e-5)


def test_long_texts_keep_their_end() -> None:
    ids = text_tower().tokenize(["a" * 50]).input_ids
    assert ids.shape == (1, 16)
    assert ids[0, [0, -1]].tolist() == [512, 513]


def test_the_text_tower_is_causal() -> None:
    tower = text_tower()
    first = Tokens(torch.tensor([[5, 6, 7, 8]]), torch.tensor([[1, 1, 0, 0]]))
    second = Tokens(torch.tensor([[5, 6, 9, 9]]), torch.tensor([[1, 1, 0, 0]]))
    torch.testing.assert_close(tower(first), tower(second))
    third = Tokens(torch.tensor([[4, 6, 7, 8]]), torch.tensor([[1, 1, 0, 0]]))
    assert not torch.allclose(tower(first), tower(third))


def test_the_tokeniser_is_loaded_late_and_must_fit(tmp_path: Path) -> None:
    lost = text_tower(tokenizer=str(tmp_path))
    with pytest.raises(ConfigError, match="text: shared"):
        lost.tokenize(["a"])
    with pytest.raises(ConfigError, match="514 tokens"):
        text_tower(vocabulary_size=100).tokenize(["a"])
