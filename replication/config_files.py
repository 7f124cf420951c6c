"""Configuration as files: reading, checking, merging and hashing it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from replication.errors import ConfigError, nearest

CONFIGS = Path(__file__).parent / "configs"
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse(model: type[Model], values: Any, where: str | Path) -> Model:
    """Validate plain values against a typed model.

    Raises:
        ConfigError: names the file, the key, the value found and the nearest allowed key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        remedy = (
            nearest(str(first["loc"][-1]), model.model_fields) if unknown and len(first["loc"]) == 1 else None
        )
        raise ConfigError(
            f"Unknown configuration key {key!r}." if unknown else f"Bad value for {key!r}.",
            where=where,
            found=first.get("input"),
            allowed=None if unknown else first["msg"],
            remedy=remedy,
        ) from error


def read_yaml(path: Path) -> Any:
    """Plain values of a YAML file.

    Raises:
        ConfigError: the file is missing or is no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = [p.stem for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(
            "No such configuration file.", where=path, remedy=nearest(path.stem, known)
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError("Not readable as YAML.", where=path, found=error) from error


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Recursive merge; ``over`` wins."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def canonical_json(model: BaseModel) -> str:
    """JSON with sorted keys and no white space: the same text for equal configurations."""
    return _canonical(model.model_dump(mode="json"))


def digest(model: BaseModel) -> str:
    """SHA-256 of the canonical JSON, hexadecimal."""
    return digest_of(model.model_dump(mode="json"))


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of plain values, hexadecimal."""
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def derived_seed(*parts: str | int) -> int:
    """A 32-bit seed from a key, so that adding a method or a seed changes no other run."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:4], "big")
