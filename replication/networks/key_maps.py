"""Checkpoints by explicit key maps: what is in a file is matched name by name, or nothing is loaded."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from replication.errors import CheckpointError
from replication.method import ImportReport

_RESNET_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` or ``.safetensors`` file, without executing anything in it.

    A training checkpoint is looked into (entry ``model`` or ``state_dict``) and the prefix ``module.`` of
    data-parallel training is taken off.

    Raises:
        CheckpointError: the file is missing, damaged, holds code, or holds no tensors.
    """
    return _unwrap(_read(path), path)[0]


def _read(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError("No such checkpoint.", where=path, remedy="check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "The checkpoint is damaged, or holds objects other than tensors and plain values.",
            where=path,
            found=str(error).splitlines()[0],
            allowed="a state_dict, or a dictionary with the entry 'model'",
            remedy="save the entry 'model' alone where the file is trusted, and load that",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            "The checkpoint cannot be read.", where=path, found=error, remedy="fetch the file again"
        ) from error


def _unwrap(content: object, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by key without ``module.``, and the other entries of the file with the reason they are left."""
    ignored: dict[str, str] = {}
    if isinstance(content, Mapping):
        for entry in ("model", "state_dict"):
            if isinstance(content.get(entry), Mapping):
                ignored = {str(key): "state of the training run" for key in content if key != entry}
                content = content[entry]
                break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("The checkpoint holds no weights.", where=path, found=type(content).__name__)
    wrong = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(
            "The checkpoint holds entries that are no tensors.", where=path, found=", ".join(wrong[:5])
        )
    prefix = "module." if all(str(key).startswith("module.") for key in content) else ""
    return {str(key)[len(prefix) :]: value for key, value in content.items()}, ignored


def _join(content: object, path: Path, entries: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of several entries by ``<entry>.<key>``, and the other entries with a reason."""
    found = dict(content) if isinstance(content, Mapping) else {}
    missing = [entry for entry in entries if not isinstance(found.get(entry), Mapping)]
    if missing:
        raise CheckpointError(
            "The checkpoint lacks entries.",
            where=path,
            found=f"no state_dict under {', '.join(missing)}",
            allowed=", ".join(entries),
            remedy="give the file as the released training code writes it",
        )
    state = {
        f"{entry}.{key}": value for entry in entries for key, value in _unwrap(found[entry], path)[0].items()
    }
    return state, {str(key): "state of the training run" for key in found if key not in entries}


def trunk_keys(ours: Iterable[str], released_prefix: str = "res_features.") -> dict[str, str]:
    """Released key -> our key for a ResNet stored as a plain list of torchvision's children.

    ``ours`` are keys such as ``trunk.layer1.0.conv1.weight``; the child numbers are those of the released
    code (specification of the state_dict: 0 conv1, 1 bn1, 4 to 7 the stages).
    """
    keys = {}
    for key in ours:
        child, _, rest = key.removeprefix("trunk.").partition(".")
        keys[f"{released_prefix}{_RESNET_CHILDREN[child]}.{rest}"] = key
    return keys


def module_keys(ours: Iterable[str], modules: Mapping[str, str]) -> dict[str, str]:
    """Released key -> our key, where modules differ in name only; ``modules``: released name -> our name."""
    own = list(ours)
    return {
        theirs + key.removeprefix(mine): key
        for theirs, mine in modules.items()
        for key in own
        if key == mine or key.startswith(f"{mine}.")
    }


def load_released(
    model: nn.Module,
    path: Path,
    keys: Mapping[str, str],
    derived: Iterable[str] = (),
    *,
    unused: Mapping[str, str] | None = None,
    entries: Sequence[str] = (),
    convert: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> ImportReport:
    """Load an authors' checkpoint into ``model``: every key of ``keys`` exactly once, nothing else.

    Args:
        keys: released key -> our key; two released keys may share one of ours if their tensors are equal.
        derived: our keys that a checkpoint does not hold because they are computed (text books).
        unused: prefix of released keys that carry no weights of the method -> the reason; they are ignored
            where ``keys`` does not name them, and may be absent.
        entries: entries of the file that hold one state_dict each; the released keys then start with the
            name of their entry (``image_encoder.conv1.weight``). Without any, see ``read_state``.
        convert: released key -> how its tensor becomes ours, where the layout differs (a 1x1 convolution
            that is a linear layer here).

    Raises:
        CheckpointError: a key is missing, left over or of another shape. The model is then unchanged.
    """
    content = _read(path)
    state, ignored = _join(content, path, entries) if entries else _unwrap(content, path)
    for key in sorted(set(state) - set(keys)):
        reasons = [reason for prefix, reason in (unused or {}).items() if key.startswith(prefix)]
        if reasons:
            ignored[key] = reasons[0]
            del state[key]
    for key, change in (convert or {}).items():
        if key in state:
            state[key] = change(state[key])
    load_strictly(model, state, keys, where=path, derived=derived)
    return ImportReport(mapped=dict(keys), ignored=ignored)


def load_strictly(
    model: nn.Module,
    state: Mapping[str, Tensor],
    keys: Mapping[str, str],
    *,
    where: str | Path,
    derived: Iterable[str] = (),
) -> None:
    """Copy ``state`` into ``model`` by ``keys`` (their key -> our key); see ``load_released``."""
    own = model.state_dict()
    unmapped = set(own) - set(keys.values()) - set(derived)
    if unmapped:
        raise CheckpointError("The key map leaves weights of the model out.", found=sorted(unmapped))
    missing, extra = sorted(set(keys) - set(state)), sorted(set(state) - set(keys))
    if missing or extra:
        raise CheckpointError(
            f"{len(missing)} keys are missing and {len(extra)} are left over.",
            where=where,
            found=_listing(missing, extra, "missing") + _listing(extra, missing, "left over"),
            allowed=f"the {len(keys)} keys of this method",
            remedy="choose the method and the trunk that the checkpoint was trained with",
        )
    loaded: dict[str, Tensor] = {}
    for theirs, ours in keys.items():
        value = state[theirs]
        if value.shape != own[ours].shape:
            raise CheckpointError(
                f"The shape of {theirs!r} differs.",
                where=where,
                found=tuple(value.shape),
                allowed=tuple(own[ours].shape),
                remedy="choose the trunk and the widths that the checkpoint was trained with",
            )
        if ours in loaded and not torch.equal(loaded[ours], value):
            raise CheckpointError(
                f"Two released keys stand for our {ours!r} but hold different values.",
                where=where,
                found=[key for key, mine in keys.items() if mine == ours],
                remedy="build the method with separate modules for them",
            )
        loaded[ours] = value
    model.load_state_dict({**own, **loaded})


def _listing(keys: list[str], others: list[str], what: str) -> str:
    lines = []
    for key in keys[:10]:
        close = difflib.get_close_matches(key, others, n=1, cutoff=0.6)
        lines.append(f"\n    {what}: {key}" + (f" (nearest: {close[0]})" if close else ""))
    if len(keys) > 10:
        lines.append(f"\n    {what}: and {len(keys) - 10} more")
    return "".join(lines)
