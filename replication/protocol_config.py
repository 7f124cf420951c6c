"""Protocols: what is scored, on which images, by which rules; one YAML file each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from replication.config_files import CONFIGS, Strict, digest_of, parse, read_yaml
from replication.errors import ConfigError


class ProtocolFinding(Strict):
    """One label of a protocol.

    Attributes:
        name: key of the finding. column: the data set's own name of the label.
        pathology: class of the 75-pathology vocabulary it is scored with; ``null`` where there is none.
        text: plain words, for prompts.
    """

    name: str
    column: str
    text: str
    pathology: str | None = None


class Protocol(Strict):
    """Data set + named split + label mapping + preprocessing + metric rules, with a version.

    Attributes:
        id: e.g. ``nih-cxr14/official-25596/v1``.
        split: name of the split rule of the reader, e.g. ``official``, ``patient-seeded``.
        equalize: whether images are histogram-equalised on reading (the released RSNA reading).
        counts: expected images per split; enforced by ``replicate data verify`` and before scoring.
        threshold_source: which split's labels choose the F1 threshold.
        leaks: whether the split puts images of one patient on both sides, as published; then it
            is scored on request only.
        source: where the split and the mapping come from, and what of it is not known.
    """

    id: str
    dataset: str
    split: str
    description: str
    findings: tuple[ProtocolFinding, ...]
    tasks: tuple[str, ...]
    equalize: bool = False
    grounding: Literal["none", "boxes", "masks"] = "none"
    threshold_source: Literal["val", "test"] = "val"
    counts: dict[str, int] | None = None
    leaks: bool = False
    source: str = ""

    @property
    def slug(self) -> str:
        """The id with ``--`` for ``/``, for file names."""
        return self.id.replace("/", "--")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides numbers; prose, the list of tasks and the warning of a leak do not."""
        values = self.model_dump(mode="json", exclude={"leaks"})
        return digest_of({**values, "description": "", "source": "", "tasks": []})


def protocol_path(protocol_id: str) -> Path:
    """The file of a protocol: its id with ``--`` for ``/``."""
    return CONFIGS / "protocols" / f"{protocol_id.replace('/', '--')}.yaml"


def load_protocol(protocol_id: str) -> Protocol:
    """A protocol by id.

    Raises:
        ConfigError: no such protocol, or the id in the file is another one.
    """
    path = protocol_path(protocol_id)
    protocol = parse(Protocol, read_yaml(path), path)
    if protocol.id != protocol_id:
        raise ConfigError(
            "A protocol file holds another id.", where=path, found=protocol.id, allowed=protocol_id
        )
    return protocol


def protocol_ids() -> list[str]:
    """All protocols that come with the suite."""
    return sorted(path.stem.replace("--", "/") for path in (CONFIGS / "protocols").glob("*.yaml"))
