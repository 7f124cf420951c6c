"""What a paper's abstract claims, and whether the contrasts that would show it were measured and show it.

The rule, the same for every claim: its contrasts are the method minus each competitor in each measure, and
p values are adjusted over all of them (Holm). It claims that all of them are above 0: ``supported`` if all
were measured and are, ``not supported`` if one that was measured is not, else ``not testable here``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from replication.config import load_recipes, reference_of
from replication.config_files import CONFIGS, Strict, parse, read_yaml
from replication.errors import ConfigError, nearest
from replication.registry import METHODS, names
from replication.reporting.contrasts import (
    Contrast,
    Measure,
    contrasts,
    error_bars,
    line,
    protocols_of,
)
from replication.reporting.paired import ZERO, Comparer, Comparison
from replication.reporting.report import Entry, Report
from replication.reporting.significance import SIGNIFICANT
from replication.reporting.tables import Cell, Column, Row, Table, list_of

Verdict = Literal["supported", "not supported", "not testable here"]


class Claim(Strict):
    """One claim.

    Attributes:
        text: in our words. abstract: which version of it says so.
        measures: what the method must be better in, all of them.
        against: labels it must be better than, all of them; those of the file if empty.
        above_zero: the measures are differences themselves, which must be above 0; there is no competitor.
    """

    id: str
    text: str
    abstract: str
    measures: tuple[Measure, ...] = Field(min_length=1)
    against: tuple[str, ...] = ()
    above_zero: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Claim:
        if self.above_zero and self.against:
            raise ValueError("a claim that is above_zero has no competitors, so no key 'against'")
        return self


class Claims(Strict):
    """The claims about a method.

    Attributes:
        method: stem. baselines: labels that claims without ``against`` are about.
    """

    method: str
    baselines: tuple[str, ...] = Field(min_length=1)
    claims: tuple[Claim, ...] = Field(min_length=1)

    def against(self, claim: Claim) -> tuple[str, ...]:
        """Labels that the method must be better than; none where it must be above zero."""
        return () if claim.above_zero else claim.against or self.baselines


def load_claims(method: str = "medslip", folder: Path = CONFIGS / "claims") -> Claims:
    """The claims about a method.

    Raises:
        ConfigError: unknown key, method or variant, or an id that is there twice.
    """
    path = folder / f"{method}.yaml"
    found = parse(Claims, read_yaml(path), path)
    twice = [name for name, count in Counter(claim.id for claim in found.claims).items() if count > 1]
    if twice:
        raise ConfigError("A claim is there twice.", where=path, found=twice, remedy="correct the ids")
    methods = names(METHODS)
    variants = {
        known: load_recipes(known).variants for known in {found.method, *found.baselines} & {*methods}
    }
    for claim in found.claims:
        for label in found.against(claim):
            name, _, variant = label.partition("/")
            where = f"{path}, claim {claim.id}"
            if name not in methods:
                raise ConfigError("Unknown method.", where=where, found=label, remedy=nearest(name, methods))
            known = variants.get(name, {})
            if variant and variant not in known:
                raise ConfigError(
                    "Unknown variant.", where=where, found=label, remedy=nearest(variant, known)
                )
    return found


@dataclass(frozen=True)
class Evidence:
    """A claim with what was measured of it.

    Attributes:
        contrasts: method minus competitor, in the order of the measures, then of the competitors.
    """

    claim: Claim
    contrasts: tuple[Contrast, ...]

    @property
    def verdict(self) -> Verdict:
        """By the rule of this module."""
        if any(isinstance(one.found, Comparison) and not one.shown for one in self.contrasts):
            return "not supported"
        return "supported" if all(one.shown for one in self.contrasts) else "not testable here"

    def of(self, measure: Measure) -> list[Contrast]:
        """The contrasts in one measure."""
        return [one for one in self.contrasts if one.measure == measure]


def examine(report: Report, comparer: Comparer, claims: Claims) -> list[Evidence]:
    """Every claim's contrasts, tested.

    Raises:
        DataError: predictions are damaged, or not of the same images.
    """

    def own(label: str) -> Entry:
        """The method as it is trained beside a competitor."""
        variant = label.startswith(f"{claims.method}/")
        return line(report, reference_of(report.tier, label) if variant else claims.method)

    def pairs(claim: Claim) -> list[tuple[Entry, Entry]]:
        if claim.above_zero:
            return [(own(ZERO.label), ZERO)]
        return [(own(label), line(report, label)) for label in claims.against(claim)]

    return [
        Evidence(
            claim,
            tuple(
                contrasts(comparer, [(*pair, measure) for measure in claim.measures for pair in pairs(claim)])
            ),
        )
        for claim in claims.claims
    ]


def claims_table(report: Report, claims: Claims, found: list[Evidence]) -> Table:
    """``claims``: a line per claim and measure with its closest competitor; the verdict is of the claim."""
    rows = [
        Row(_labels(report, evidence, measure), _cells(evidence.of(measure)), block=evidence.claim.id)
        for evidence in found
        for measure in evidence.claim.measures
    ]
    every = [one for evidence in found for one in evidence.contrasts]
    compared = [one for one in every if isinstance(one.found, Comparison)]
    labels = [claims.method, *(label for one in compared for label in (one.a.label, one.b.label))]
    measures = [one.measure for one in compared]
    used = report.select(
        label=labels,
        task=[measure.task for measure in measures],
        metric=[measure.metric for measure in measures],
    )
    return Table(
        name="claims",
        title=f"Claims of the abstracts about {claims.method}, and what is measured here",
        caption=(
            "A claim is a set of contrasts, the method minus each competitor in each measure. Supported: all "
            f"were measured and all are above 0 (p Holm at most {SIGNIFICANT:.2f}, over the contrasts of the "
            "claim). Not supported: one that was measured is not, which does not show the opposite. Not "
            "testable here: otherwise. Of each measure the contrast with the lowest difference is shown; "
            "zero stands for a competitor where the measure is a difference itself."
        ),
        label_names=(
            *("Claim", "What it says", "Verdict", "Measured in"),
            *("Above 0 / measured / asked", "Strongest competitor"),
        ),
        columns=(
            Column("Difference", "", None),
            Column("p Holm", "", None, p_value=True),
        ),
        rows=tuple(rows),
        header=report.header(
            used,
            protocols_of(report, measures),
            error_bars(report, every, "the contrasts of a claim"),
            "test images or patches",
        ),
        notes=_notes(report, claims, found),
        named_by=1,
    )


def _labels(report: Report, evidence: Evidence, measure: Measure) -> tuple[str, ...]:
    claim, made = evidence.claim, evidence.of(measure)
    closest = _closest(made)
    shown = sum(one.shown for one in made)
    compared = sum(isinstance(one.found, Comparison) for one in made)
    return (
        claim.id,
        f"{claim.text} ({claim.abstract})",
        evidence.verdict,
        measure.title(report),
        f"{shown} / {compared} / {len(made)}",
        closest.b.label if closest else "none measured",
    )


def _closest(made: list[Contrast]) -> Contrast | None:
    compared = [one for one in made if isinstance(one.found, Comparison)]
    return min(compared, key=lambda one: one.difference().value or 0.0) if compared else None


def _cells(made: list[Contrast]) -> tuple[Cell, Cell]:
    closest = _closest(made)
    if closest is None:
        reasons = dict.fromkeys(str(one.found) for one in made)
        reason = Cell.absent(next(iter(reasons)) if len(reasons) == 1 else "no competitor was measured in it")
        return reason, reason
    return closest.difference(), closest.adjusted()


def _notes(report: Report, claims: Claims, found: list[Evidence]) -> tuple[str, ...]:
    """How many verdicts of each kind, and which competitors are missing."""
    counts = Counter(evidence.verdict for evidence in found)
    verdicts: tuple[Verdict, ...] = ("supported", "not supported", "not testable here")
    texts = [f"{len(found)} claims: " + ", ".join(f"{counts[kind]} {kind}" for kind in verdicts) + "."]
    compared = {one.b.label for e in found for one in e.contrasts if isinstance(one.found, Comparison)}
    asked = dict.fromkeys(one.b.label for e in found for one in e.contrasts if one.b != ZERO)
    if absent := [label for label in asked if label not in compared]:
        texts.append(f"Never compared, because nothing of them was measured here: {list_of(absent, 20)}.")
    pairs = [(one.a.label, one.b.label) for evidence in found for one in evidence.contrasts]
    if shorter := list(dict.fromkeys(part for own, part in pairs if own != claims.method)):
        settings = ", ".join(f"{key} {value}" for key, value in report.tier.variant_training.items())
        texts.append(
            f"Compared with {claims.method} trained with {settings}, as they are: {', '.join(shorter)}."
        )
    texts.append(
        f"{claims.method} is measured as this suite trains it, on the data named above; the verdicts are "
        "about these measurements, not about the publication's."
    )
    return tuple(texts)
