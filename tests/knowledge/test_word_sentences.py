"""Reports as bare words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.knowledge.word_sentences import word_sentences

REPORT = "1. The heart is\nenlarged. Edema. 2. No PNEUMOTHORAX, 1.5 cm nodule \ufffd\ufffd seen."


def test_sentences_are_cut_and_stripped() -> None:
    # The numbering rule also cuts "1.5" in two.
    assert word_sentences(REPORT) == ["the heart is enlarged", "no pneumothorax", "5 cm nodule seen"]
    assert word_sentences("edema") == word_sentences(" . \n") == []
    assert word_sentences("caf\u00e9 \u00e9 seen") == ["caf seen"]


def test_the_count_stops_only_where_it_is_met_exactly() -> None:
    five = "The heart is very large. No effusion is seen."
    assert word_sentences(five, stop_at=5) == ["the heart is very large"]
    assert word_sentences("No effusion. Lungs are clear. Normal heart.", stop_at=5) == [
        "no effusion",
        "lungs are clear",
    ]
    six = "The heart is really very large. No effusion is seen."
    assert len(word_sentences(six, stop_at=5)) == 2


@given(st.text(max_size=80), st.sampled_from([None, 5]))
def test_any_text_gives_bare_words(text: str, stop_at: int | None) -> None:
    for sentence in word_sentences(text, stop_at=stop_at):
        assert sentence.isascii()
        assert sentence == sentence.lower()
        assert sentence.split(" ") == sentence.split()
        assert sentence
