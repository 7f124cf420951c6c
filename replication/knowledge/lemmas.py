"""From an observation as it is written, ``opacities``, to its lemma and to one of the 75 pathologies.

The released preprocessing lemmatises every observation string by itself with spaCy's ``en_core_web_sm``.
That model is a download of its own, so the default is simplemma with a short list of exceptions
(``lemmas.yaml``) that make the two agree on the words of the vocabularies. On 547 word forms of reports they
then give the same class for 542. Which one runs is part of the settings, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from replication.errors import ConfigError
from replication.knowledge.vocabulary import (
    EXCLUDED_LEMMAS,
    EXCLUDED_PATHOLOGY,
    PATHOLOGIES,
    TAIL_PATHOLOGY,
)

_DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("lemmas.yaml").read_text(encoding="utf-8"))

CORRECTIONS: dict[str, str] = {
    source: target for target, sources in _DATA["corrections"].items() for source in sources
}
"""Lemma -> lemma that replaces it (released code, adj_matrix.py). No target is itself a source."""

_CLASSES = frozenset(PATHOLOGIES) - {TAIL_PATHOLOGY, EXCLUDED_PATHOLOGY}

Lemmatiser = Callable[[str], str]


@cache
def lemmatiser(name: str, *, accidents: bool) -> Lemmatiser:
    """A cached function from a lower-case observation string to its lemmas, joined by blanks.

    Args:
        name: ``simplemma``, or ``spacy:`` followed by an installed model package or a folder.
        accidents: also reproduce the words that the released preprocessing leaves unreduced (simplemma only).

    Raises:
        ConfigError: unknown name, spaCy not installed, or its model not found.
    """
    if name == "simplemma":
        return _simplemma(accidents)
    kind, _, model = name.partition(":")
    if kind == "spacy" and model:
        return _spacy(model)
    raise ConfigError(
        "unknown lemmatiser",
        where="lemmatiser",
        found=name,
        allowed="simplemma, or spacy:<model package or folder>",
    )


def _simplemma(accidents: bool) -> Lemmatiser:
    import simplemma

    exceptions: dict[str, str] = dict(_DATA["exceptions"])
    if accidents:
        exceptions |= _DATA["accidents"]

    @cache
    def word(surface: str) -> str:
        lemma: str = exceptions.get(surface) or simplemma.lemmatize(surface, lang="en")
        return lemma.lower()

    @lru_cache(maxsize=65536)
    def lemmas(observation: str) -> str:
        return " ".join(word(surface) for surface in observation.split())

    return lemmas


def _spacy(model: str) -> Lemmatiser:
    try:
        import spacy

        pipeline = spacy.load(model, disable=["parser", "ner"])
    except ImportError as error:
        raise ConfigError(
            "the lemmatiser needs spaCy, which is not installed",
            where="lemmatiser",
            found=f"spacy:{model}",
            remedy="pip install 'medslip-bench[spacy]' and the model, or choose lemmatiser: simplemma",
        ) from error
    except OSError as error:
        raise ConfigError(
            "spaCy does not find the model of the lemmatiser",
            where="lemmatiser",
            found=model,
            allowed="an installed model package such as en_core_web_sm, or the folder of one",
            remedy="python -m spacy download en_core_web_sm, or choose lemmatiser: simplemma",
        ) from error

    @lru_cache(maxsize=65536)
    def lemmas(observation: str) -> str:
        return " ".join(token.lemma_ for token in pipeline(observation))

    return lemmas


@lru_cache(maxsize=65536)
def pathology_class(lemma: str) -> str:
    """The pathology a lemma belongs to, after the manual corrections (released code, adj_matrix.py).

    A lemma of the excluded vocabulary becomes ``excluded_obs``, one that no vocabulary holds
    ``tail_abnorm_obs``.
    """
    corrected = CORRECTIONS.get(lemma, lemma)
    if corrected in EXCLUDED_LEMMAS:
        return EXCLUDED_PATHOLOGY
    return corrected if corrected in _CLASSES else TAIL_PATHOLOGY
