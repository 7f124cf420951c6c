"""Ablations of a method: which variants form which table is data, what they change is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import Field

from replication.config import load_recipes, reference_of, resolve
from replication.config_files import CONFIGS, Strict, merge, parse, read_yaml
from replication.errors import ConfigError, nearest
from replication.registry import method_class
from replication.reporting.contrasts import (
    Contrast,
    Measure,
    contrasts,
    error_bars,
    line,
    measured,
    protocols_of,
)
from replication.reporting.figures import COLOURS, new_figure
from replication.reporting.paired import Comparer, Comparison
from replication.reporting.report import Report
from replication.reporting.significance import SIGNIFICANT
from replication.reporting.tables import Cell, Column, Row, Table, list_of


class Family(Strict):
    """Variants of one table.

    Attributes:
        title: e.g. ``loss weights``. variants: name -> what it changes, in a few words.
    """

    title: str
    variants: dict[str, str] = Field(min_length=1)


class Ablations(Strict):
    """The ablations of a method.

    Attributes:
        method: stem. measures: what every variant is compared in.
        families: suffix of the table's name -> its variants.
    """

    method: str
    measures: tuple[Measure, ...] = Field(min_length=1)
    families: dict[str, Family] = Field(min_length=1)

    @property
    def variants(self) -> tuple[str, ...]:
        """Labels of all variants, each once, in order."""
        names = (name for family in self.families.values() for name in family.variants)
        return tuple(dict.fromkeys(f"{self.method}/{name}" for name in names))


def load_ablations(method: str = "medslip", folder: Path = CONFIGS / "ablations") -> Ablations:
    """The ablations of a method.

    Raises:
        ConfigError: unknown key, or a variant that the method's recipe file lacks.
    """
    path = folder / f"{method}.yaml"
    found = parse(Ablations, read_yaml(path), path)
    known = load_recipes(found.method).variants
    for suffix, family in found.families.items():
        for name in family.variants:
            if name not in known:
                raise ConfigError(
                    "Unknown variant.",
                    where=f"{path}, families.{suffix}.variants",
                    found=name,
                    allowed=f"a variant of recipes/{found.method}.yaml",
                    remedy=nearest(name, known),
                )
    return found


@dataclass(frozen=True)
class Effects:
    """The variants of one table, each compared with the full model.

    Attributes:
        suffix: of the table's name. lines: variant -> its contrasts, one per measure.
        full: variant -> label of the full model that it is compared with: the method, or the method trained
            as shortly.
        same: variants that the tier's settings make equal to the full model; they are not shown.
    """

    ablations: Ablations
    suffix: str
    lines: dict[str, tuple[Contrast, ...]]
    full: dict[str, str]
    same: tuple[str, ...]

    @property
    def family(self) -> Family:
        """What the table is about."""
        return self.ablations.families[self.suffix]


def effects(report: Report, comparer: Comparer, ablations: Ablations, suffix: str) -> Effects:
    """Each variant of a family minus the full model; p values adjusted over the variants of a measure."""
    same = same_as_full(report, ablations)
    family = ablations.families[suffix]
    names = [name for name in family.variants if name not in same]
    labels = {name: f"{ablations.method}/{name}" for name in names}
    full = {name: reference_of(report.tier, label) for name, label in labels.items()}
    pairs = [(line(report, labels[name]), line(report, full[name])) for name in names]
    columns = [contrasts(comparer, [(*pair, measure) for pair in pairs]) for measure in ablations.measures]
    lines = {name: tuple(column[i] for column in columns) for i, name in enumerate(names)}
    unchanged = tuple(name for name in family.variants if name in same)
    return Effects(ablations, suffix, lines, full, unchanged)


def same_as_full(report: Report, ablations: Ablations) -> frozenset[str]:
    """Variants whose runs would have the configuration that the tier gives to the full model anyway."""
    settings = method_class(ablations.method).settings_class
    full = resolve(report.tier, ablations.method, 0, settings_class=settings).model_dump()
    variants = load_recipes(ablations.method).variants
    names = [label.partition("/")[2] for label in ablations.variants]
    changes = {name: variants[name].model_dump(exclude={"weights"}) for name in names}
    return frozenset(name for name in names if merge(full, changes[name]) == full)


def ablation_table(report: Report, comparer: Comparer, found: Effects) -> Table:
    """``ablation_<family>``: a full model, then the variants compared with it and their differences."""
    ablations, family = found.ablations, found.family
    columns = [column for measure in ablations.measures for column in _columns(measure.title(report))]
    rows = []
    full_models = list(dict.fromkeys(found.full.values()))
    for label in full_models:
        own = [measured(comparer, line(report, label), measure) for measure in ablations.measures]
        cells = [cell for one in own for cell in (one, *_against_itself(one))]
        shorter = "" if label == ablations.method else f", trained with {_settings(report)}"
        rows.append(Row((label, f"the full model{shorter}"), tuple(cells), block=label))
        for name, made in found.lines.items():
            if found.full[name] == label:
                cells = [
                    cell
                    for one in made
                    for cell in (measured(comparer, one.a, one.measure), one.difference(), one.adjusted())
                ]
                rows.append(Row((name, family.variants[name]), tuple(cells), block=label))
    every = [one for made in found.lines.values() for one in made]
    shown = report.behind(rows)
    values = "values: mean over seeds ± sample standard deviation over seeds" if len(shown) else ""
    return Table(
        name=f"ablation_{found.suffix}",
        title=f"Ablations of {ablations.method}: {family.title}",
        caption=(
            f"One change at a time; everything else as in {list_of(full_models, 2)}. Difference: the variant "
            "minus the full model, means over the seeds that both have; below 0 the change costs something."
            f"{_length(report, [found])}"
        ),
        label_names=("Variant", "What it changes"),
        columns=tuple(columns),
        rows=tuple(rows),
        header=report.header(
            shown,
            protocols_of(report, ablations.measures),
            "; ".join(filter(None, [values, error_bars(report, every, "the variants of a column")])),
        ),
        notes=_notes(found),
        named_by=1,
    )


def _length(report: Report, found: Sequence[Effects]) -> str:
    """How variants are trained, where that is not as the method is."""
    models = {name: full for effect in found for name, full in effect.full.items()}
    shorter = [name for name, full in models.items() if full != found[0].ablations.method]
    if not shorter:
        return ""
    return (
        f" Trained with {_settings(report)} and compared with {models[shorter[0]]}: "
        f"{', '.join(shorter)}; all others are compared with {found[0].ablations.method}."
    )


def _settings(report: Report) -> str:
    return ", ".join(f"{key} {value}" for key, value in report.tier.variant_training.items())


def _against_itself(value: Cell) -> tuple[Cell, Cell]:
    """Difference and p of the full model: none by definition, or missing with its value."""
    if value.value is None:
        return value, value
    return Cell(0.0, rows=value.rows, runs=value.runs), Cell(1.0, rows=value.rows, runs=value.runs)


def _columns(group: str) -> tuple[Column, Column, Column]:
    return (
        Column("Value", group, True),
        Column("Difference", group, None),
        Column("p Holm", group, None, p_value=True),
    )


def _notes(found: Effects) -> tuple[str, ...]:
    if not found.same:
        return ()
    names = ", ".join(found.same)
    return (f"Not shown, because this tier trains the full model that way anyway: {names}.",)


def effects_figure(report: Report, found: Sequence[Effects]) -> tuple[Figure, str]:
    """``ablation_effects``: a forest plot of the differences to the full model, a panel per measure.

    Returns:
        The figure, and what its reader needs to know.
    """
    measures = found[0].ablations.measures
    shown: list[tuple[str, str, tuple[Contrast, ...]]] = []
    missing: list[str] = []
    for effect in found:
        for name, made in effect.lines.items():
            if any(isinstance(one.found, Comparison) for one in made):
                shown.append((effect.family.title, name, made))
            else:
                missing.append(name)
    height = 1.2 + 0.19 * max(4, len(shown) + len({title for title, _, _ in shown}))
    figure = new_figure(7.2, height)
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    if shown:
        places = _places([title for title, _, _ in shown])
        for column, (axes, measure) in enumerate(zip(panels, measures, strict=True)):
            _draw(axes, [made[column] for _, _, made in shown], places)
            title = measure.title(report).replace(", ", "\n").replace(" (", "\n(")
            axes.set_title(title, fontsize=7)
        panels[0].set_yticks(places, [name for _, name, _ in shown])
        panels[0].set_ylim(max(places) + 0.7, -0.7)
        panels[len(panels) // 2].set_xlabel("variant minus full model")
        handles = [
            Line2D([], [], color=COLOURS[0], marker="o", ls="none", label="told apart from the full model"),
            Line2D([], [], color="0.45", marker="o", mfc="white", ls="none", label="not told apart"),
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2)
    else:
        for axes in panels:
            axes.set_axis_off()
        figure.text(0.5, 0.6, "no variant of the tier has been run and evaluated", ha="center", color="0.4")
    text = (
        "What each change of the method does: the variant minus the full model, means over the seeds that "
        "both have, with 95 % intervals over seeds and test patients (test patients alone where there is one "
        f"seed). Filled: adjusted p (Holm, over the variants of a table) at most {SIGNIFICANT:.2f}."
    )
    text += _length(report, found)
    gaps = f" Not run, and not shown: {', '.join(dict.fromkeys(missing))}." if missing else ""
    return figure, text + gaps


def _places(titles: Sequence[str]) -> list[float]:
    """Heights of lines, with a gap between families."""
    places, place = [], 0.0
    for i, title in enumerate(titles):
        place += 0.0 if i == 0 else 1.0 if title == titles[i - 1] else 1.7
        places.append(place)
    return places


def _draw(axes: Axes, made: Sequence[Contrast], places: Sequence[float]) -> None:
    axes.axvline(0, color="0.6", lw=0.8)
    for one, place in zip(made, places, strict=True):
        cell = one.difference()
        if cell.value is None:
            continue
        told = one.p_value <= SIGNIFICANT
        colour = COLOURS[0] if told else "0.45"
        if cell.lower is not None and cell.upper is not None:
            axes.plot([cell.lower, cell.upper], [place, place], color=colour, lw=1.2)
        axes.plot(cell.value, place, "o", color=colour, mfc=colour if told else "white", ms=4)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=6.5)
    axes.locator_params(axis="x", nbins=4)
