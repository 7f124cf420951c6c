"""Building methods from configurations, and their weights on disk (safetensors, nothing is executed)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from replication.config import RunConfig
from replication.config_files import derived_seed, parse
from replication.errors import CheckpointError
from replication.knowledge.descriptions import load_descriptions
from replication.method import Ingredients, Method
from replication.networks.image_trunk import build_trunk
from replication.networks.key_maps import load_strictly, read_state
from replication.records import atomic, read_json, write_json
from replication.registry import method_class

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
DONE = "done.json"
_METADATA = "medslip-bench"


def build_method(config: RunConfig, text_encoder: nn.Module, label_names: Sequence[str]) -> Method:
    """A method with fresh weights.

    The trunk's weights follow from the seed alone, so all methods with one kind of trunk start from the same
    weights; the rest follows from the method's name and the seed, so variants of a method start alike.
    torch's generator is left as it was.

    Args:
        text_encoder: frozen; shared by reference.
        label_names: names of the columns of ``Batch.labels``.

    Raises:
        ConfigError: no such method, or a key of ``config.model`` is unknown.
    """
    kind = method_class(config.method)
    settings = parse(kind.settings_class, config.model, f"{config.label}, model")
    descriptions = load_descriptions(config.text.descriptions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("initialisation", "trunk", config.seed))
        trunk = build_trunk(config.trunk, config.image_size)
        torch.manual_seed(derived_seed("initialisation", config.method, config.seed))
        return kind.build(settings, Ingredients(trunk, text_encoder, tuple(label_names), descriptions))


def save_weights(method: nn.Module, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write all parameters and buffers; tensors shared between modules are stored under each name.

    The file is complete or absent, and equal weights give an equal file.
    """
    state = {
        key: value.detach().cpu().contiguous().clone() for key, value in sorted(method.state_dict().items())
    }
    with atomic(path) as temporary:
        # One entry: the library writes several in an order that changes from process to process.
        save_file(state, temporary, metadata={_METADATA: json.dumps(metadata or {}, sort_keys=True)})


def load_weights(method: nn.Module, path: Path) -> None:
    """Load weights written by ``save_weights``, strictly.

    Raises:
        CheckpointError: the file is missing or damaged, or a key is missing, left over (the nearest is
            named) or of another shape; the method is then unchanged.
    """
    load_strictly(method, read_state(path), {key: key for key in method.state_dict()}, where=path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or ``.pth`` file by name, without executing anything in it.

    Raises:
        CheckpointError: missing, damaged, or it holds anything but tensors and plain values.
    """
    return read_state(path)


def read_run_config(run_folder: Path) -> RunConfig:
    """The configuration of a run.

    Raises:
        DataError: no ``config.json``. ConfigError: it is of another version.
    """
    path = run_folder / CONFIG
    return parse(RunConfig, read_json(path), path)


def text_fingerprint(text_encoder: nn.Module) -> str:
    """The encoder's own fingerprint, or a hash of its weights."""
    known = getattr(text_encoder, "fingerprint", None)
    if isinstance(known, str):
        return known
    digest = hashlib.sha256()
    for key, value in sorted(text_encoder.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_run(
    run_folder: Path,
    method: Method,
    config: RunConfig,
    text_encoder: nn.Module,
    label_names: Sequence[str],
    done: Mapping[str, Any],
) -> None:
    """Write what ``load_run`` reads; ``done.json`` comes last, so a folder that has it is complete."""
    # That of a former run would vouch for weights that are not written yet.
    (run_folder / DONE).unlink(missing_ok=True)
    write_json(run_folder / CONFIG, config.model_dump(mode="json"))
    metadata = {"label_names": list(label_names), "text_encoder": text_fingerprint(text_encoder)}
    save_weights(method, run_folder / WEIGHTS, metadata)
    write_json(run_folder / DONE, dict(done))


def load_run(run_folder: Path, text_encoder: nn.Module) -> tuple[Method, RunConfig]:
    """The method of a finished run, in evaluation mode on the CPU.

    Args:
        text_encoder: the one that the run was trained with.

    Raises:
        CheckpointError: the run is not finished, was trained with another text encoder, or its weights are
            damaged or do not fit its configuration.
    """
    config = read_run_config(run_folder)
    path = run_folder / WEIGHTS
    if not (run_folder / DONE).is_file():
        raise CheckpointError(
            "The run is not finished.",
            where=run_folder,
            found=f"no {DONE}",
            remedy="run `replicate pretrain` again; it goes on where it stopped",
        )
    metadata = _metadata(path)
    if metadata.get("text_encoder") != text_fingerprint(text_encoder):
        raise CheckpointError(
            "The run was trained with another text encoder.",
            where=path,
            found=f"fingerprint {text_fingerprint(text_encoder)[:12]}",
            allowed=f"fingerprint {metadata.get('text_encoder', 'unknown')[:12]}",
            remedy="use the text encoder of the run, or delete the run and train again",
        )
    method = build_method(config, text_encoder, metadata["label_names"])
    load_weights(method, path)
    return method.eval(), config


def adopt_weights(origin: Path, config: RunConfig, text_encoder: nn.Module, out: Path) -> Path:
    """A run folder with another configuration of evaluation for weights that are trained already.

    Args:
        origin: folder of the finished run. config: of the run to be made.

    Raises:
        CheckpointError: the other run is not finished, was trained otherwise (data, trunk, training, seed),
            or its weights do not fit.
    """
    _, trained = load_run(origin, text_encoder)
    for key in ("method", "seed", "trunk", "text", "training", "data_fingerprint"):
        found, wanted = getattr(trained, key), getattr(config, key)
        if found != wanted:
            raise CheckpointError(
                f"{config.label} takes the weights of a run that was trained otherwise.",
                where=f"{origin / CONFIG}, {key}",
                found=found,
                allowed=wanted,
                remedy="pre-train that run again, or let the variant train weights of its own",
            )
    label_names = _metadata(origin / WEIGHTS)["label_names"]
    method = build_method(config, text_encoder, label_names)
    load_weights(method, origin / WEIGHTS)
    save_run(out, method, config, text_encoder, label_names, read_json(origin / DONE))
    return out


def _metadata(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            values: dict[str, Any] = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
            return values
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "The weights cannot be read.",
            where=path,
            found=error,
            remedy="delete the run's folder and train again",
        ) from error
