"""``replicate data splits fetch``: published split lists, from their repository or from given files."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from replication.data.split_lists import FETCHED, SplitList, check_list
from replication.errors import ConfigError, DataError, nearest
from replication.files import atomic, read_json, write_json

_SECONDS = 60
_LIMIT = 256 * 2**20


def fetch(split: SplitList, source: Path, given: Mapping[str, Path] | None = None) -> list[Path]:
    """Put the lists into the raw data set; those that are there and unchanged are left.

    Args:
        source: folder of the raw data set.
        given: lists by name that the user already has.

    Raises:
        ConfigError: ``given`` names no list of the split.
        DataError: no network, no public copy, or another content than is on record.
    """
    given = given or {}
    for name, path in given.items():
        if name not in split.files:
            raise ConfigError(
                f"No list of {split.id} has that name.", found=name, remedy=nearest(name, split.files)
            )
        if not path.is_file():
            raise DataError(f"There is no list {name!r} of {split.id} to take.", where=path)
    if not source.is_dir():
        raise DataError("The folder of the raw data set is missing.", where=source)
    by_hand = {name: path.read_bytes() for name, path in given.items()}
    for name, content in by_hand.items():
        check_list(split, name, content, given[name], known=split.files[name].sha256)
    written = []
    for name, path in split.paths(source).items():
        if name in by_hand or not path.is_file():
            content = by_hand.get(name) or _download(split, name, path)
            check_list(split, name, content, path, known=split.files[name].sha256)
            with atomic(path) as temporary:
                temporary.write_bytes(content)
            _remember(path, content)
        written.append(path)
    return written


def _remember(path: Path, content: bytes) -> None:
    record = path.with_name(FETCHED)
    known = read_json(record) if record.is_file() else {}
    write_json(record, {**known, path.name: hashlib.sha256(content).hexdigest()})


def _download(split: SplitList, name: str, path: Path) -> bytes:
    file = split.files[name]
    by_hand = f"replicate data splits fetch {split.id} --file {name}=PATH"
    if split.repository is None or file.commit is None or file.path is None:
        raise DataError(
            f"No public copy of a list of {split.id} is on record.",
            where=path,
            found=split.source,
            remedy=f"obtain the list from its authors and give it: {by_hand}",
        )
    url = f"https://raw.githubusercontent.com/{split.repository}/{file.commit}/{file.path}"
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            content: bytes = answer.read(_LIMIT)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise DataError(
            f"A list of {split.id} could not be fetched.",
            where=url,
            found=error,
            remedy=f"fetch it on a machine with network and give it: {by_hand}",
        ) from error
    return content
