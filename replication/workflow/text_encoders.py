"""Pre-trained text encoders of a tier: where they are loaded from, and local copies that need no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from replication.knowledge.text_encoder import TextEncoder
from replication.workflow.plan import Workspace, run_config, runs


def names(workspace: Workspace) -> list[str]:
    """The pre-trained text encoders that the tier's runs ask for: hub ids or folders."""
    texts = [run_config(workspace, run).text for run in runs(workspace.tier)]
    return list(dict.fromkeys(text.name_or_path for text in texts if text.kind == "pretrained"))


def local_copy(workspace: Workspace, name: str) -> Path:
    """Where the copy of an encoder of the hub lies once ``fetch`` has made it."""
    return workspace.text.parent / name.replace("/", "--")


def load(workspace: Workspace, name: str) -> TextEncoder:
    """The local copy if there is one, else what the name or path says."""
    copy = local_copy(workspace, name)
    return TextEncoder.from_pretrained(copy if copy.is_dir() else name)


def fetch(workspace: Workspace) -> Iterator[Path]:
    """Copy every encoder of the tier as safetensors; copies, and folders of safetensors, are left.

    Encoders that were published as ``pytorch_model.bin`` alone become loadable this way. Their weights stay
    what they are, so runs keep their ids.

    Raises:
        ConfigError: an encoder can neither be found in the cache nor downloaded.
        CheckpointError: its file lacks weights.
    """
    for name in names(workspace):
        copy = local_copy(workspace, name)
        if copy.is_dir() or (Path(name) / "model.safetensors").is_file():
            continue
        encoder = TextEncoder.from_pretrained(name, safetensors_only=False)
        partial = copy.with_name(f"{copy.name}.partial")
        encoder.save(partial)
        partial.replace(copy)
        yield copy
