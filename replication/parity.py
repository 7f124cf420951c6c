"""Agreement of a method with the released code on a stored numerical reference.

A reference is a JSON file (losses, gradient norms, shapes of the released state_dict, seed, trunk) and an
``.npz`` of the same stem (triplet matrix, sampled indices, logits, attention). Its weights and inputs are
rebuilt from formulas, written as a checkpoint under the released names and loaded through the method's own
importer, so that the importer is checked as well.
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from replication import registry
from replication.config import load_recipes
from replication.config_files import parse
from replication.errors import DataError
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES
from replication.method import Ingredients, Method, ReferenceInputs, ReferenceOutputs
from replication.network_config import TrunkConfig
from replication.networks.image_trunk import ResNetTrunk

LOSS_TOLERANCE = 1e-4
TENSOR_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
BOOK_WIDTH = 768


def check_parity(name: str, reference: Path) -> dict[str, float | bool]:
    """Compare a method with a reference.

    Args:
        name: of a method that answers ``reference_outputs``; it is built with its ``published`` recipe.
        reference: path of the two files without their suffix.

    Returns:
        ``losses`` and ``grad_norms``, the largest relative differences; ``logits``, ``attention`` and, where
        the reference has them, ``patches``, the largest absolute ones; ``ok``, whether losses, logits and
        attention differ by at most 1e-4 and gradient norms by at most 1e-3.

    Raises:
        DataError: the reference is incomplete. CheckpointError: its keys do not fit the method.
        ConfigError: no such method. TypeError: the method has no numerical reference.
    """
    expected, arrays = _read(reference)
    seed = int(expected["seed"])
    method = build_for_reference(registry.method_class(name), expected["trunk"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "released.pth"
        torch.save({"model": reference_state(expected["state_dict_shapes"], seed)}, path)
        names = method.load_released(path).mapped
    method.eval()
    outputs = method.reference_outputs(reference_inputs(arrays, seed))
    torch.autograd.backward(outputs.losses.total)
    gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
    norms = {}
    for theirs in expected["grad_norms"]:
        gradient = gradients[names[theirs]]
        norms[theirs] = 0.0 if gradient is None else float(gradient.double().norm())
    losses = {"loss": float(outputs.losses.total.detach())}
    losses |= {name: float(part) for name, part in outputs.losses.parts.items()}
    result: dict[str, float | bool] = {
        "losses": _largest_relative(losses, expected["losses"], reference),
        "logits": 0.0,
        "attention": 0.0,
        "grad_norms": _largest_relative(norms, expected["grad_norms"], reference),
    }
    for name, array in arrays.items():
        kind = name.partition("_")[0]
        if kind in {"logits", "attention", "patches"}:
            ours = _matching(name, outputs).detach().numpy()
            if ours.shape != array.shape:
                raise DataError(
                    "A reference array has another shape.",
                    where=f"{reference}.npz, {name}",
                    found=array.shape,
                    allowed=ours.shape,
                )
            result[kind] = max(float(result.get(kind, 0.0)), float(np.abs(ours - array).max()))
    result["ok"] = (
        result["losses"] <= LOSS_TOLERANCE
        and result["logits"] <= TENSOR_TOLERANCE
        and result["attention"] <= TENSOR_TOLERANCE
        and result["grad_norms"] <= GRADIENT_TOLERANCE
    )
    return result


def build_for_reference(method_class: type[Method], trunk: str) -> Method:
    """An untrained model of the method's ``published`` recipe on a full-width trunk cut after stage 3."""
    recipe = load_recipes(method_class.name).recipes["published"]
    where = f"recipes/{method_class.name}.yaml: published"
    settings = parse(method_class.settings_class, recipe.model, where)
    architecture = parse(TrunkConfig, {"architecture": trunk}, "trunk of the reference")
    ingredients = Ingredients(
        trunk=ResNetTrunk(architecture),
        text_encoder=_NoTexts(),
        label_names=(),
        descriptions=PATHOLOGIES,
    )
    return method_class.build(settings, ingredients)


def reference_state(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """The reference's weights by released key, from each key's own generator."""
    return {key: torch.from_numpy(_weights(key, tuple(shape), seed)) for key, shape in shapes.items()}


def reference_inputs(arrays: Mapping[str, np.ndarray], seed: int) -> ReferenceInputs:
    """The reference's images and books from their generators, matrix and indices from its arrays."""

    def book(name: str, rows: int) -> Tensor:
        values = 0.2 * _generator(name, seed).standard_normal((rows, BOOK_WIDTH))
        return torch.from_numpy(values.astype(np.float32))

    matrix = arrays["matrix"]
    images = _generator("images", seed).standard_normal((len(matrix), 3, 224, 224))
    return ReferenceInputs(
        images=torch.from_numpy(images.astype(np.float32)),
        triplets=torch.from_numpy(matrix.astype(np.int8)),
        anatomy_book=book("anatomy_book", len(ANATOMIES)),
        pathology_book=book("pathology_book", len(PATHOLOGIES)),
        index_pathology=torch.from_numpy(arrays["index_pathology"].astype(np.int64)),
        index_anatomy=torch.from_numpy(arrays["index_anatomy"].astype(np.int64)),
    )


class _NoTexts(nn.Module):
    """Stands in for a text encoder whose output the reference's books replace."""

    width = BOOK_WIDTH

    def embed(self, texts: Sequence[str], **_: object) -> Tensor:
        return torch.zeros(len(texts), BOOK_WIDTH)


def _generator(name: str, seed: int) -> np.random.RandomState:
    # The references were made with NumPy's legacy generator, whose stream is the same in every version.
    return np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)


def _weights(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One entry of the state_dict; both decoders' final normalisation is one module, hence one name."""
    parts = key.split(".")
    shared = len(parts) == 3 and parts[0].startswith("decoder") and parts[1] == "norm"
    generator = _generator(f"decoder.norm.{parts[2]}" if shared else key, seed)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    if key.endswith("running_var"):
        values = generator.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        values = 0.1 * generator.standard_normal(shape)
    elif len(shape) == 1:
        values = float(key.endswith("weight")) + 0.1 * generator.standard_normal(shape)
    else:
        values = generator.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    return np.asarray(values, dtype=np.float32)


def _read(reference: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    description, arrays = (
        reference.with_name(reference.name + ".json"),
        reference.with_name(reference.name + ".npz"),
    )
    for path in (description, arrays):
        if not path.is_file():
            raise DataError(
                "A file of the reference is missing.",
                where=path,
                remedy="give the path of the .json and .npz files without their suffix",
            )
    try:
        expected = json.loads(description.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError("The reference is no JSON.", where=description, found=error) from error
    needed = ("seed", "trunk", "losses", "grad_norms", "state_dict_shapes")
    missing = [key for key in needed if key not in expected]
    if missing:
        raise DataError("The reference lacks entries.", where=description, found=missing, allowed=needed)
    with np.load(arrays) as content:
        values = {name: content[name] for name in content.files}
    missing = [name for name in ("matrix", "index_pathology", "index_anatomy") if name not in values]
    if missing:
        raise DataError("The reference lacks arrays.", where=arrays, found=missing)
    return expected, values


def _matching(name: str, outputs: ReferenceOutputs) -> Tensor:
    """Our tensor for an array of the reference: all of it, one query's attention, or sub-sampled patches."""
    whole = [key for key in outputs.tensors if name == key or name.startswith(f"{key}_")]
    if not whole:
        raise DataError("The method has no such output.", found=name, allowed=sorted(outputs.tensors))
    key = max(whole, key=len)
    tensor, query = outputs.tensors[key], name[len(key) + 1 :]
    if name.startswith("patches"):
        return tensor[:, ::28, ::16]
    if not query:
        return tensor
    vocabulary = ANATOMIES if query in ANATOMIES else PATHOLOGIES
    if query not in vocabulary:
        raise DataError("The reference names an unknown query.", found=query)
    return tensor[:, :, vocabulary.index(query)]


def _largest_relative(ours: Mapping[str, float], theirs: Mapping[str, float], reference: Path) -> float:
    missing = sorted(set(theirs) - set(ours))
    if missing:
        raise DataError("The method lacks quantities of the reference.", where=reference, found=missing)
    return max(abs(ours[key] - value) / max(abs(value), 1e-12) for key, value in theirs.items())
