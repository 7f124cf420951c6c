"""Synthetic results that several tests read."""

from __future__ import annotations

import pytest
from reporting_doubles import Folders, make_results


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Four methods, three seeds."""
    return make_results(tmp_path_factory.mktemp("full"))
