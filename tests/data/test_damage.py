from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from replication.data.batches import PreparedData
from replication.data.prepare import prepare
from replication.errors import UserError

from .damage import FORMS, Damage
from .damage_page import DAMAGES, PAGE, markdown

SECONDS = 20


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"still busy after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.id)
def test_damage_is_an_error_that_names_its_place_or_a_row_of_the_quarantine(
    damage: Damage, tmp_path: Path
) -> None:
    form = FORMS[damage.form]
    source, out = form.write(tmp_path / "raw"), tmp_path / "out" / form.dataset
    damage.spoil(source / damage.file)
    settings: dict[str, Any] = {"split": form.split, "size": 16, "workers": 1, "progress": False}
    for quarantine in (0.0,) if damage.image else (0.0, 1.0):
        with pytest.raises(UserError) as error:
            prepare(form.dataset, source, out, quarantine=quarantine, **settings)
        for word in damage.words:
            assert word in str(error.value)
        assert len(str(error.value)) < 4000
        assert not out.parent.exists() or not list(out.parent.iterdir())
    if damage.image:
        data = PreparedData.open(prepare(form.dataset, source, out, quarantine=0.5, **settings))
        table = pd.read_csv(out / "quarantine.csv")
        assert len(table) == data.provenance["quarantined"] == 1
        for word in damage.words:
            assert word in table["reason"][0]
        assert table["file"][0] not in set(data.manifest["file"])


def test_the_page_of_the_documentation_lists_every_kind() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m tests.data.damage_page"
    assert len({damage.kind for damage in DAMAGES}) >= 40
