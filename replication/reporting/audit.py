"""The audit of a method's released code, as data: what happens where, and which two sides would show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from replication.config import RunConfig, resolve
from replication.config_files import Strict, parse, read_yaml
from replication.errors import ConfigError, nearest
from replication.knowledge.radgraph import RadGraphSettings
from replication.metrics import ThresholdGoal, ThresholdOp
from replication.network_config import TrunkConfig
from replication.registry import method_class
from replication.tasks.zero_shot_grounding import GroundingRules
from replication.tier_config import load_tier
from replication.training_config import TrainingConfig
from replication.transfer_config import TransferConfig

AUDITS = Path(__file__).resolve().parents[1] / "audit"
"""One YAML file per audited method."""

Need = Literal["training", "weights", "predictions", "transfer"]


class ClassificationRules(Strict):
    """How stored scores become F1 and accuracy.

    Attributes:
        threshold_source: the split whose labels choose the threshold. threshold_op: whether it counts itself.
        threshold_goal: what it maximises.
        label_columns: labels by the finding's name, or, for the protocol's findings in turn, those of a table
            whose columns are in alphabetical order (audit Z1).
    """

    threshold_source: Literal["val", "test"] = "val"
    threshold_op: ThresholdOp = "ge"
    threshold_goal: ThresholdGoal = "f1"
    label_columns: Literal["by_name", "alphabetical_by_position"] = "by_name"


class Switch(Strict):
    """A setting with the value that reproduces the released code, and the one of this suite.

    Attributes:
        path: root and keys, such as ``model.loss.icl_scale``.
    """

    path: str
    faithful: Any
    corrected: Any

    @property
    def words(self) -> str:
        """``loss.icl_scale: one | 1/sqrt(d)``, without the root of settings of the model."""
        faithful, corrected = (_word(value) for value in self)
        values = faithful if faithful == corrected else f"{faithful} | {corrected}"
        return f"{self.path.removeprefix('model.')}: {values}"

    def __iter__(self) -> Any:
        """The two values."""
        return iter((self.faithful, self.corrected))


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class Side(Strict):
    """One of the two sides.

    Attributes:
        label: a method or variant. task, metric: where they differ from those of the measurement.
    """

    label: str
    task: str | None = None
    metric: str | None = None


class Measure(Strict):
    """What shows the difference.

    Attributes:
        needs: what it costs beside the method's own runs: ``training`` of the other side, inference with the
            same ``weights``, nothing but stored ``predictions``, or a form of a ``transfer`` task.
        dataset: the tier's protocol of it is taken.
        finding: ``None`` is the mean, or the only one.
    """

    needs: Need
    task: str
    dataset: str
    metric: str
    finding: str | None = None
    label_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    faithful: Side
    corrected: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Faithful, corrected."""
        return self.faithful, self.corrected


class Unmeasured(Strict):
    """Why nothing is measured: a kind of the file, and the reason in this case."""

    kind: str
    reason: str


class Entry(Strict):
    """One place of the released code.

    Attributes:
        where: file and lines. what: happens there. why: it matters.
        switches: none where the suite has no such setting.
    """

    id: str
    where: str
    what: str
    why: str
    switches: tuple[Switch, ...] = ()
    measured: tuple[Measure, ...] = ()
    unmeasured: Unmeasured | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.measured) == bool(self.unmeasured):
            raise ValueError(f"entry {self.id} is either measured or says why not")
        return self


class Audit(Strict):
    """A method's audit.

    Attributes:
        method: stem. table: name of its table. recipe: of the runs that are compared.
        released: what was audited.
        folders: abbreviations in ``where``. kinds: of reasons why nothing is measured.
        count: of the entries, so that none gets lost.
    """

    version: Literal[1]
    method: str
    table: str
    recipe: str
    count: int
    released: str
    folders: dict[str, str]
    kinds: dict[str, str]
    entries: tuple[Entry, ...]

    def variants(self, needs: Need) -> list[str]:
        """The variants whose numbers the measurements of one need ask for, in order and without repeats."""
        sides = (
            side for entry in self.entries for m in entry.measured if m.needs == needs for side in m.sides
        )
        return list(dict.fromkeys(side.label for side in sides if side.label != self.method))


def audited_methods(folder: Path = AUDITS) -> list[str]:
    """Methods with an audit, by name."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_audit(method: str = "medslip", folder: Path = AUDITS) -> Audit:
    """The audit of a method.

    Raises:
        ConfigError: names file, entry and key: an unknown key, an entry twice or missing, a variant that the
            recipe file lacks, a setting that does not exist or does not take the value, or a side whose
            configuration has another value than the switch says.
    """
    path = folder / f"{method}.yaml"
    audit = parse(Audit, read_yaml(path), path)
    twice = [name for name, count in Counter(entry.id for entry in audit.entries).items() if count > 1]
    if twice or len(audit.entries) != audit.count:
        raise ConfigError(
            "An entry of the audit is there twice." if twice else "An entry of the audit is missing.",
            where=f"{path}, entries",
            found=", ".join(twice) or f"{len(audit.entries)} entries",
            allowed=f"{audit.count} entries, each with an id of its own",
            remedy="correct the ids, or count",
        )
    roots = _roots(audit)
    configs: dict[str, RunConfig] = {}
    for entry in audit.entries:
        where = f"{path}, entry {entry.id}"
        if entry.unmeasured:
            _check_known(entry.unmeasured.kind, audit.kinds, "kind", f"{where}, unmeasured.kind")
        for switch in entry.switches:
            for value in switch:
                _check_setting(roots, switch.path, value, f"{where}, switches")
        for measure in entry.measured:
            for side in measure.sides:
                if side.label not in configs:
                    configs[side.label] = _resolved(audit, side.label, where)
            if measure.needs in ("training", "weights"):
                _check_sides(entry, measure, configs, where)
    return audit


def _roots(audit: Audit) -> Mapping[str, type]:
    return {
        "model": method_class(audit.method).settings_class,
        "training": TrainingConfig,
        "trunk": TrunkConfig,
        "radgraph": RadGraphSettings,
        "transfer": TransferConfig,
        "grounding_rules": GroundingRules,
        "classification_rules": ClassificationRules,
    }


def _check_known(found: str, known: Iterable[str], what: str, where: str) -> None:
    if found not in known:
        raise ConfigError(f"Unknown {what}.", where=where, found=found, remedy=nearest(found, known))


def _check_setting(roots: Mapping[str, type], path: str, value: Any, where: str) -> None:
    """The setting exists and takes the value."""
    root, *keys = path.split(".")
    _check_known(root, roots, "root of a setting", where)
    nested = value
    for key in reversed(keys):
        nested = {key: nested}
    try:
        made: Any = TypeAdapter(roots[root]).validate_python(nested)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            "A switch of the audit does not fit the settings.",
            where=where,
            found=f"{path}: {value}",
            allowed=first["msg"],
            remedy=f"settings are those of {roots[root].__name__}",
        ) from error
    taken = made
    for key in keys:
        taken = getattr(taken, key)
    if _as_in_yaml(taken) != value:
        raise ConfigError(
            "A switch has another type than its setting.", where=where, found=f"{path}: {value!r}"
        )


def _as_in_yaml(value: Any) -> Any:
    """YAML has lists where settings have tuples."""
    return list(value) if isinstance(value, tuple) else value


def _resolved(audit: Audit, label: str, where: str) -> RunConfig:
    """The configuration of a side's runs, settings that a tier may fix being those of the phantom."""
    if label.partition("/")[0] != audit.method:
        raise ConfigError("A side is of another method.", where=where, found=label, allowed=audit.method)
    try:
        return resolve(
            load_tier("phantom"),
            label,
            0,
            recipe=audit.recipe,
            settings_class=method_class(audit.method).settings_class,
        )
    except ConfigError as error:
        raise ConfigError(
            f"A side of the audit cannot be run: {error.problem}",
            where=where,
            found=error.found,
            remedy=error.remedy,
        ) from error


def _check_sides(entry: Entry, measure: Measure, configs: Mapping[str, RunConfig], where: str) -> None:
    """Each side's configuration has the values of its side of the switches."""
    for switch in entry.switches:
        for side, value in zip(measure.sides, switch, strict=True):
            found: Any = configs[side.label]
            for key in switch.path.split("."):
                found = getattr(found, key) if isinstance(found, BaseModel) else found[key]
            if _as_in_yaml(found) != value:
                raise ConfigError(
                    "A side of the audit has another value than its switch.",
                    where=f"{where}, {side.label}",
                    found=f"{switch.path}: {found}",
                    allowed=value,
                    remedy="name a variant that sets it",
                )
