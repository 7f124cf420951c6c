from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from replication.errors import CheckpointError, ConfigError
from replication.knowledge.text_encoder import Pooling, TextEncoder, Tokens, cls_pool, max_pool, mean_pool
from replication.knowledge.tiny_bert import _new_model
from replication.knowledge.wordpiece import CLS, PAD, SEP, UNK, build_vocabulary, make_tokenizer

TEXTS = ["Left pleural effusion.", "No pneumothorax.", "The lungs are clear bilaterally, as before."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder on disk."""
    path = tmp_path_factory.mktemp("encoder")
    vocabulary = build_vocabulary(TEXTS, 200)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = _new_model(len(vocabulary), hidden=16, layers=2, heads=2, max_length=32)
    TextEncoder(model.bert, make_tokenizer(vocabulary, 32), "tiny").save(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder.from_pretrained(folder, local_files_only=True)


def test_tokens_have_start_end_and_padding(encoder: TextEncoder) -> None:
    tokens = encoder.tokenize(TEXTS, 32)
    assert tokens.input_ids.shape == tokens.attention_mask.shape
    assert tokens.input_ids.dtype == tokens.attention_mask.dtype == torch.int64
    lengths = tokens.attention_mask.sum(1)
    assert (tokens.input_ids[:, 0] == CLS).all()
    assert (tokens.input_ids[torch.arange(3), lengths - 1] == SEP).all()
    assert (tokens.input_ids[tokens.attention_mask == 0] == PAD).all()
    assert int(lengths.max()) == tokens.input_ids.shape[1]
    assert encoder.tokenize(TEXTS, 32, padding="max_length").input_ids.shape == (3, 32)


def test_released_tokeniser_has_no_end_and_keeps_one_piece_more(encoder: TextEncoder) -> None:
    with_end = encoder.tokenize(TEXTS[:1], 5).input_ids[0].tolist()
    without = encoder.tokenize(TEXTS[:1], 5, add_sep=False).input_ids[0].tolist()
    assert with_end[-1] == SEP
    assert len(with_end) == len(without) == 5
    assert with_end[:4] == without[:4]
    assert without[4] not in (SEP, PAD)


def test_lowercase_is_applied_before_the_tokeniser(encoder: TextEncoder) -> None:
    vocabulary = build_vocabulary(TEXTS, 200)
    cased = make_tokenizer(vocabulary, 32)
    cased.backend_tokenizer.normalizer = None
    other = TextEncoder(encoder.model, cased, "cased")
    assert UNK in other.tokenize(["Left"], 8).input_ids or other.tokenize(["Left"], 8).input_ids.shape[1] > 3
    lower = other.tokenize(["Left"], 8, lowercase=True).input_ids
    assert lower.tolist() == [[CLS, vocabulary.index("left"), SEP]]
    assert other.fingerprint != encoder.fingerprint


@pytest.mark.parametrize("length", [2, 33])
def test_impossible_lengths_are_refused(encoder: TextEncoder, length: int) -> None:
    with pytest.raises(ConfigError, match="3 to 32"):
        encoder.tokenize(TEXTS, length)


def test_padding_changes_no_feature(encoder: TextEncoder) -> None:
    poolings: tuple[Pooling, ...] = ("cls", "mean", "max")
    for pooling in poolings:
        together = encoder.embed(TEXTS, pooling=pooling, max_length=32)
        alone = torch.cat([encoder.embed([text], pooling=pooling, max_length=32) for text in TEXTS])
        assert together.shape == (3, encoder.width) == (3, 16)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_embed_batches_agree_and_leave_mode_and_gradients_alone(encoder: TextEncoder) -> None:
    encoder.train()
    whole = encoder.embed(TEXTS, pooling="mean", max_length=32)
    parts = encoder.embed(TEXTS, pooling="mean", max_length=32, batch_size=1)
    assert encoder.training
    encoder.eval()
    assert not whole.requires_grad
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    assert encoder.embed([], pooling="cls", max_length=32).shape == (0, 16)


def test_forward_gives_gradients(encoder: TextEncoder) -> None:
    hidden = encoder(encoder.tokenize(TEXTS, 32))
    assert hidden.shape[0] == 3
    assert hidden.shape[2] == encoder.width
    assert hidden.requires_grad


def test_content_mask_leaves_start_end_and_padding_out(encoder: TextEncoder) -> None:
    tokens = encoder.tokenize(["left effusion", ""], 32)
    assert encoder.content_mask(tokens).tolist() == [[False, True, True, False], [False] * 4]
    no_end = encoder.tokenize(["left effusion", ""], 32, add_sep=False)
    assert encoder.content_mask(no_end).tolist() == [[False, True, True], [False] * 3]


def naive(hidden: Tensor, mask: Tensor, kind: str) -> Tensor:
    rows = []
    for text, keep in zip(hidden, mask, strict=True):
        words = [word for word, there in zip(text, keep, strict=True) if there]
        if not words:
            rows.append(torch.zeros(hidden.shape[2]))
        else:
            stacked = torch.stack(words)
            rows.append(stacked.mean(0) if kind == "mean" else stacked.max(0).values)
    return torch.stack(rows)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 6))
def test_pooling_equals_a_loop(seed: int, texts: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn((texts, length, 3), generator=generator)
    mask = torch.randint(0, 2, (texts, length), generator=generator)
    torch.testing.assert_close(mean_pool(hidden, mask), naive(hidden, mask, "mean"))
    torch.testing.assert_close(max_pool(hidden, mask), naive(hidden, mask, "max"))
    assert torch.equal(cls_pool(hidden), hidden[:, 0])


def test_unknown_pooling_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ConfigError, match="cls, mean, max"):
        encoder.embed(TEXTS, pooling="sum", max_length=32)  # type: ignore[arg-type]


def test_fingerprint_belongs_to_weights_and_tokeniser(
    folder: Path, encoder: TextEncoder, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    again = TextEncoder.from_pretrained(folder, local_files_only=True)
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.fingerprint == encoder.fingerprint
    with torch.no_grad():
        next(again.model.parameters()).view(-1)[0] += 1e-3
    assert again.fingerprint != encoder.fingerprint
    again.save(tmp_path / "copy")
    assert TextEncoder.from_pretrained(tmp_path / "copy").fingerprint == again.fingerprint


def test_tokens_move_together(encoder: TextEncoder) -> None:
    moved = encoder.tokenize(TEXTS, 32).to("meta")
    assert isinstance(moved, Tokens)
    assert moved.input_ids.is_meta
    assert moved.attention_mask.is_meta


def test_missing_folder_and_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TextEncoder.from_pretrained(tmp_path / "absent", local_files_only=True)
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TextEncoder.from_pretrained(tmp_path, local_files_only=True)


def test_missing_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        TextEncoder.from_pretrained(tmp_path, local_files_only=True)


def test_code_in_the_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TextEncoder.from_pretrained(tmp_path, local_files_only=True)
    assert not (tmp_path / "ran").exists()
