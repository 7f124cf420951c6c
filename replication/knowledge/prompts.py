"""Prompt ensembles: a finding, possibly in a place, as sentences of a report that state or deny it.

Models trained on reports know findings as reports word them. A bare name such as "effusion" is met mostly in
"no pleural effusion" and can score backwards, so the sentences are the default and bare names a variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from replication.errors import ConfigError
from replication.knowledge.vocabulary import anatomy_index, anatomy_phrase
from replication.method import Finding

Polarity = Literal["present", "absent"]
Style = Literal["report", "short"]

_DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text(encoding="utf-8"))

PROMPTS_VERSION: int = _DATA["version"]
"""Version of the sentences; part of what makes a score repeatable."""

_NOWHERE = ("unspecified", "other")


def prompts(finding: Finding, polarity: Polarity, style: Style = "report") -> tuple[str, ...]:
    """Prompts that say that a finding is present or absent, without repetitions.

    Args:
        finding: findings with wording of their own are found by ``name``; any other is worded from ``text``.
            With an ``anatomy`` the sentences name that place and side.
        style: ``report`` gives sentences, ``short`` one bare label ("effusion", "no left effusion").

    Raises:
        ConfigError: unknown polarity, style or anatomy.
    """
    for value, allowed in ((polarity, ("present", "absent")), (style, ("report", "short"))):
        if value not in allowed:
            raise ConfigError("unknown kind of prompt", found=value, allowed=", ".join(allowed))
    if finding.anatomy is not None:
        anatomy_index(finding.anatomy)
    own = _DATA["findings"].get(finding.name, {})
    located = finding.anatomy is not None and finding.anatomy not in (*_NOWHERE, *own.get("home", ()))
    anatomy = finding.anatomy if located else None
    qualifier = _DATA["qualifiers"].get(anatomy, "")
    name = own.get("name", finding.text)
    place = "" if anatomy is None else _place(anatomy)
    if style == "short":
        negation = "" if polarity == "present" else "no"
        return (_join(negation, qualifier, own.get("short", finding.text), "" if qualifier else place),)
    countable = own.get("countable", False)
    if anatomy is None:
        return _fill(_DATA["anywhere"][polarity], name, countable) + tuple(own.get(polarity, ()))
    qualified = _fill(_DATA["qualified"][polarity], _join(qualifier, name), countable) if qualifier else ()
    return tuple(dict.fromkeys(qualified + _fill(_DATA["placed"][polarity], name, countable, place)))


def _place(anatomy: str) -> str:
    return f"{'at the' if anatomy in _DATA['at'] else 'in the'} {anatomy_phrase(anatomy)}"


def _fill(templates: Sequence[str], name: str, countable: bool, place: str = "") -> tuple[str, ...]:
    thing = f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}" if countable else name
    sentences = (template.format(thing=thing, name=name, place=place) for template in templates)
    return tuple(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)
