"""Which sentence of a report a RadGraph token belongs to."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

from replication.errors import ConfigError

Splitter = Literal["punkt", "punkt-english"]
Alignment = Literal["nltk", "whitespace"]

_WORD = re.compile(r"\S+")


class Sentences(NamedTuple):
    """The sentences of a report; ``ends[i]`` is the index of the first token after sentence i."""

    texts: list[str]
    ends: list[int]

    @property
    def tokens(self) -> int:
        """Number of tokens of the report."""
        return self.ends[-1] if self.ends else 0

    def of_token(self, index: int) -> int:
        """Index of the sentence that holds a token; the token must be less than ``tokens``."""
        return bisect_right(self.ends, index)


def split_sentences(text: str, splitter: Splitter, alignment: Alignment) -> Sentences:
    """Cut a report into sentences and count their tokens.

    Args:
        splitter: ``punkt`` is NLTK's algorithm with its built-in defaults, which needs no data;
            ``punkt-english`` loads NLTK's trained English parameters from the user's NLTK data.
        alignment: ``nltk`` counts the words of NLTK's word tokeniser (released code, radgraph_itemized.py),
            which drift from RadGraph's token numbers where NLTK cuts a token in two; ``whitespace`` counts
            RadGraph's own tokens, which are what white space separates.

    Raises:
        ConfigError: ``punkt-english`` is asked for and its data are not installed.
    """
    if alignment == "nltk":
        texts = list(_punkt(splitter).tokenize(text))
        ends, total = [], 0
        for sentence in texts:
            total += _word_count(sentence, splitter)
            ends.append(total)
        return Sentences(texts, ends)
    starts = [match.start() for match in _WORD.finditer(text)]
    spans = list(_punkt(splitter).span_tokenize(text))
    return Sentences([text[a:b] for a, b in spans], [bisect_left(starts, b) for _, b in spans])


@lru_cache(maxsize=65536)
def _word_count(sentence: str, splitter: Splitter) -> int:
    # NLTK's word_tokenize looks for sentences once more inside what it is given.
    words = _word_tokenizer()
    return sum(len(words.tokenize(part)) for part in _punkt(splitter).tokenize(sentence))


@cache
def _word_tokenizer() -> Any:
    # NLTK takes over a second to import; only those who split sentences pay for it.
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


@cache
def _punkt(splitter: Splitter) -> Any:
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTokenizer

    if splitter == "punkt":
        return PunktSentenceTokenizer()

    try:
        return PunktTokenizer("english")
    except LookupError as error:
        raise ConfigError(
            "NLTK's English sentence parameters are not installed",
            where="sentence_splitter",
            found=splitter,
            allowed="punkt (needs no data), punkt-english",
            remedy="python -m nltk.downloader punkt_tab, or choose sentence_splitter: punkt",
        ) from error
