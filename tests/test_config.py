from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from replication.config import Recipe, RunConfig, Variant, load_recipes, reference_of, resolve
from replication.config_files import CONFIGS, derived_seed, digest, merge, parse
from replication.errors import ConfigError
from replication.protocol_config import load_protocol, protocol_ids
from replication.registry import METHODS, method_class, names
from replication.tier_config import TierConfig, load_tier

TIERS = [path.stem for path in sorted((CONFIGS / "tiers").glob("*.yaml"))]


class TwoSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    d_model: int = 256
    gate: str = "linear"


@pytest.mark.parametrize("tier", TIERS)
def test_every_run_of_every_tier_resolves(tier: str) -> None:
    config = load_tier(tier)
    for label in (*config.methods, *config.variants):
        method = method_class(label.partition("/")[0])
        for seed in config.seeds:
            resolved = resolve(config, label, seed, settings_class=method.settings_class)
            assert method.settings_class.model_validate(resolved.model)


@pytest.mark.parametrize("method", names(METHODS))
def test_every_recipe_and_variant_is_valid(method: str) -> None:
    file = load_recipes(method)
    assert {"published", "matched"} <= set(file.recipes)
    settings = method_class(method).settings_class
    for recipe in file.recipes.values():
        settings.model_validate(recipe.model)
        assert recipe.source
        for variant in file.variants.values():
            assert variant.weights in {"own", "default", *file.variants}
            merged = Recipe.model_validate(
                merge(recipe.model_dump(), variant.model_dump(exclude={"weights"}))
            )
            settings.model_validate(merged.model)


@pytest.mark.parametrize("protocol_id", protocol_ids())
def test_protocol_files_hold_the_id_of_their_name(protocol_id: str) -> None:
    protocol = load_protocol(protocol_id)
    assert protocol.id == protocol_id
    assert len({finding.name for finding in protocol.findings}) == len(protocol.findings)


def test_equal_configurations_share_a_run_and_unequal_ones_do_not() -> None:
    base = RunConfig(method="m", recipe="matched", tier="smoke", seed=0, model={"a": 1, "b": 2})
    same = RunConfig(method="m", recipe="matched", tier="smoke", seed=0, model={"b": 2, "a": 1})
    other = base.model_copy(update={"seed": 1})
    assert base.run_id == same.run_id
    assert base.run_id != other.run_id


def test_unknown_key_names_file_and_nearest(tmp_path: Path) -> None:
    values = yaml.safe_load((CONFIGS / "tiers" / "smoke.yaml").read_text())
    values["sedes"] = [1]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"(?s)sedes.*mine\.yaml.*did you mean 'seeds'"):
        load_tier(str(path))


def test_bad_value_names_key_and_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"(?s)last_stage.*here.*7.*allowed"):
        parse(
            RunConfig,
            {"method": "m", "recipe": "r", "tier": "t", "seed": 0, "trunk": {"last_stage": 7}},
            "here",
        )


def test_unknown_tier_and_method_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'phantom'"):
        load_tier("fantom")
    with pytest.raises(ConfigError, match="did you mean 'medslip'"):
        method_class("medslp")


def test_a_variant_overrides_what_the_tier_fixes(monkeypatch: pytest.MonkeyPatch) -> None:
    tier = load_tier("smoke")
    file = load_recipes("medslip")
    assert "decoder_layers" in tier.scale
    deeper = file.model_copy(update={"variants": {"deep": Variant(model={"decoder_layers": 5})}})
    monkeypatch.setattr("replication.config.load_recipes", lambda method: deeper)
    settings = method_class("medslip").settings_class
    assert (
        resolve(tier, "medslip", 0, settings_class=settings).model["decoder_layers"]
        == tier.scale["decoder_layers"]
    )
    assert resolve(tier, "medslip/deep", 0, settings_class=settings).model["decoder_layers"] == 5


def test_a_tier_may_train_variants_and_their_reference_otherwise_than_methods() -> None:
    plain = load_tier("smoke")
    tier = plain.model_copy(update={"variant_training": {"epochs": 1}})
    settings = method_class("medslip").settings_class

    def epochs(label: str) -> int:
        return resolve(tier, label, 0, settings_class=settings).training.epochs

    assert plain.training["epochs"] == epochs("medslip") == epochs("medslip/random-grounding-query") == 2
    assert epochs("medslip/no-protocl") == epochs("medslip/reference") == 1
    assert reference_of(tier, "medslip/no-protocl") == "medslip/reference"
    assert reference_of(tier, "medslip/random-grounding-query") == "medslip"
    assert reference_of(plain, "medslip/no-protocl") == "medslip"
    tier = tier.model_copy(update={"variants_in_full": ("medslip/no-protocl",)})
    assert epochs("medslip/no-protocl") == 2
    assert epochs("medslip/no-icl") == 1
    assert reference_of(tier, "medslip/no-protocl") == "medslip"
    assert reference_of(tier, "medslip/no-icl") == "medslip/reference"


def test_variants_in_full_are_variants_of_the_tier(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    tier = load_tier("smoke").model_dump(mode="json")
    path.write_text(yaml.safe_dump({**tier, "variants_in_full": ["medslip/no-such"]}))
    with pytest.raises(ConfigError, match="'medslip/no-such' is not among the tier's variants"):
        load_tier(str(path))


def test_tier_scale_reaches_only_settings_that_exist() -> None:
    tier = load_tier("smoke").model_copy(update={"scale": {"d_model": 8, "no_such_setting": 1}})
    resolved = resolve(tier, "medslip", 0, settings_class=method_class("medslip").settings_class)
    assert resolved.model["d_model"] == 8
    assert "no_such_setting" not in resolved.model


def test_derived_seeds_depend_on_every_part() -> None:
    assert derived_seed("a", 1) == derived_seed("a", 1)
    assert (
        len({derived_seed("a", 1), derived_seed("a", 2), derived_seed("b", 1), derived_seed("a", "1x")}) == 4
    )


def test_digest_is_stable() -> None:
    """The digest names run folders on disk: if this fails, old runs would silently be trained again."""
    assert digest(TwoSettings()).startswith("d8a1eecf0840")


def test_tier_is_immutable() -> None:
    tier: TierConfig = load_tier("smoke")
    with pytest.raises(ValueError, match="frozen"):
        tier.seeds = (1,)  # type: ignore[misc]
