"""Texts of the 75 pathologies and 51 anatomies, from which methods make their text books."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import yaml

from replication.errors import DataError
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_index

_FOLDER = Path(__file__).parent
_OWN: dict[str, Any] = yaml.safe_load((_FOLDER / "descriptions.yaml").read_text(encoding="utf-8"))
_OFFICIAL: dict[str, tuple[int, str]] = yaml.safe_load(
    (_FOLDER / "official_descriptions.yaml").read_text(encoding="utf-8")
)

DESCRIPTIONS_VERSION: int = _OWN["version"]
"""Version of our own texts."""

DESCRIPTIONS: dict[str, str] = {name: _OWN["pathologies"][name].strip() for name in PATHOLOGIES}
"""Our own description of every pathology, in vocabulary order."""

EXTRA_DESCRIPTIONS: dict[str, str] = {name: text.strip() for name, text in _OWN["findings"].items()}
"""Descriptions of findings that are no class of the vocabulary: ``fibrosis``, ``covid``."""

DOWNSTREAM_VARIANTS: tuple[str, ...] = ("sharply", "lesion", "chf")
"""Pathologies whose text lost its quotes or dashes in the copies of the down-stream scripts (audit Z7)."""

_DROPPED = "\u2018\u2019\u201c\u201d\u2013\u2014"
_MOST_DROPPED = 8


class OfficialDescriptions(NamedTuple):
    """The released texts in vocabulary order, and which of the released copies they are."""

    texts: tuple[str, ...]
    copy: Literal["pre-training", "down-stream"]


def load_descriptions(source: str | Path = "own") -> tuple[str, ...]:
    """The 75 descriptions in vocabulary order: ``own``, or read from the released JSON file at a path.

    Raises:
        DataError: see ``read_official_descriptions``.
    """
    if source == "own":
        return tuple(DESCRIPTIONS.values())
    return read_official_descriptions(Path(source)).texts


def read_official_descriptions(path: Path) -> OfficialDescriptions:
    """Read ``observation explanation.json`` and verify every text by its hash.

    As in the released code only the order of the values counts, so the key ``eumonia`` of one copy does no
    harm. The down-stream copies are accepted: three of their texts lack quotes or dashes. No hash of those
    three is on record, so they are checked by length and by what must be gone from them.

    Raises:
        DataError: no such file, no JSON object of 75 texts, or a text that is not the released one; names the
            key and the hash, and says where a misplaced text belongs.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _fail(path, "the description file cannot be read", error, "a JSON object of 75 texts")
    if not isinstance(values, dict) or len(values) != len(PATHOLOGIES):
        found = f"{len(values)} entries" if isinstance(values, dict) else type(values).__name__
        _fail(path, "the description file has not one text per pathology", found, "a JSON object of 75 texts")
    downstream: list[str] = []
    for name, (key, text) in zip(PATHOLOGIES, values.items(), strict=True):
        if not isinstance(text, str):
            _fail(f"{path}, key {key!r}", "a description is no text", type(text).__name__, "a string")
        length, digest = _OFFICIAL[name]
        found = _sha1(text)
        if found == digest:
            continue
        if name in DOWNSTREAM_VARIANTS and _lost_its_dashes(text, length):
            downstream.append(name)
            continue
        elsewhere = [other for other, (_, known) in _OFFICIAL.items() if known == found]
        place = (
            f"; it is the released text of {elsewhere[0]!r}, so the order was changed" if elsewhere else ""
        )
        _fail(
            f"{path}, key {key!r}",
            f"the description of {name!r} is not the released text",
            f"SHA-1 {found}{place}",
            f"SHA-1 {digest}",
        )
    if downstream and len(downstream) != len(DOWNSTREAM_VARIANTS):
        _fail(
            path,
            "the description file mixes texts of the pre-training and the down-stream copy",
            f"down-stream texts of {', '.join(downstream)}",
            f"all or none of {', '.join(DOWNSTREAM_VARIANTS)}",
        )
    return OfficialDescriptions(tuple(values.values()), "down-stream" if downstream else "pre-training")


def anatomy_prompt(anatomy: str, style: Literal["medslip", "medklip"] = "medslip") -> str:
    """The text of an anatomy in the released code, underscores kept.

    MeDSLIP ends it with a full stop and a blank, MedKLIP (and MAVL) with neither.
    """
    name = ANATOMIES[anatomy_index(anatomy)]
    return f"It is located at {name}" + (". " if style == "medslip" else "")


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()[:10]


def _lost_its_dashes(text: str, length: int) -> bool:
    return length - _MOST_DROPPED <= len(text) < length and not any(mark in text for mark in _DROPPED)


def _fail(where: object, problem: str, found: object, allowed: str) -> NoReturn:
    raise DataError(
        problem,
        where=str(where),
        found=found,
        allowed=allowed,
        remedy="take `observation explanation.json` from the released repository unchanged, "
        "or use descriptions: own",
    )
