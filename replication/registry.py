"""Finds methods and data sets by name: entry points, or a dotted ``package.module:Class``."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from replication.errors import ConfigError, nearest

if TYPE_CHECKING:
    from replication.method import Method

METHODS = "medslip_bench.methods"
DATASETS = "medslip_bench.datasets"


@cache
def _entries(group: str) -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=group)}


def names(group: str) -> list[str]:
    """Registered names of a group, sorted."""
    return sorted(_entries(group))


def _load(group: str, name: str, what: str) -> Any:
    target = name if ":" in name else _entries(group).get(name)
    if target is None:
        raise ConfigError(f"Unknown {what}.", found=name, remedy=nearest(name, _entries(group)))
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The {what} cannot be imported.",
            where=target,
            found=error,
            allowed="an importable 'package.module:Class'",
            remedy="install the package that provides it, or correct the entry point",
        ) from error


def method_class(name: str) -> type[Method]:
    """The class of a method by its registered name or as ``package.module:Class``.

    Raises:
        ConfigError: no such method; names the nearest.
    """
    # Importing the contract imports torch, which commands that only handle files do without.
    from replication.method import Method

    found = _load(METHODS, name, "method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError("Not a method.", where=name, found=found, allowed="a subclass of Method")
    return found


def dataset_reader(name: str) -> Any:
    """The reader of a data set by its registered name (see ``replication.data.readers.DatasetReader``).

    Raises:
        ConfigError: no such data set; names the nearest.
    """
    return _load(DATASETS, name, "data set")
