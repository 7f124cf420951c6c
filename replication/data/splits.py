"""Splits by patient, drawn from a hash so that a patient's split never depends on who else is there."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
from sklearn.model_selection import train_test_split

SPLITS = ("train", "val", "test")
SPLIT_SEED = 20240315


def patient_fraction(patient: str, seed: int = SPLIT_SEED) -> float:
    """A number in [0, 1) from the SHA-256 of ``<seed>:<patient>``: the same on every machine."""
    head = hashlib.sha256(f"{seed}:{patient}".encode()).digest()[:8]
    return int.from_bytes(head, "big") / 2.0**64


def seeded_splits(patients: Iterable[str], shares: Mapping[str, float], seed: int = SPLIT_SEED) -> list[str]:
    """The split of every patient; ``shares`` sum to 1 and are met in expectation.

    Raises:
        ValueError: the shares do not sum to 1.
    """
    if not math.isclose(sum(shares.values()), 1.0):
        raise ValueError(f"shares must sum to 1, not {sum(shares.values())}")
    names = list(shares)
    bounds = [sum(list(shares.values())[: k + 1]) for k in range(len(names) - 1)]
    cache: dict[str, str] = {}
    result = []
    for patient in patients:
        if patient not in cache:
            fraction = patient_fraction(patient, seed)
            cache[patient] = names[sum(fraction >= bound for bound in bounds)]
        result.append(cache[patient])
    return result


def shuffled_splits(count: int) -> list[str]:
    """The 70 / 15 / 15 split of GLoRIA and MGCA of ``count`` rows in the order of their table.

    Scikit-learn's ``train_test_split`` with ``random_state`` 0, first into 70 and 30 percent, then the latter
    into test and validation halves, in this order (MGCA, mgca/preprocess/rsna.py and siim.py).
    """
    _, rest = train_test_split(np.arange(count), test_size=0.3, random_state=0)
    test, val = train_test_split(rest, test_size=0.5, random_state=0)
    names = np.full(count, "train", object)
    names[test], names[val] = "test", "val"
    return [str(name) for name in names]
