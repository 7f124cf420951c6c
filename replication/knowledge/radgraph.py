"""RadGraph documents -> itemised rows -> (anatomy, observation, label) tuples.

These are the first two steps of the released preprocessing of MedKLIP and MeDSLIP (radgraph_itemized.py,
radgraph_parsed.py), with its habits as settings; the third, tuples -> matrix, is in ``triplets.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from replication.config_files import Strict
from replication.errors import DataError
from replication.knowledge.lemmas import Lemmatiser, lemmatiser
from replication.knowledge.radgraph_documents import Document
from replication.knowledge.sentences import Alignment, Splitter, split_sentences

UNSPECIFIED = "unspecified"


class RadGraphSettings(Strict):
    """Habits of the released preprocessing (audit P20) and the language tools it stands on.

    The defaults are the released code's: the released lists, books and weights of MedKLIP, MeDSLIP and MAVL
    all stand on that matrix. ``CORRECTED`` holds the values we would choose.

    Attributes:
        anatomy_hops: how far modifiers of an anatomy are followed: ``1`` loses "lower" in
            lower -> left -> lobe, ``all`` follows the chain.
        uncertain: ``ignore`` leaves cells of uncertain mentions alone; ``2`` writes 2 (weaker than 1,
            stronger than 0).
        relation_scope: ``sentence`` loses relations into another sentence; ``document`` keeps them.
        suggestive: an observation whose only relation is ``suggestive_of`` is dropped, or gets anatomy
            ``unspecified``.
        token_alignment: how RadGraph's token numbers are found in the sentences; see ``split_sentences``.
        sentence_splitter: see ``split_sentences``. The released code uses NLTK's English parameters, a
            download of their own; RadGraph sets full stops apart, and there ``punkt`` cuts alike.
        lemmatiser: ``simplemma``, or ``spacy:<model package or folder>``; see ``lemmas.py``.
        lemma_accidents: keep words unreduced that the released preprocessing left unreduced ("wires").
    """

    anatomy_hops: Literal[1, "all"] = 1
    uncertain: Literal["ignore", "2"] = "ignore"
    relation_scope: Literal["sentence", "document"] = "sentence"
    suggestive: Literal["drop", "unspecified"] = "drop"
    token_alignment: Alignment = "nltk"
    sentence_splitter: Splitter = "punkt"
    lemmatiser: str = "simplemma"
    lemma_accidents: bool = True


FAITHFUL = RadGraphSettings()
"""The matrix of the released code."""

CORRECTED = RadGraphSettings(
    anatomy_hops="all",
    relation_scope="document",
    suggestive="unspecified",
    token_alignment="whitespace",
    lemma_accidents=False,
)
"""Nothing definite that the annotation says is lost; uncertain mentions stay out, as no loss uses them."""


class ItemisedRow(NamedTuple):
    """One relation of one entity; ``relation`` and ``target`` are ``None`` for an entity without any."""

    source: str
    token: str
    token_ix: int
    label: str
    relation: str | None
    target: str | None
    sentence_ix: int
    sentence: str
    subject_id: str
    study_id: str


class ParsedTuple(NamedTuple):
    """What a sentence says of one anatomy.

    ``anatomy`` is the head token and its modifiers, ``lobe|left|lower``. A head that nothing is said of
    gives a placeholder, whose ``observation`` and ``label`` are ``None``.
    """

    study_id: str
    sen_id: int
    sentence: str
    anatomy: str
    observation: str | None
    label: str | None
    obs_modify: str
    obs_suggestive: str
    obs_lemma: str


_Links = dict[str, list[ItemisedRow]]
_Pair = tuple[str, ItemisedRow | None]


def itemise(document: Document, settings: RadGraphSettings = FAITHFUL) -> list[ItemisedRow]:
    """One row per relation of every entity, with the sentence it stands in (radgraph_itemized.py).

    Raises:
        DataError: an entity starts behind the last token of the text (a bare KeyError in the released code).
    """
    sentences = split_sentences(document.text, settings.sentence_splitter, settings.token_alignment)
    rows: list[ItemisedRow] = []
    for entity in document.entities:
        if entity.start_ix >= sentences.tokens:
            raise DataError(
                "an entity starts behind the last token of its report",
                where=f"document {document.key}, entity {entity.id} ({entity.tokens!r})",
                found=f"start_ix {entity.start_ix}",
                allowed=f"less than {sentences.tokens}, tokens being counted by {settings.token_alignment}",
                remedy="check text and start_ix; token_alignment: whitespace counts as RadGraph does",
            )
        index = sentences.of_token(entity.start_ix)
        for relation, target in entity.relations or ((None, None),):
            rows.append(
                ItemisedRow(
                    entity.id,
                    entity.tokens,
                    entity.start_ix,
                    entity.label,
                    relation,
                    target,
                    index,
                    sentences.texts[index],
                    document.subject_id,
                    document.study_id,
                )
            )
    return rows


def parse_tuples(rows: Sequence[ItemisedRow], settings: RadGraphSettings = FAITHFUL) -> list[ParsedTuple]:
    """The (anatomy, observation, label) tuples of one study's itemised rows (radgraph_parsed.py).

    Every anatomy that modifies nothing is a head and gathers the observations located at it or at its
    modifiers. Observations without any relation go to anatomy ``unspecified``, once per head of their
    sentence; equal tuples of one head are given once.
    """
    lemmas = lemmatiser(settings.lemmatiser, accidents=settings.lemma_accidents)
    by_sentence: dict[int, list[ItemisedRow]] = {}
    for row in rows:
        by_sentence.setdefault(row.sentence_ix, []).append(row)
    whole = _links(rows) if settings.relation_scope == "document" else None
    tuples: list[ParsedTuple] = []
    for sentence in by_sentence.values():
        links = _links(sentence) if whole is None else whole
        for pairs in _anatomies(sentence, links, settings):
            tuples += dict.fromkeys(_tuple(sentence[0], links, lemmas, *pair) for pair in pairs)
    return tuples


def _anatomies(
    sentence: list[ItemisedRow], links: _Links, settings: RadGraphSettings
) -> Iterator[list[_Pair]]:
    """For every head of a sentence, the pairs of an anatomy string and an observation's row."""
    free: list[_Pair] = [(UNSPECIFIED, row) for row in _free_observations(sentence, settings)]
    heads = [row for row in sentence if row.label == "ANAT-DP" and row.target is None]
    for head in heads:
        anatomy, members = _modified(head, links, settings)
        located: list[_Pair] = [
            (anatomy, row)
            for member in members
            for row in links.get(member, ())
            if row.relation == "located_at" and row.label != "ANAT-DP"
        ]
        yield [*(located or [(anatomy, None)]), *free]
    if not heads:
        yield [*(free or [(UNSPECIFIED, None)])]


def _free_observations(sentence: list[ItemisedRow], settings: RadGraphSettings) -> list[ItemisedRow]:
    """Rows of observations that point at nothing (or, by choice, only at what they suggest)."""
    observations = [row for row in sentence if row.label != "ANAT-DP"]
    if settings.suggestive == "drop":
        return [row for row in observations if row.target is None]
    bound = {row.source for row in observations if row.relation in ("located_at", "modify")}
    return [row for row in observations if row.source not in bound]


def _modified(head: ItemisedRow, links: _Links, settings: RadGraphSettings) -> tuple[str, list[str]]:
    """The anatomy string of a head, and the ids of the head and its modifiers."""
    words, members, frontier = [head.token.lower()], [head.source], [head.source]
    while frontier:
        modifiers = [
            row
            for entity in frontier
            for row in links.get(entity, ())
            if row.label == "ANAT-DP" and row.source not in members
        ]
        words += [row.token.lower() for row in modifiers]
        frontier = list(dict.fromkeys(row.source for row in modifiers))
        members += frontier
        if settings.anatomy_hops == 1:
            break
    return "|".join(words), members


def _tuple(
    first: ItemisedRow, links: _Links, lemmas: Lemmatiser, anatomy: str, row: ItemisedRow | None
) -> ParsedTuple:
    common = (first.study_id, first.sentence_ix, first.sentence, anatomy)
    if row is None:
        # The released code lemmatises the text "None" here; without a label it never reaches the matrix.
        return ParsedTuple(*common, None, None, "", "", "none")
    observation = row.token.lower()
    pointing = links.get(row.source, ())
    modify, suggestive = (
        "|".join(r.token.lower() for r in pointing if r.relation == relation and r.label == "OBS-DP")
        for relation in ("modify", "suggestive_of")
    )
    return ParsedTuple(*common, observation, row.label, modify, suggestive, lemmas(observation))


def _links(rows: Iterable[ItemisedRow]) -> _Links:
    """Rows by the entity they point at."""
    links: _Links = {}
    for row in rows:
        if row.target is not None:
            links.setdefault(row.target, []).append(row)
    return links
