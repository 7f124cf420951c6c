"""The audit as data: what it holds, and which mistakes in it are refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from replication.config import RunConfig, resolve
from replication.errors import ConfigError
from replication.knowledge.descriptions import DESCRIPTIONS
from replication.registry import method_class
from replication.reporting.audit import AUDITS, Audit, audited_methods, load_audit
from replication.tier_config import load_tier

Content = dict[str, Any]


@pytest.fixture(scope="module")
def audit() -> Audit:
    return load_audit()


def test_all_places_are_there(audit: Audit) -> None:
    assert len({entry.id for entry in audit.entries}) == 52
    assert Counter(entry.id[0] for entry in audit.entries) == {"G": 7, "Z": 8, "P": 21, "F": 16}
    assert all(entry.where and entry.what and entry.why for entry in audit.entries)


@pytest.mark.parametrize("method", audited_methods())
def test_the_places_are_those_of_the_specification(shared: Path, method: str) -> None:
    text = (shared / "specs" / f"{method}.md").read_text()
    listed = re.findall(r"^\| ([GZPFKVA]\d+) \|", text, re.MULTILINE)
    entries = load_audit(method).entries
    assert [entry.id for entry in entries] == listed
    assert all(entry.where and entry.what and entry.why for entry in entries)


ONLY_IN_EVALUATION = ("grounding", "fibrosis", "grounding_concepts", "text_temperature", "mode", "questions")


@pytest.mark.parametrize(("method", "inferences"), [("medslip", 4), ("medklip", 1), ("mavl", 2), ("kad", 0)])
def test_what_needs_only_inference_shares_the_weights(method: str, inferences: int) -> None:
    """A variant that is marked so differs from the method in nothing that training depends on."""
    audit = load_audit(method)
    tier, settings = load_tier("phantom"), method_class(method).settings_class

    def resolved(label: str) -> RunConfig:
        return resolve(tier, label, 0, recipe=audit.recipe, settings_class=settings)

    def made(label: str) -> Content:
        config = resolved(label).model_dump()
        for key in ONLY_IN_EVALUATION:
            config["model"].pop(key, None)
        return {key: value for key, value in config.items() if key not in ("variant", "weights")}

    assert len(audit.variants("weights")) == inferences
    for label in audit.variants("weights"):
        assert made(label) == made(method)
        assert resolved(label).weights == "default"
    assert all(made(label) != made(method) for label in audit.variants("training"))


def test_every_audit_has_a_table_of_its_own() -> None:
    tables = [load_audit(method).table for method in audited_methods()]
    assert sorted(tables) == ["audit", "audit_kad", "audit_mavl", "audit_medklip"]


def test_no_needed_variant_is_named_twice(audit: Audit) -> None:
    labels = audit.variants("training")
    assert len(labels) == len(set(labels)) == 15
    assert "medslip" not in labels
    assert audit.variants("predictions") == audit.variants("transfer") == []


def test_the_own_descriptions_do_not_show_what_the_released_ones_do() -> None:
    """Z6 and Z7 say so: none of a class is near 64 tokens, none has the characters that got lost."""
    assert max(len(re.findall(r"\w+|[^\w\s]", text)) for text in DESCRIPTIONS.values()) <= 48
    assert not set("“”‘’–—") & set("".join(DESCRIPTIONS.values()))


def changed(folder: Path, change: Callable[[Content, dict[str, Content]], None]) -> Path:
    content = yaml.safe_load((AUDITS / "medslip.yaml").read_text())
    # Merge keys leave shared objects behind; a change must stay in its place.
    content = yaml.safe_load(yaml.dump(content, Dumper=_Plain))
    change(content, {entry["id"]: entry for entry in content["entries"]})
    (folder / "medslip.yaml").write_text(yaml.dump(content))
    return folder


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def drop(content: Content, _: Any) -> None:
    content["entries"].pop()


def twice(content: Content, entries: dict[str, Content]) -> None:
    entries["P2"]["id"] = "P1"


def both(content: Content, entries: dict[str, Content]) -> None:
    entries["P1"]["unmeasured"] = {"kind": "crash", "reason": "x"}


def neither(content: Content, entries: dict[str, Content]) -> None:
    del entries["F1"]["unmeasured"]


def kind(content: Content, entries: dict[str, Content]) -> None:
    entries["F1"]["unmeasured"]["kind"] = "crashed"


def root(content: Content, entries: dict[str, Content]) -> None:
    entries["P1"]["switches"][0]["path"] = "models.share_decoder_norm"


def setting(content: Content, entries: dict[str, Content]) -> None:
    entries["P1"]["switches"][0]["path"] = "model.share_decoder_norms"


def value(content: Content, entries: dict[str, Content]) -> None:
    entries["G6"]["switches"][0]["faithful"] = "any_cell"


def kind_of_value(content: Content, entries: dict[str, Content]) -> None:
    entries["P1"]["switches"][0]["faithful"] = "true"


def variant(content: Content, entries: dict[str, Content]) -> None:
    entries["P1"]["measured"][0]["faithful"]["label"] = "medslip/shared-norms"


def other_method(content: Content, entries: dict[str, Content]) -> None:
    entries["P1"]["measured"][0]["corrected"]["label"] = "medklip"


def same_side(content: Content, entries: dict[str, Content]) -> None:
    entries["P1"]["measured"][0]["faithful"]["label"] = "medslip"


def swapped(content: Content, entries: dict[str, Content]) -> None:
    entries["Z2"]["measured"][0]["corrected"]["label"] = "medslip"


def unknown_key(content: Content, entries: dict[str, Content]) -> None:
    entries["F1"]["wher"] = "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"is missing[\s\S]*51 entries[\s\S]*52 entries"),
        (twice, r"there twice[\s\S]*P1"),
        (both, r"P1 is either measured or says why not"),
        (neither, r"F1 is either measured or says why not"),
        (kind, r"Unknown kind[\s\S]*entry F1[\s\S]*did you mean 'crash'"),
        (root, r"root of a setting[\s\S]*entry P1[\s\S]*did you mean 'model'"),
        (setting, r"does not fit[\s\S]*entry P1[\s\S]*share_decoder_norms[\s\S]*MeDSLIPSettings"),
        (value, r"does not fit[\s\S]*entry G6[\s\S]*any_cell[\s\S]*cell_centre"),
        (kind_of_value, r"another type[\s\S]*entry P1"),
        (variant, r"Unknown variant[\s\S]*entry P1[\s\S]*did you mean 'shared-norm'"),
        (other_method, r"another method[\s\S]*entry P1[\s\S]*medklip"),
        (same_side, r"another value than its switch[\s\S]*entry P1, medslip[\s\S]*share_decoder_norm: False"),
        (swapped, r"another value than its switch[\s\S]*entry Z2, medslip[\s\S]*fibrosis: tail"),
        (unknown_key, r"Unknown configuration key[\s\S]*wher"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_mistake_is_refused(
    tmp_path: Path, change: Callable[[Content, dict[str, Content]], None], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_audit(folder=changed(tmp_path, change))
    assert str(tmp_path / "medslip.yaml") in str(caught.value.where)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such"):
        load_audit("medklip", tmp_path)
