"""Texts against co-occurrence: the test between similarity matrices, and the figure without data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reporting_doubles import TIER
from safetensors.torch import save_file
from scipy import stats

from replication.errors import DataError
from replication.knowledge.vocabulary import PATHOLOGIES, pathology_index
from replication.reporting import cooccurrence
from replication.reporting.cooccurrence import cosines, mantel_test, occurrence, query_similarity
from replication.reporting.figures import style
from replication.reporting.report import Report


def random_matrix(seed: int, size: int = 14) -> np.ndarray:
    return cosines(np.random.default_rng(seed).standard_normal((size, 5)))


def test_the_correlation_is_spearmans_over_the_pairs() -> None:
    a, b = random_matrix(0), random_matrix(1)
    upper = np.triu_indices(14, 1)
    expected = stats.spearmanr(a[upper], b[upper]).statistic
    assert mantel_test(a, b, permutations=19).correlation == pytest.approx(expected)


def test_equal_matrices_are_told_apart_from_chance_and_monotone_changes_do_not_matter() -> None:
    a = random_matrix(2)
    assert mantel_test(a, a**3 + 5, permutations=199) == (pytest.approx(1), pytest.approx(1 / 200))
    assert mantel_test(a, -a, permutations=199) == (pytest.approx(-1), pytest.approx(1 / 200))


def test_unrelated_matrices_are_significant_as_often_as_they_should_be() -> None:
    """Pairs share members, so a test that took them for independent would reject far more often."""
    p_values = [
        mantel_test(random_matrix(10 + i), random_matrix(1000 + i), permutations=99).p_value
        for i in range(120)
    ]
    assert 0.0 < np.mean(np.array(p_values) <= 0.2) < 0.33
    assert 0.4 < np.mean(p_values) < 0.6


def test_only_common_abnormal_pathologies_are_correlated() -> None:
    rng = np.random.default_rng(0)
    present = np.zeros((200, len(PATHOLOGIES)), dtype=bool)
    for name in ("effusion", "edema", "mass", "nodule", "clear", "tail_abnorm_obs"):
        present[:, pathology_index(name)] = rng.random(200) < 0.4
    present[:, pathology_index("atelectasis")] = present[:, pathology_index("effusion")]
    present[:5, pathology_index("hernia")] = True
    found = occurrence(present)
    assert sorted(found.names) == ["atelectasis", "edema", "effusion", "mass", "nodule"]
    assert found.studies == 200
    upper = np.triu_indices(5, 1)
    (most,) = found.together(1)
    assert {found.names[side[most]] for side in upper} == {"effusion", "atelectasis"}
    assert found.correlation[upper][most] == pytest.approx(1)
    with pytest.raises(DataError, match="Too few pathologies"):
        occurrence(np.zeros_like(present))


def test_projected_queries_are_read_from_weights_where_a_method_has_them(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    book = torch.randn(75, 6, generator=generator)
    weight, bias = torch.randn(4, 6, generator=generator), torch.randn(4, generator=generator)
    for name in ("queries", "pathology_queries"):
        path = tmp_path / f"{name}.safetensors"
        save_file({"pathology_book.features": book, f"{name}.weight": weight, f"{name}.bias": bias}, path)
        queries = (book @ weight.T).numpy()
        found = query_similarity(path)
        assert found is not None and found.shape == (75, 75)
        first, second = (queries - queries.mean(axis=0))[[3, 9]]
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert found[3, 9] == pytest.approx(cosine, abs=1e-5)
    save_file({"text.weight": weight}, tmp_path / "other.safetensors")
    assert query_similarity(tmp_path / "other.safetensors") is None


def test_without_prepared_data_the_figure_says_so(tmp_path: Path) -> None:
    empty = Report.open(TIER, tmp_path, tmp_path, rows_needed=False)
    with style():
        figure, caption, rows = cooccurrence.cooccurrence_figure(empty)
    assert "nothing to show" in figure.texts[0].get_text()
    assert "nothing to show" in caption
    assert rows.empty
