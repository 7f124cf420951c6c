"""Radiology reports of phantom studies, written together with their RadGraph annotation."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from replication.errors import DataError
from replication.phantom.annotation import AnnotatedText, Polarity, Statement, annotate, choose, plain
from replication.phantom.phrases import HEDGES, NEGATIVES, NOUNS, SEVERITIES, SPLIT, Noun, sites
from replication.phantom.scene import NIH_FINDINGS, Device, FindingInstance, Side
from replication.phantom.sentences import (
    COMPANIONS,
    DEVICES,
    IMPRESSION_NORMAL,
    INCIDENTALS,
    LUNG_FINDINGS,
    NEGATIONS,
    NORMALS,
    OTHER_SIDE,
    STATED,
    SUSPECTED,
    WHOLE_SENTENCES,
)

OMISSION = 0.03
"""Share of the findings of an image that its report overlooks."""

ABSENCE: dict[str, float] = {
    "atelectasis": 0.36,
    "cardiomegaly": 0.36,
    "effusion": 0.45,
    "infiltration": 0.42,
    "mass": 0.36,
    "nodule": 0.37,
    "pneumonia": 0.42,
    "pneumothorax": 0.42,
    "consolidation": 0.43,
    "edema": 0.38,
    "emphysema": 0.36,
    "fibrosis": 0.36,
    "pleural_thickening": 0.36,
    "hernia": 0.36,
}
"""Chance that a report says of a finding that is not there that it is not there."""

_GROUPS: tuple[tuple[str, ...], ...] = (
    ("consolidation", "infiltration", "pneumonia", "atelectasis"),
    ("effusion", "pneumothorax", "pleural_thickening"),
    ("mass", "nodule"),
    ("edema", "cardiomegaly"),
    ("emphysema", "fibrosis"),
    ("hernia",),
)
_KIN = frozenset({"pneumonia", "infiltration", "consolidation"})
_URGENT = frozenset({"pneumothorax", "effusion", "pneumonia", "consolidation", "edema"})
_CHRONIC = frozenset({"cardiomegaly", "emphysema", "fibrosis", "pleural_thickening", "hernia", "nodule"})


@dataclass(frozen=True)
class Report:
    """A study's report.

    Attributes:
        text: the report as a person reads it, in the layout of MIMIC-CXR (a heading for each section).
        annotated: the same words with their RadGraph entities and the statements they make.
        mentions: what the report says of each finding it speaks of.
    """

    text: str
    annotated: AnnotatedText
    mentions: dict[str, Polarity]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What the report claims, in the order of the text."""
        return self.annotated.statements

    @property
    def document(self) -> dict[str, Any]:
        """The value of the study's key in ``MIMIC-CXR_graphs.json``."""
        return self.annotated.document


def write_report(
    findings: Sequence[FindingInstance],
    devices: Sequence[Device],
    rng: np.random.Generator,
) -> Report:
    """Write the report of a study.

    Present findings are described with side and place (``OMISSION`` of them are overlooked), uncertain ones
    hedged, absent ones denied with the chance ``ABSENCE``; normal structures are mentioned now and then.

    Raises:
        DataError: a finding that no report of the pre-training set speaks of, such as ``covid``.
    """
    for instance in findings:
        if instance.finding not in NIH_FINDINGS:
            raise DataError(
                "reports cannot speak of this finding",
                found=instance.finding,
                allowed=", ".join(NIH_FINDINGS),
            )
    return _Radiologist(findings, devices, rng).report()


class _Radiologist:
    """Writes one report; every method draws from the same stream, in the order of the text."""

    def __init__(
        self,
        findings: Sequence[FindingInstance],
        devices: Sequence[Device],
        rng: np.random.Generator,
    ) -> None:
        self.rng = rng
        self.devices = devices
        self.there = {instance.finding for instance in findings}
        self.seen = [instance for instance in findings if rng.random() >= OMISSION]
        self.absent = [f for f in NIH_FINDINGS if f not in self.there and rng.random() < self._denial(f)]

    def report(self) -> Report:
        body = [*self._devices(), *self._described(), *self._normal_and_absent()]
        impression = self._impression()
        sections = [("FINDINGS", body), ("IMPRESSION", impression)]
        mentions: dict[str, Polarity] = dict.fromkeys(self.absent, "absent")
        for instance in self.seen:
            if mentions.get(instance.finding) != "present":
                mentions[instance.finding] = instance.certainty
        return Report(_layout(sections), annotate(sections), mentions)

    def _denial(self, finding: str) -> float:
        """Chance that an absent finding is denied: hardly beside one that many would call by its name."""
        return ABSENCE[finding] * (0.2 if finding in _KIN and self.there & _KIN else 1.0)

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _devices(self) -> list[str]:
        out = []
        for device in self.devices:
            if self._chance(0.92):
                kind = "endotracheal" if device.kind == "tube" and device.side == "midline" else device.kind
                out.append(choose(self._pick(DEVICES[kind]).replace("SIDE", device.side), self.rng))
        return out

    def _described(self) -> list[str]:
        out = []
        for instance in self._sides_apart():
            letter = "O" if instance.certainty == "present" else "U"
            whole = WHOLE_SENTENCES.get(instance.finding, ())
            if whole and self._chance(0.5):
                out.append(self._special(self._pick(whole), instance, letter))
            else:
                out.append(self._sentence(instance, letter))
            for companion in COMPANIONS.get(instance.finding, ()):
                if letter == "O" and companion.fits(instance) and self._chance(companion.share):
                    out.append(self._special(companion.sentence, instance, letter))
        return out

    def _sides_apart(self) -> list[FindingInstance]:
        """What was seen; a finding of both sides is one instance, or one for each side."""
        out = []
        for instance in self.seen:
            apart = instance.side == "bilateral" and instance.finding in SPLIT
            if apart and (instance.zone == "mid" or self._chance(0.5)):
                out += [replace(instance, side="right"), replace(instance, side="left")]
            else:
                out.append(instance)
        return out

    def _special(self, template: str, instance: FindingInstance, letter: str) -> str:
        grade = SEVERITIES[instance.finding][_third(instance.severity)]
        words = choose(grade, self.rng)
        adverb = {"mild": "mildly", "minimal": "minimally", "severe": "severely", "marked": "markedly"}
        filled = (
            template.replace("SIDE", instance.side)
            .replace("GRADE", f"{words}/S>f" if words else "")
            .replace("ADVERB", f"{adverb.get(words, 'moderately')}/S>f")
            .replace("/S", f"/{letter}")
        )
        return choose(filled.replace("MAYBE", "possibly" if letter == "U" else ""), self.rng)

    def _sentence(self, instance: FindingInstance, letter: str) -> str:
        words, noun, many = self._noun_phrase(instance, letter)
        hedge = letter == "U" and not noun.hedged
        frame = choose(self._pick(SUSPECTED if hedge else STATED), self.rng)
        verb = "are" if many or noun.plural else "is"
        article = "a " if noun.article and not many and "ART" in frame else ""
        return frame.replace("ART", "").replace("IS", verb).replace("NP", article + words)

    def _noun_phrase(self, instance: FindingInstance, letter: str) -> tuple[str, Noun, bool]:
        """Words such as "small left pleural effusion", their noun, whether both sides made it a plural."""
        both = instance.side == "bilateral"
        nouns = [n for n in NOUNS[instance.finding] if not both or n.many or not n.article]
        noun = nouns[self.rng.integers(len(nouns))]
        places = sites(instance.finding, instance.side, instance.zone)
        site = places[self.rng.integers(len(places))]
        many = both and bool(noun.many)
        grade = choose(SEVERITIES[instance.finding][_third(instance.severity)], self.rng)
        own = "/O>f" if noun.hedged else "/S>f"
        graded = f"{grade}{own}" if grade else ""
        parts = [graded, noun.kind, site.before, noun.many if many else noun.markup, site.after]
        words = " ".join(parts).replace("AT", site.targets).replace("HEDGE", HEDGES[letter])
        return choose(words.replace("/S", f"/{letter}"), self.rng), noun, many

    def _normal_and_absent(self) -> list[str]:
        out = self._lungs_without()
        lung_sides = {i.side for i in self.seen if i.finding in LUNG_FINDINGS}
        for side, other in (("left", "right"), ("right", "left")):
            if lung_sides == {side} and self._chance(0.4):
                out.append(
                    choose(f"the {other}/A>l lung/A#l={other}_lung_unspec is clear/O@l=clear .", self.rng)
                )
        for instance in self.seen:
            template = OTHER_SIDE.get(instance.finding)
            other = _opposite(instance.side)
            same = [i for i in self.seen if i.finding == instance.finding]
            certain = all(i.side == instance.side and i.certainty == "present" for i in same)
            if template and other and certain and self._chance(0.3):
                out.append(choose(template.replace("SIDE", other), self.rng))
        for share, disturbing, templates in NORMALS:
            said = bool(disturbing) and disturbing <= set(self.absent)
            if not said and not self.there & disturbing and self._chance(share):
                out.append(choose(self._pick(templates), self.rng))
        for share, templates in INCIDENTALS:
            if self._chance(share):
                out.append(choose(self._pick(templates), self.rng))
        return out

    def _lungs_without(self) -> list[str]:
        """The denials, a few in a sentence, the first sometimes behind "the lungs are clear"."""
        chunks: list[list[str]] = []
        for group in _GROUPS:
            names = [name for name in group if name in self.absent]
            while names:
                size = int(self.rng.integers(1, 4))
                chunks.append(names[:size])
                names = names[size:]
        out = []
        clear = not self.there & LUNG_FINDINGS and self._chance(0.6)
        if clear:
            opening = "the lungs/A#l=lung_volumes are clear/O@l=clear"
            behind = f" without {self._listed(chunks.pop(0))}" if chunks and self._chance(0.4) else ""
            out.append(f"{opening}{behind} .")
        out += [self._pick(NEGATIONS).replace("LIST", self._listed(chunk)) for chunk in chunks]
        return [choose(sentence, self.rng) for sentence in out]

    def _listed(self, names: list[str]) -> str:
        words = [NEGATIVES[name] for name in names]
        if len(words) < 3:
            return " or ".join(words)
        return " , ".join(words[:-1]) + f" (,|) or {words[-1]}"

    def _impression(self) -> list[str]:
        out = []
        for instance in self.seen:
            if self._chance(0.75):
                letter = "O" if instance.certainty == "present" else "U"
                words, noun, _ = self._noun_phrase(instance, letter)
                hedge = "(possible|questionable|suspected) " if letter == "U" and not noun.hedged else ""
                out.append(choose(f"{hedge}{words} .", self.rng))
        if not self.there - _CHRONIC:
            out.append(choose(self._pick(IMPRESSION_NORMAL), self.rng))
        if {"mass", "nodule"} & {i.finding for i in self.seen} and self._chance(0.4):
            out.append(
                choose("(follow-up|further evaluation with) chest CT is (recommended|advised) .", self.rng)
            )
        acute = [finding for finding in self.absent if finding in _URGENT]
        if acute and self._chance(0.3):
            out.append(choose(f"no {NEGATIVES[self._pick(acute)]} .", self.rng))
        return out or ["as above ."]


def _third(severity: float) -> int:
    return 0 if severity < 0.4 else 1 if severity < 0.72 else 2


def _opposite(side: Side) -> str:
    return {"left": "right", "right": "left"}.get(side, "")


def _layout(sections: Iterable[tuple[str, Sequence[str]]]) -> str:
    blocks = []
    for heading, sentences in sections:
        lines = textwrap.wrap(
            " ".join(plain(s) for s in sentences),
            78,
            initial_indent=" ",
            subsequent_indent=" ",
            break_on_hyphens=False,
        )
        blocks.append(f" {heading}:\n" + "\n".join(lines))
    return "\n \n".join(blocks) + "\n"
