from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import ConfigError
from replication.knowledge.sentences import split_sentences

REPORT = "small left effusion . no pneumothorax . the lungs are clear ."


@pytest.mark.parametrize("alignment", ["nltk", "whitespace"])
def test_tokens_find_their_sentence(alignment: str) -> None:
    sentences = split_sentences(REPORT, "punkt", alignment)  # type: ignore[arg-type]
    assert sentences.texts == ["small left effusion .", "no pneumothorax .", "the lungs are clear ."]
    assert sentences.ends == [4, 7, 12]
    assert [sentences.of_token(i) for i in (0, 3, 4, 6, 7, 11)] == [0, 0, 1, 1, 2, 2]


def test_alignments_differ_where_nltk_cuts_a_token() -> None:
    report = "cannot exclude effusion . no pneumothorax ."
    assert split_sentences(report, "punkt", "nltk").ends == [5, 8]
    assert split_sentences(report, "punkt", "whitespace").ends == [4, 7]


@given(
    st.lists(st.sampled_from(["no", "effusion", ".", "cannot", "1.", "e.g.", "(", ")", ";", '"', "3.5", "?"]))
)
def test_whitespace_alignment_counts_every_token_once(words: list[str]) -> None:
    sentences = split_sentences(" ".join(words), "punkt", "whitespace")
    assert sentences.tokens == len(words)
    assert sentences.ends == sorted(sentences.ends)
    for index, end in enumerate(sentences.ends):
        start = sentences.ends[index - 1] if index else 0
        # Punkt may cut inside a token ("e.g.)"); only the token's beginning decides.
        assert sentences.texts[index].startswith(tuple(words[start : start + 1]))
        assert end - start <= len(sentences.texts[index].split()) + 1


def test_missing_english_parameters_are_an_error_and_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    from nltk.tokenize import punkt

    from replication.knowledge import sentences

    def absent(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(punkt, "PunktTokenizer", absent)
    sentences._punkt.cache_clear()
    with pytest.raises(ConfigError, match="English sentence parameters"):
        split_sentences(REPORT, "punkt-english", "nltk")
    assert split_sentences("", "punkt", "nltk").tokens == 0
