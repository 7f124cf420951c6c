"""A tier of a user's own that runs in seconds, its commands, and what they leave."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors import safe_open

from replication.records import read_predictions, read_rows

TIER = """
name: own
description: a tier of a user's own
image_size: 32
phantom: {seed: 5, image_size: 48, patients: {mimic-cxr: 20, nih-cxr14: 30}}
trunk: {architecture: resnet18, width: 4, last_stage: 3, weights: random}
text: {kind: tiny-bert, hidden: 16, layers: 1, heads: 2, vocabulary_size: 500, epochs: 1}
scale: {d_model: 16, decoder_layers: 1, heads: 2, feedforward: 16, projection_dim: 16, self_attention: false}
recipe: matched
training: {epochs: 3, batch_size: 8, augmentation: {kind: batched, hflip: "off"}}
seeds: [0]
methods: [medslip]
variants: [medslip/random-grounding-query]
protocols: [nih-cxr14/phantom/v1]
threads: 1
bootstrap: 20
notebooks: [zero_shot_classification]
"""
VARIANT = "medslip/random-grounding-query"

NOTEBOOK = "zero_shot_classification"

Command = tuple[str, ...]
COMMANDS: tuple[Command, ...] = (
    ("data", "phantom", "mimic-cxr", "--workers", "1"),
    ("data", "phantom", "nih-cxr14", "--workers", "1"),
    ("data", "prepare", "mimic-cxr", "--workers", "1"),
    ("data", "prepare", "nih-cxr14", "--workers", "1"),
    ("text-encoder",),
    ("pretrain", "medslip"),
    ("pretrain", VARIANT),
    ("evaluate", "medslip"),
    ("evaluate", VARIANT),
    ("rows",),
    ("report", "--notebook", NOTEBOOK),
    ("report", "--site"),
)
"""All of the tier, in order."""


def of_tier(command: Command) -> Command:
    """With the option that names the tier."""
    return (*command, "--tier", "own.yaml")


def new_folder(folder: Path) -> Path:
    """A folder with the tier's file."""
    folder.mkdir()
    (folder / "own.yaml").write_text(TIER)
    return folder


def files(folder: Path) -> Iterator[Path]:
    """Files under their final names; what is being written is hidden, or in a folder ``*.partial``."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and not any(part.endswith(".partial") for part in path.parts):
            yield path


def read_whole(path: Path) -> None:
    """Fail if a file is cut short."""
    match path.suffix:
        case ".json" | ".ipynb":
            json.loads(path.read_text())
        case ".parquet":
            pq.read_table(path, page_checksum_verification=True)
        case ".npy":
            np.load(path)
        case ".npz":
            assert zipfile.ZipFile(path).testzip() is None
        case ".safetensors":
            with safe_open(path, framework="np") as file:
                assert all(file.get_tensor(key).size for key in file.keys())  # noqa: SIM118  not a dict
        case ".png" | ".jpg":
            with Image.open(path) as picture:
                picture.load()
        case ".pt":
            torch.load(path, weights_only=True)
        case ".pdf":
            assert path.read_bytes().rstrip().endswith(b"%%EOF")
        case ".html":
            assert path.read_text().rstrip().endswith("</html>")
        case ".csv" | ".md" | ".tex" | ".yaml":
            assert path.read_text().endswith("\n")


def check_whole(folder: Path, known: dict[Path, tuple[int, int, int]]) -> None:
    """Read every file that is new or was replaced since the last check."""
    for path in files(folder):
        facts = path.stat()
        state = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if known.get(path) != state:
            read_whole(path)
            known[path] = state


def outcome(folder: Path) -> dict[str, object]:
    """All that a run of the tier is made for, without the times that are on record beside it."""
    work, results = folder / "work/own", folder / "results/own"
    found: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for root in (results / "tables", results / "figures", results / "notebooks", results / "site")
        for path in files(root)
    }
    for path in files(work):
        if path.suffix in {".safetensors", ".npy"}:
            found[str(path.relative_to(folder))] = path.read_bytes()
    for path in files(results / "predictions"):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet":
            found[name] = read_predictions(path).to_csv()
        else:
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays.files}
    rows = read_rows(results / "rows.parquet")
    found["rows"] = rows.drop(columns="wall_seconds").to_csv()
    return found
