"""What pathologies look like, aspect by aspect: the texts that MAVL asks with beside a description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from replication.errors import DataError
from replication.knowledge.vocabulary import PATHOLOGIES

ASPECTS: tuple[str, ...] = ("border", "fluid", "location", "opacity", "other", "patterns", "shape", "texture")
"""The eight aspects, in the order of the released file."""

_OWN: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("aspects.yaml").read_text(encoding="utf-8"))

ASPECTS_VERSION: int = _OWN["version"]
"""Version of our own texts."""

_COVID = "covid19"
"""Name of the released file's 76th entry; the suite's finding is ``covid``."""


class AspectTexts(NamedTuple):
    """Texts such as ``"shape: crescent or meniscus"``, eight for each entry, in the order of ``ASPECTS``.

    Attributes:
        pathologies: of the 75 classes, in vocabulary order.
        findings: of findings that are no class of the vocabulary, by name.
    """

    pathologies: tuple[tuple[str, ...], ...]
    findings: dict[str, tuple[str, ...]]

    def of(self, name: str, text: str) -> tuple[str, ...]:
        """Texts of a finding without a class; its plain words under each aspect where there are none."""
        return self.findings.get(name) or tuple(f"{aspect}: {text}" for aspect in ASPECTS)


def load_aspects(source: str | Path = "own") -> AspectTexts:
    """The suite's ``own`` texts, or those of the released JSON file at a path.

    The released file knows no fibrosis, so that finding keeps our own texts.

    Raises:
        DataError: the file cannot be read, or is not 76 entries of eight texts, each after its aspect.
    """
    findings = {name: _named(texts) for name, texts in _OWN["findings"].items()}
    if source == "own":
        return AspectTexts(tuple(_named(_OWN["pathologies"][name]) for name in PATHOLOGIES), findings)
    released = _read(Path(source))
    return AspectTexts(tuple(released[name] for name in PATHOLOGIES), {**findings, "covid": released[_COVID]})


def _named(texts: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{aspect}: {texts[aspect]}" for aspect in ASPECTS)


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    """The released file, checked: it is used by position, so nothing may be missing or out of order."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _fail(path, "the aspect file cannot be read", error)
    names = [*PATHOLOGIES, _COVID]
    if not isinstance(values, dict) or list(values) != names:
        known = list(values) if isinstance(values, dict) else []
        wrong = [
            f"{theirs!r} for {name!r}" for name, theirs in zip(names, known, strict=False) if name != theirs
        ]
        found = wrong[0] if wrong else f"{len(known)} entries"
        _fail(
            path,
            "the entries of the aspect file are not the 75 pathologies and covid19, in this order",
            found,
        )
    for name, texts in values.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            _fail(f"{path}, key {name!r}", "an entry is no list of texts", type(texts).__name__)
        found_aspects = [text.partition(":")[0].strip().lower() for text in texts]
        if [aspect.replace("others", "other") for aspect in found_aspects] != list(ASPECTS):
            _fail(
                f"{path}, key {name!r}", "an entry has not one text for each aspect", ", ".join(found_aspects)
            )
    return {name: tuple(texts) for name, texts in values.items()}


def _fail(where: object, problem: str, found: object) -> NoReturn:
    raise DataError(
        problem,
        where=str(where),
        found=found,
        allowed=f"eight texts an entry, 'aspect: text', for {', '.join(ASPECTS)}",
        remedy="take `concept_gen/gpt4_mimic.json` of the released repository unchanged, or use aspects: own",
    )
