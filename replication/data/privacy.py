"""What of credentialed data may leave the work folder: numbers. No image, no report, no identifier.

Predictions lie among the results, and they need a name for every image and patient. For credentialed data
this is a keyed hash: the same for every method, so that methods can be compared image by image, and of no
use without the data. The key is the digest of the image cache, which whoever holds the data can compute and
nobody else can; identifiers are short numbers that a hash without a key would not hide.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from replication.data.batches import PreparedData
from replication.registry import dataset_reader

_LENGTH = 20
"""Hexadecimal digits of a pseudonym: 80 bits, so that no two of a million images share one."""

PHANTOM = "phantom.json"


def is_phantom(source: Path) -> bool:
    """Whether a folder of raw files was generated: nobody signs an agreement for those."""
    return (source / PHANTOM).is_file()


def is_credentialed(data: PreparedData) -> bool:
    """Whether prepared data may only be used under a signed agreement.

    Folders prepared before this was recorded are judged by their reader and their raw files; where these
    have moved, the data are taken for credentialed.
    """
    known = data.provenance.get("credentialed")
    if known is not None:
        return bool(known)
    return bool(dataset_reader(data.name).credentialed) and not is_phantom(Path(data.provenance["source"]))


def pseudonyms(data: PreparedData, identifiers: Sequence[str], kind: str) -> list[str]:
    """Keyed hashes of identifiers; equal ones of one kind get equal hashes.

    Args:
        kind: ``sample`` or ``patient``.
    """
    key = str(data.provenance["digests"]["images"]).encode()
    known: dict[str, str] = {}
    for one in identifiers:
        if one not in known:
            known[one] = hmac.new(key, f"{kind}:{one}".encode(), hashlib.sha256).hexdigest()[:_LENGTH]
    return [known[one] for one in identifiers]


def publishable(data: PreparedData, predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions as they may be kept among the results: of credentialed data without identifiers.

    Args:
        predictions: columns sample and patient among others.
    """
    if not is_credentialed(data):
        return predictions
    hidden = {name: pseudonyms(data, predictions[name].tolist(), name) for name in ("sample", "patient")}
    return predictions.assign(**hidden)
