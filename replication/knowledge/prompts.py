"""Prompt ensembles: a finding, possibly in a place, as sentences of a report that state or deny it.

Models trained on reports know findings as reports word them. A bare name such as "effusion" is met mostly in
"no pleural effusion" and can score backwards, so the sentences are the default and bare names a variant.
Prompts that a method was published with are sets of their own, one file each in ``prompt_sets``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from replication.errors import ConfigError, nearest
from replication.knowledge.vocabulary import anatomy_index, anatomy_phrase
from replication.method import Finding

Polarity = Literal["present", "absent"]
Style = str
"""``report`` (sentences), ``short`` (bare labels), or the name of a published set."""

SETS = Path(__file__).with_name("prompt_sets")

_DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text(encoding="utf-8"))

PROMPTS_VERSION: int = _DATA["version"]
"""Version of the sentences; part of what makes a score repeatable."""

_NOWHERE = ("unspecified", "other")


def prompts(finding: Finding, polarity: Polarity, style: Style = "report") -> tuple[str, ...]:
    """Prompts that say that a finding is present or absent, without repetitions.

    Args:
        finding: findings with wording of their own are found by ``name``; any other is worded from ``text``.
            With an ``anatomy`` the sentences name that place and side.
        style: ``report`` gives sentences, ``short`` one bare label ("effusion", "no left effusion"); any
            other is the name of a published set, which may have no prompts that deny a finding.

    Raises:
        ConfigError: unknown polarity, style or anatomy.
    """
    if polarity not in ("present", "absent"):
        raise ConfigError("unknown kind of prompt", found=polarity, allowed="present, absent")
    if finding.anatomy is not None:
        anatomy_index(finding.anatomy)
    own = _DATA["findings"].get(finding.name, {})
    located = finding.anatomy is not None and finding.anatomy not in (*_NOWHERE, *own.get("home", ()))
    anatomy = finding.anatomy if located else None
    qualifier = _DATA["qualifiers"].get(anatomy, "")
    name = own.get("name", finding.text)
    if style not in ("report", "short"):
        return _published(style, finding, polarity, anatomy, qualifier)
    place = "" if anatomy is None else _place(anatomy)
    if style == "short":
        negation = "" if polarity == "present" else "no"
        return (_join(negation, qualifier, own.get("short", finding.text), "" if qualifier else place),)
    countable = own.get("countable", False)
    if anatomy is None:
        return _fill(_DATA["anywhere"][polarity], name, countable) + tuple(own.get(polarity, ()))
    qualified = _fill(_DATA["qualified"][polarity], _join(qualifier, name), countable) if qualifier else ()
    return tuple(dict.fromkeys(qualified + _fill(_DATA["placed"][polarity], name, countable, place)))


@cache
def prompt_set(name: str) -> dict[str, Any]:
    """A published set of prompts: ``version``, ``source``, ``templates`` and prompts of single ``findings``.

    Raises:
        ConfigError: no such set.
    """
    path = SETS / f"{name}.yaml"
    known = ["report", "short", *sorted(file.stem for file in SETS.glob("*.yaml"))]
    if name not in known:
        raise ConfigError("unknown prompts", found=name, remedy=nearest(name, known))
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def _published(
    style: str, finding: Finding, polarity: Polarity, anatomy: str | None, qualifier: str
) -> tuple[str, ...]:
    """Prompts of a published set; a place, which none of them knows, is put into the finding's name."""
    chosen = prompt_set(style)
    own: dict[str, Any] = chosen.get("findings", {}).get(finding.name, {})
    if anatomy is None and polarity in own:
        return tuple(own[polarity])
    name = own.get("name", finding.text)
    if anatomy is not None:
        name = _join(qualifier, name) if qualifier else f"{name} {_place(anatomy)}"
    return tuple(template.format(name=name) for template in chosen["templates"][polarity])


def _place(anatomy: str) -> str:
    return f"{'at the' if anatomy in _DATA['at'] else 'in the'} {anatomy_phrase(anatomy)}"


def _fill(templates: Sequence[str], name: str, countable: bool, place: str = "") -> tuple[str, ...]:
    thing = f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}" if countable else name
    sentences = (template.format(thing=thing, name=name, place=place) for template in templates)
    return tuple(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)
