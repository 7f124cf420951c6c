"""Annotated sentences: one small notation from which text, RadGraph entities and triplets follow together.

A sentence is words separated by blanks; a word may carry an annotation after a slash::

    small/O>f left/A>p pleural/A#p=left_pleural effusion/O#f@p=effusion .

``A`` anatomy, ``O`` / ``N`` / ``U`` observation definitely present / definitely absent / uncertain; ``#p``
names the word within its sentence, ``>f`` modifies, ``@p`` is located at, ``~f`` is suggestive of (several
targets: ``@p,q``); ``=class`` is what the word means in the vocabulary of 51 anatomies and 75 pathologies.
The claimed classes make the report's statements, so that they can be held against what the RadGraph reader
finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

LABELS = {"A": "ANAT-DP", "O": "OBS-DP", "N": "OBS-DA", "U": "OBS-U"}
RELATIONS = {">": "modify", "@": "located_at", "~": "suggestive_of"}

_ALTERNATIVES = re.compile(r"\(([^()]*)\)")
_ANNOTATION = re.compile(r"([>@~#=])([^>@~#=]+)")
_NAMES = re.compile(r"([>@~#])([a-z0-9,]+)")
_SPACE_BEFORE = re.compile(r" ([.,;:])")

Polarity = Literal["present", "absent", "uncertain"]
POLARITIES: dict[str, Polarity] = {"O": "present", "N": "absent", "U": "uncertain"}


@dataclass(frozen=True)
class Statement:
    """What a sentence says of one place: anatomy and pathology of the vocabularies, and a polarity."""

    anatomy: str
    pathology: str
    polarity: Polarity


@dataclass
class _Word:
    text: str
    letter: str = ""
    name: str = ""
    meaning: str = ""
    relations: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class AnnotatedText:
    """Text with its RadGraph entities.

    Attributes:
        tokens: the words, as RadGraph counts them.
        entities: RadGraph's schema; ``start_ix`` and ``end_ix`` index ``tokens``, both inclusive.
        statements: what the text says, in the order of the text.
    """

    tokens: tuple[str, ...]
    entities: dict[str, dict[str, Any]]
    statements: tuple[Statement, ...]

    @property
    def document(self) -> dict[str, Any]:
        """The value of a study's key in ``MIMIC-CXR_graphs.json``."""
        return {
            "text": " ".join(self.tokens),
            "entities": self.entities,
            "data_source": None,
            "data_split": "inference",
        }


def choose(template: str, rng: np.random.Generator) -> str:
    """Replace every ``(a|b|c)`` by one of its alternatives; they may nest and may be empty."""
    while match := _ALTERNATIVES.search(template):
        options = match[1].split("|")
        template = template[: match.start()] + options[rng.integers(len(options))] + template[match.end() :]
    return " ".join(template.split())


def rename(phrase: str, suffix: str) -> str:
    """Give all names of a phrase a suffix, so that two phrases can share a sentence."""

    def changed(match: re.Match[str]) -> str:
        return match[1] + ",".join(name + suffix for name in match[2].split(","))

    return " ".join(
        word if "/" not in word else word.split("/")[0] + "/" + _NAMES.sub(changed, word.split("/")[1])
        for word in phrase.split()
    )


def annotate(sections: Iterable[tuple[str, Sequence[str]]]) -> AnnotatedText:
    """Read annotated sentences, section by section; the heading is the first word of its first sentence.

    Raises:
        ValueError: a relation names no word of its sentence, or an observation that yields a statement has no
            class; both are mistakes in a template.
    """
    tokens: list[str] = []
    entities: dict[str, dict[str, Any]] = {}
    statements: list[Statement] = []
    for heading, sentences in sections:
        tokens += [heading, ":"]
        for sentence in sentences:
            words = _read(sentence)
            _add_entities(words, len(tokens), entities)
            statements += _statements(words, sentence)
            tokens += [word.text for word in words]
    return AnnotatedText(tuple(tokens), entities, tuple(statements))


def plain(sentence: str) -> str:
    """A sentence without its annotation, punctuation closed up."""
    return _SPACE_BEFORE.sub(r"\1", " ".join(word.text for word in _read(sentence)))


def _read(sentence: str) -> list[_Word]:
    words = []
    for marked in sentence.split():
        text, _, annotation = marked.partition("/")
        word = _Word(text, annotation[:1])
        for sign, value in _ANNOTATION.findall(annotation[1:]):
            if sign == "#":
                word.name = value
            elif sign == "=":
                word.meaning = value
            else:
                word.relations += [(RELATIONS[sign], target) for target in value.split(",")]
        words.append(word)
    for word, following in pairwise(words):
        if word.text == "a" and following.text[0] in "aeiou":
            word.text = "an"
    words[0].text = words[0].text[0].upper() + words[0].text[1:]
    return words


def _add_entities(words: list[_Word], start: int, entities: dict[str, dict[str, Any]]) -> None:
    annotated = [(offset, word) for offset, word in enumerate(words) if word.letter]
    first = len(entities) + 1
    ids = {word.name: str(number) for number, (_, word) in enumerate(annotated, first)}
    for number, (offset, word) in enumerate(annotated, first):
        if missing := [target for _, target in word.relations if target not in ids]:
            raise ValueError(f"{word.text!r} refers to {missing[0]!r}, which is not in its sentence")
        entities[str(number)] = {
            "tokens": word.text,
            "label": LABELS[word.letter],
            "start_ix": start + offset,
            "end_ix": start + offset,
            "relations": [[kind, ids[target]] for kind, target in word.relations],
        }


def _statements(words: list[_Word], sentence: str) -> list[Statement]:
    meanings = {word.name: word.meaning for word in words if word.letter == "A"}
    found = []
    for word in words:
        if word.letter not in POLARITIES:
            continue
        places = [meanings[target] for kind, target in word.relations if kind == "located_at"]
        if not word.relations:
            places = ["unspecified"]
        if places and not (word.meaning and all(places)):
            raise ValueError(f"{word.text!r} or its place has no class in {sentence!r}")
        found += [Statement(place, word.meaning, POLARITIES[word.letter]) for place in places]
    return found
