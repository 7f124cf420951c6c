from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from replication.errors import ConfigError, DataError
from replication.knowledge import tiny_bert
from replication.knowledge.descriptions import load_descriptions
from replication.knowledge.text_encoder import TextEncoder
from replication.knowledge.tiny_bert import TinyBertReport, effective_rank, train_tiny_bert
from replication.knowledge.wordpiece import SPECIAL, build_vocabulary

FINDINGS = ("pleural effusion", "pneumothorax", "consolidation", "nodule", "atelectasis", "mass")
TEMPLATES = ("There is a {} {}.", "Small {} {} is seen.", "No {} {} is seen.", "Possible {} {}.")


def reports(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    sentences = [t.format(s, f) for t, s, f in itertools.product(TEMPLATES, ("left", "right"), FINDINGS)]
    return [" FINDINGS:\n " + "\n ".join(rng.choice(sentences, 4, replace=False)) for _ in range(count)]


def train(out: Path, seed: int = 0, epochs: int = 2) -> TinyBertReport:
    extra = ["Fluid in the pleural space.", "Air in it."]
    return train_tiny_bert(
        reports(60), extra, out, seed=seed, hidden=16, epochs=epochs, batch_size=16, lr=3e-3
    )


def test_training_learns_and_writes_a_loadable_encoder(tmp_path: Path) -> None:
    out = tmp_path / "text" / "tiny"
    state = torch.random.get_rng_state()
    report = train(out, epochs=40)
    assert torch.equal(state, torch.random.get_rng_state())
    assert report.masked_word_loss[-1] < 0.8 * report.masked_word_loss[0]
    assert report.pair_loss[-1] < report.pair_loss[0]
    different = {line.strip() for text in reports(60) for line in text.splitlines()[1:]}
    assert (report.sentences, report.reports) == (len(different), 60)
    encoder = TextEncoder.from_pretrained(out, local_files_only=True)
    assert encoder.width == 16
    assert json.loads((out / tiny_bert.RECORD).read_text())["vocabulary"] == report.vocabulary
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


def fingerprint(folder: Path) -> str:
    return TextEncoder.from_pretrained(folder, local_files_only=True).fingerprint


def test_seed_decides_the_encoder(tmp_path: Path) -> None:
    train(tmp_path / "a", epochs=1)
    train(tmp_path / "b", seed=1, epochs=1)
    train(tmp_path / "c", epochs=1)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "c") != fingerprint(tmp_path / "b")


@pytest.mark.slow
def test_another_process_gives_the_same_encoder(tmp_path: Path) -> None:
    train(tmp_path / "a")
    program = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1); "
        "sys.path.insert(0, sys.argv[1]); "
        "from test_tiny_bert import train; train(Path(sys.argv[2]))"
    )
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", program, here, str(tmp_path / "b")], check=True)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")


def test_own_folder_is_replaced_another_is_not(tmp_path: Path) -> None:
    train(tmp_path / "mine")
    train(tmp_path / "mine", seed=1)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "one.jpg").touch()
    with pytest.raises(ConfigError, match="something else"):
        train(other)
    assert (other / "one.jpg").exists()


def test_interruption_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(OSError, match="no space"):
        train(tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()
    monkeypatch.undo()
    train(tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no report"):
        train_tiny_bert([" \n"], ["text"], tmp_path / "x", seed=0)
    with pytest.raises(ConfigError, match="multiple of heads"):
        train_tiny_bert(reports(3), [], tmp_path / "x", seed=0, hidden=15)
    assert not list(tmp_path.iterdir())


def test_vocabulary_is_ordered_by_frequency_then_alphabet() -> None:
    texts = ["The lungs are clear. Clear lungs", "effusion"]
    vocabulary = build_vocabulary(texts, 1000)
    words = [piece for piece in vocabulary[len(SPECIAL) :] if len(piece.removeprefix("##")) > 1]
    assert words == ["clear", "lungs", "are", "effusion", "the"]
    assert build_vocabulary(texts[::-1], 1000) == vocabulary
    assert "effusion" not in build_vocabulary(texts, len(vocabulary) - 2)
    assert vocabulary[: len(SPECIAL)] == list(SPECIAL)


def test_texts_that_differ_in_side_share_a_batch() -> None:
    left, right = 6, 7
    texts = [[2, side, word, 3] for word in range(10, 40) for side in (left, right)]
    batches = tiny_bert._batches(texts, (left, right), 10, np.random.default_rng(0))
    assert sorted(i for batch in batches for i in batch) == list(range(60))
    for batch in batches:
        assert {i ^ 1 for i in batch} == set(batch)


def test_effective_rank_counts_directions() -> None:
    eye = torch.eye(8)
    assert effective_rank(eye) == pytest.approx(7, abs=1e-3)
    line = torch.arange(8.0)[:, None] * torch.ones(1, 4) + 5
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_sides_and_descriptions_stay_apart(tmp_path: Path) -> None:
    """What masked words alone do not give: vectors that tell sides and descriptions apart."""
    out = tmp_path / "tiny"
    report = train_tiny_bert(
        reports(400), load_descriptions(), out, seed=0, hidden=64, epochs=60, batch_size=32
    )
    for pooling in ("cls", "mean"):
        assert report.left_right_cosine[pooling] < 0.95
        assert report.effective_rank[pooling] > 8
