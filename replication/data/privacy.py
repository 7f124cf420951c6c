"""Which data may only be used under a signed agreement: nothing of them but numbers leaves the work folder.

Predictions name their images and patients by rows of the manifest (``replication.tasks.common.identifiers``),
and figures do not draw them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from replication.registry import dataset_reader

if TYPE_CHECKING:
    from replication.data.batches import PreparedData

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
