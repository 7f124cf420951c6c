"""Reading RadGraph documents: streamed from one large JSON file, each checked before anything uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from replication.errors import DataError

LABELS = frozenset({"ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U"})
"""Anatomy or observation; definitely present, definitely absent, uncertain."""

RELATIONS = frozenset({"located_at", "modify", "suggestive_of"})

_KEY = re.compile(r"[^/]+/p(?P<subject>[^/]+)/s(?P<study>[^/]+)\.txt")
_CHUNK = 1 << 20
_SPACE = re.compile(r"\s*")


class Entity(NamedTuple):
    """A marked span of a report; ``relations`` are (type, id of the target entity)."""

    id: str
    tokens: str
    label: str
    start_ix: int
    relations: tuple[tuple[str, str], ...]


class Document(NamedTuple):
    """A report with its entities; ``key`` is the report's path, as ``p10/p10000001/s50000001.txt``."""

    key: str
    subject_id: str
    study_id: str
    text: str
    entities: tuple[Entity, ...]


class _DuplicateKey(Exception):
    pass


def iter_documents(path: Path) -> Iterator[Document]:
    """Documents of a RadGraph file (``MIMIC-CXR_graphs.json``) one after the other, in file order.

    Only about a megabyte of the file is in memory at a time.

    Raises:
        DataError: the file is missing or no complete JSON; a key or a study occurs twice; a document or an
            entity lacks a field or has a wrong one; a relation points at no entity. Names document and
            entity.
    """
    studies: dict[str, str] = {}
    for key, value in _members(path):
        document = parse_document(key, value, str(path))
        earlier = studies.setdefault(document.study_id, key)
        if earlier != key:
            raise DataError(
                "two documents have the same study",
                where=f"{path}, document {key}",
                found=f"study {document.study_id}, already given by {earlier}",
                remedy="keep one document per study",
            )
        yield document


def parse_document(key: str, value: Any, source: str) -> Document:
    """Check one document of a RadGraph file and turn it into a record.

    Args:
        key: path of the report, ``<folder>/p<subject>/s<study>.txt``.
        value: what the file holds under the key.
        source: name of the file, for error messages.

    Raises:
        DataError: see ``iter_documents``.
    """
    where = f"{source}, document {key}"
    match = _KEY.fullmatch(key)
    if match is None:
        _fail(where, "a document's key is no report path", key, "<folder>/p<subject>/s<study>.txt")
    text = _field(value, "text", str, where)
    raw = _field(value, "entities", dict, where)
    entities = tuple(_entity(name, entity, raw, f"{where}, entity {name}") for name, entity in raw.items())
    return Document(key, match["subject"], match["study"], text, entities)


def _entity(name: str, value: Any, siblings: dict[str, Any], where: str) -> Entity:
    tokens = _field(value, "tokens", str, where)
    label = _field(value, "label", str, where)
    if label not in LABELS:
        _fail(where, "an entity has an unknown label", label, ", ".join(sorted(LABELS)))
    start = _field(value, "start_ix", int, where)
    if start < 0:
        _fail(where, "an entity starts before the text", start, "start_ix of 0 or more")
    relations: list[tuple[str, str]] = []
    for relation in _field(value, "relations", list, where):
        if (
            not isinstance(relation, list)
            or len(relation) != 2
            or not all(isinstance(x, str) for x in relation)
        ):
            _fail(where, "a relation is no pair of strings", relation, '["located_at", "3"]')
        kind, target = relation
        if kind not in RELATIONS:
            _fail(where, "a relation has an unknown type", kind, ", ".join(sorted(RELATIONS)))
        if target not in siblings:
            raise DataError(
                "a relation points at an entity that the document does not have",
                where=where,
                found=f"{kind} -> {target}",
                allowed=f"one of the {len(siblings)} entity ids of the document",
                remedy="take the file from its source again, or remove the relation",
            )
        relations.append((kind, target))
    return Entity(name, tokens, label, start, tuple(relations))


def _field(value: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(value, dict):
        _fail(where, "an entry is no JSON object", type(value).__name__, "an object")
    if name not in value:
        _fail(where, f"the field {name!r} is missing", ", ".join(value) or "no field", name)
    found = value[name]
    if not isinstance(found, kind) or isinstance(found, bool):
        _fail(where, f"the field {name!r} has a wrong type", repr(found)[:80], kind.__name__)
    return found


def _fail(where: str, problem: str, found: object, allowed: object) -> NoReturn:
    raise DataError(
        problem,
        where=where,
        found=found,
        allowed=allowed,
        remedy="take the file from its source again, or mend this entry",
    )


def _members(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of the one JSON object a file holds, decoded one member at a time."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    try:
        stream = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(
            "the RadGraph file cannot be opened",
            where=path,
            found=error.strerror,
            remedy="give the path of MIMIC-CXR_graphs.json (PhysioNet, RadGraph)",
        ) from error
    with stream:
        window = _Window(stream, path)
        window.expect("{")
        seen: set[str] = set()
        if window.peek() == "}":
            window.expect("}")
        else:
            while True:
                key = window.value(decoder)
                if not isinstance(key, str):
                    window.fail("a key is no string", repr(key)[:80])
                if key in seen:
                    window.fail("a document occurs twice", key)
                seen.add(key)
                window.key = key
                window.expect(":")
                yield key, window.value(decoder)
                if window.expect(",}") == "}":
                    break
        if window.peek():
            window.fail("something follows the JSON object", window.peek())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKey(next(name for name in names if names.count(name) > 1))
    return members


class _Window:
    """The part of a text file that is being decoded; grows while a value is incomplete."""

    def __init__(self, stream: Any, path: Path) -> None:
        self.stream = stream
        self.path = path
        self.buffer = ""
        self.position = 0
        self.key = ""

    def _grow(self) -> bool:
        try:
            more = self.stream.read(max(_CHUNK, len(self.buffer) - self.position))
        except UnicodeDecodeError as error:
            self.fail("the file is no UTF-8 text", str(error))
        self.buffer = self.buffer[self.position :] + more
        self.position = 0
        return bool(more)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.buffer, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._grow():
                return ""

    def expect(self, allowed: str) -> str:
        """Consume one of the allowed characters."""
        found = self.peek()
        if not found or found not in allowed:
            self.fail("the file is no complete JSON object", repr(found) if found else "end of file", allowed)
        self.position += 1
        return found

    def value(self, decoder: json.JSONDecoder) -> Any:
        """Decode the value that starts at the next character."""
        self.peek()
        while True:
            try:
                value, end = decoder.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                if not self._grow():
                    self.fail("the file is no complete JSON object", error.msg)
            except _DuplicateKey as error:
                self.fail("a key occurs twice in one object", str(error))
            else:
                self.position = end
                return value

    def fail(self, problem: str, found: str, allowed: str | None = None) -> NoReturn:
        raise DataError(
            problem,
            where=f"{self.path}, document {self.key}" if self.key else self.path,
            found=found,
            allowed=allowed,
            remedy="take the file from its source again: it may be cut off or edited",
        )
