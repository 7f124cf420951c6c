"""One stem per method everywhere, so that a reader finds all of a method in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from replication.config_files import CONFIGS
from replication.registry import METHODS, method_class, names

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", names(METHODS))
def test_code_recipe_test_and_page_share_the_name(name: str) -> None:
    home = method_class(name).__module__.partition(".")[0]
    expected = [
        CONFIGS / "recipes" / f"{name}.yaml",
        ROOT / "docs" / "methods" / f"{name}.md",
        ROOT / "medslip" / "model.py" if home == "medslip" else ROOT / "baselines" / f"{name}.py",
        ROOT / "tests" / home / f"test_{name}.py",
    ]
    missing = [str(path.relative_to(ROOT)) for path in expected if not path.is_file()]
    assert not missing


def test_every_recipe_belongs_to_a_method() -> None:
    assert {path.stem for path in (CONFIGS / "recipes").glob("*.yaml")} == set(names(METHODS))
