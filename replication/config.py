"""Typed configuration: tiers, recipes and protocols, and the resolved configuration that names a run.

A recipe says how a method is trained, a tier says where and how large. ``resolve`` merges the two into
one ``RunConfig``; the hash of its canonical JSON is the run's id, so equal configurations share a run.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from replication.errors import ConfigError, nearest
from replication.training_config import AugmentationConfig as AugmentationConfig
from replication.training_config import OptimiserConfig as OptimiserConfig
from replication.training_config import Strict as Strict
from replication.training_config import TrainingConfig as TrainingConfig
from replication.transfer_config import TransferConfig as TransferConfig

CONFIGS = Path(__file__).parent / "configs"


class TrunkConfig(Strict):
    """The image trunk: a ResNet cut after ``last_stage``, or CLIP's vision transformer.

    Attributes:
        architecture: torchvision's name; ``clip-resnet50`` and ``clip-vit-b32`` are CLIP's image towers.
        width: channels of the first stage; of a head in the vision transformer. 64 is the published network.
        last_stage: 3 gives a grid of H/16 (the released code of MeDSLIP and MedKLIP), 4 gives H/32; the
            vision transformer has no stages.
        weights: ``random``, or weights by name (torchvision's, e.g. ``IMAGENET1K_V1``; ``OPENAI`` for CLIP's
            towers), or a local file.
    """

    architecture: Literal["resnet18", "resnet34", "resnet50", "clip-resnet50", "clip-vit-b32"] = "resnet50"
    width: int = 64
    last_stage: Literal[3, 4] = 3
    weights: str = "random"


class TextConfig(Strict):
    """The text encoder.

    Attributes:
        kind: ``tiny-bert`` is trained in the pipeline on the pre-training reports; ``pretrained`` is loaded.
        name_or_path: Hugging Face id or folder (for ``pretrained``).
        descriptions: ``own`` texts of the 75 pathologies, or the path of the official JSON file.
        hidden, layers, heads, vocabulary_size, epochs, seed: of the tiny BERT.
    """

    kind: Literal["tiny-bert", "pretrained"] = "pretrained"
    name_or_path: str = "emilyalsentzer/Bio_ClinicalBERT"
    descriptions: str = "own"
    hidden: int = 128
    layers: int = 2
    heads: int = 2
    vocabulary_size: int = 2000
    epochs: int = 5
    seed: int = 0


class RunConfig(Strict):
    """Everything that decides the numbers of one pre-training run. Its hash is the run's id.

    Attributes:
        weights: the variant of the method whose weights it has: its own, or those of another one, from which
            it then differs in evaluation alone and is not trained.
    """

    method: str
    variant: str = "default"
    weights: str = "own"
    recipe: str
    tier: str
    seed: int
    dataset: str = "mimic-cxr"
    image_size: int = 224
    model: dict[str, Any] = Field(default_factory=dict)
    trunk: TrunkConfig = TrunkConfig()
    text: TextConfig = TextConfig()
    training: TrainingConfig = TrainingConfig()
    data_fingerprint: str = ""

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        return digest(self)[:12]

    @property
    def label(self) -> str:
        """``medslip`` or ``medslip/no-protocl``."""
        return self.method if self.variant == "default" else f"{self.method}/{self.variant}"

    @property
    def trained_as(self) -> str:
        """Label of the run that its weights are trained in."""
        if self.weights == "own":
            return self.label
        return self.method if self.weights == "default" else f"{self.method}/{self.weights}"


class ProtocolFinding(Strict):
    """One label of a protocol.

    Attributes:
        name: key of the finding. column: the data set's own name of the label.
        pathology: class of the 75-pathology vocabulary it is scored with; ``null`` where there is none.
        text: plain words, for prompts.
    """

    name: str
    column: str
    text: str
    pathology: str | None = None


class Protocol(Strict):
    """Data set + named split + label mapping + preprocessing + metric rules, with a version.

    Attributes:
        id: e.g. ``nih-cxr14/official-25596/v1``.
        split: name of the split rule of the reader, e.g. ``official``, ``patient-seeded``.
        equalize: whether images are histogram-equalised on reading (the released RSNA reading).
        counts: expected images per split; enforced by ``replicate data verify`` and before scoring.
        threshold_source: which split's labels choose the F1 threshold.
        leaks: whether the split puts images of one patient on both sides, as published; then it
            is scored on request only.
        source: where the split and the mapping come from, and what of it is not known.
    """

    id: str
    dataset: str
    split: str
    description: str
    findings: tuple[ProtocolFinding, ...]
    tasks: tuple[str, ...]
    equalize: bool = False
    grounding: Literal["none", "boxes", "masks"] = "none"
    threshold_source: Literal["val", "test"] = "val"
    counts: dict[str, int] | None = None
    leaks: bool = False
    source: str = ""

    @property
    def slug(self) -> str:
        """The id with ``--`` for ``/``, for file names."""
        return self.id.replace("/", "--")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides numbers; prose, the list of tasks and the warning of a leak do not."""
        values = self.model_dump(mode="json", exclude={"leaks"})
        return digest_of({**values, "description": "", "source": "", "tasks": []})


class PhantomSize(Strict):
    """How many phantom patients each data set gets."""

    seed: int = 20240315
    image_size: int = 128
    patients: dict[str, int]


class SearchConfig(Strict):
    """The trials that every method gets before a tier compares methods.

    Attributes:
        learning_rates: tried one by one, the same for all methods.
        epochs: length of a trial. seed: of all trials; none of the tier's own seeds.
        protocol: trials are judged by the mean zero-shot AUC on its validation images.
    """

    learning_rates: tuple[float, ...]
    epochs: int
    seed: int
    protocol: str


class TierConfig(Strict):
    """Where and how large a replication runs.

    Attributes:
        phantom: sizes of the generated data; ``null`` where real data are expected.
        image_size: side in pixels of the cache and the network's input.
        scale: model settings that the tier fixes for every method that has a setting of that name.
        training: training settings that the tier fixes for every method (merged over the recipe's).
        search: the trials that ``tuned`` is chosen by.
        tuned: training settings of single methods, chosen for this tier on validation data.
        variant_training: training settings of variants that have weights of their own, e.g. fewer epochs;
            they are then compared with ``reference``, the method itself under the same settings.
        variants_in_full: variants that are trained and evaluated as methods are all the same, and compared
            with the method; transfer is not asked of them.
        seeds, methods, recipe, variants: the grid of runs; a variant is written ``medslip/no-protocl``.
        pretrain: data set of pre-training. protocols: ids of what is evaluated.
        variant_protocols: those that variants are evaluated under; empty takes all.
        transfer: the tasks that learn from labels; ``null`` where the tier has none.
        threads: torch threads per job.
        notebooks: which notebooks are executed.
    """

    name: str
    description: str
    image_size: int
    pretrain: str = "mimic-cxr"
    phantom: PhantomSize | None = None
    trunk: TrunkConfig | None = None
    text: TextConfig = TextConfig()
    scale: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    search: SearchConfig | None = None
    tuned: dict[str, dict[str, Any]] = Field(default_factory=dict)
    variant_training: dict[str, Any] = Field(default_factory=dict)
    recipe: str = "published"
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...]
    variants: tuple[str, ...] = ()
    variants_in_full: tuple[str, ...] = ()
    protocols: tuple[str, ...]
    variant_protocols: tuple[str, ...] = ()
    transfer: TransferConfig | None = None
    threads: int = 1
    evaluation_batch_size: int = 128
    bootstrap: int = 1000
    notebooks: tuple[str, ...]

    @field_validator("variants_in_full")
    @classmethod
    def _are_variants(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for label in labels:
            if label not in info.data.get("variants", ()):
                raise ValueError(f"{label!r} is not among the tier's variants")
        return labels

    def trains_shorter(self, label: str) -> bool:
        """Whether a variant with weights of its own is trained by ``variant_training``."""
        return bool(self.variant_training) and label not in self.variants_in_full


class Recipe(Strict):
    """How one method is trained; one file per method holds ``published`` and ``matched`` and its variants.

    Attributes:
        text: the text encoder of the publication; ``None`` is the tier's. A tier that trains its own text
            encoder gives it to every method.
    """

    source: str
    model: dict[str, Any] = Field(default_factory=dict)
    trunk: TrunkConfig = TrunkConfig()
    text: TextConfig | None = None
    training: TrainingConfig = TrainingConfig()
    image_size: int = 224


class Variant(Strict):
    """What a variant of a method overrides in every recipe.

    Attributes:
        weights: ``own``, or the variant whose weights it is evaluated with (``default`` is the method
            itself); it then must not differ in anything that training depends on.
    """

    weights: str = "own"
    model: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)


class RecipeFile(Strict):
    """A method's YAML: its recipes and its variants."""

    method: str
    recipes: dict[str, Recipe]
    variants: dict[str, Variant] = Field(default_factory=dict)


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], values: Any, where: str | Path) -> Model:
    """Validate plain values against a typed model.

    Raises:
        ConfigError: names the file, the key, the value found and the nearest allowed key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        remedy = (
            nearest(str(first["loc"][-1]), model.model_fields) if unknown and len(first["loc"]) == 1 else None
        )
        raise ConfigError(
            f"Unknown configuration key {key!r}." if unknown else f"Bad value for {key!r}.",
            where=where,
            found=first.get("input"),
            allowed=None if unknown else first["msg"],
            remedy=remedy,
        ) from error


def read_yaml(path: Path) -> Any:
    """Plain values of a YAML file.

    Raises:
        ConfigError: the file is missing or is no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = [p.stem for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(
            "No such configuration file.", where=path, remedy=nearest(path.stem, known)
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError("Not readable as YAML.", where=path, found=error) from error


def load_tier(name_or_path: str) -> TierConfig:
    """A tier by name, or from a YAML file of the user's own."""
    path = (
        Path(name_or_path)
        if name_or_path.endswith((".yaml", ".yml"))
        else CONFIGS / "tiers" / f"{name_or_path}.yaml"
    )
    return parse(TierConfig, read_yaml(path), path)


def load_recipes(method: str, folder: Path = CONFIGS / "recipes") -> RecipeFile:
    """The recipe file of a method."""
    path = folder / f"{method}.yaml"
    return parse(RecipeFile, read_yaml(path), path)


def protocol_path(protocol_id: str) -> Path:
    """The file of a protocol: its id with ``--`` for ``/``."""
    return CONFIGS / "protocols" / f"{protocol_id.replace('/', '--')}.yaml"


def load_protocol(protocol_id: str) -> Protocol:
    """A protocol by id.

    Raises:
        ConfigError: no such protocol, or the id in the file is another one.
    """
    path = protocol_path(protocol_id)
    protocol = parse(Protocol, read_yaml(path), path)
    if protocol.id != protocol_id:
        raise ConfigError(
            "A protocol file holds another id.", where=path, found=protocol.id, allowed=protocol_id
        )
    return protocol


def protocol_ids() -> list[str]:
    """All protocols that come with the suite."""
    return sorted(path.stem.replace("--", "/") for path in (CONFIGS / "protocols").glob("*.yaml"))


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Recursive merge; ``over`` wins."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def resolve(
    tier: TierConfig,
    label: str,
    seed: int,
    *,
    recipe: str | None = None,
    settings_class: type[BaseModel],
    data_fingerprint: str = "",
) -> RunConfig:
    """The full configuration of one run: recipe, over it what the tier fixes for all, over it the variant.

    Args:
        label: ``medslip`` or ``medslip/no-protocl``.
        settings_class: the method's own settings; the model part is validated and completed with it.

    Raises:
        ConfigError: unknown recipe, variant or key.
    """
    method, _, variant = label.partition("/")
    file = load_recipes(method)
    name = recipe or tier.recipe
    if name not in file.recipes:
        raise ConfigError(
            "Unknown recipe.", where=f"recipes/{method}.yaml", found=name, remedy=nearest(name, file.recipes)
        )
    base = file.recipes[name].model_dump()
    fixed = {key: value for key, value in tier.scale.items() if key in settings_class.model_fields}
    training = merge(tier.training, tier.tuned.get(method, {}))
    base = merge(base, {"model": fixed, "training": training})
    weights = "own"
    if variant:
        if variant not in file.variants:
            raise ConfigError(
                "Unknown variant.",
                where=f"recipes/{method}.yaml",
                found=variant,
                remedy=nearest(variant, file.variants),
            )
        overrides = file.variants[variant].model_dump()
        weights = overrides.pop("weights")
        if weights != "default" and tier.trains_shorter(label):
            base = merge(base, {"training": tier.variant_training})
        base = merge(base, overrides)
    model = parse(settings_class, base["model"], f"recipes/{method}.yaml: {label}, model")
    own_text = base["text"] if tier.text.kind == "pretrained" else None
    return parse(
        RunConfig,
        {
            "method": method,
            "variant": variant or "default",
            "weights": weights,
            "recipe": name,
            "tier": tier.name,
            "seed": seed,
            "dataset": tier.pretrain,
            "image_size": tier.image_size,
            "model": model.model_dump(mode="json"),
            "trunk": (tier.trunk or TrunkConfig.model_validate(base["trunk"])).model_dump(),
            "text": own_text or tier.text.model_dump(),
            "training": base["training"],
            "data_fingerprint": data_fingerprint,
        },
        f"recipes/{method}.yaml: {label}",
    )


REFERENCE = "reference"
"""The variant that changes nothing: the method itself, trained as a tier trains its variants."""


def reference_of(tier: TierConfig, label: str) -> str:
    """What a variant of a tier differs from in its one change: the method, or its ``reference``.

    Args:
        label: of a variant, e.g. ``medslip/no-protocl``.
    """
    method, _, variant = label.partition("/")
    shares_weights = load_recipes(method).variants[variant].weights == "default"
    return f"{method}/{REFERENCE}" if tier.trains_shorter(label) and not shares_weights else method


def canonical_json(model: BaseModel) -> str:
    """JSON with sorted keys and no white space: the same text for equal configurations."""
    return _canonical(model.model_dump(mode="json"))


def digest(model: BaseModel) -> str:
    """SHA-256 of the canonical JSON, hexadecimal."""
    return digest_of(model.model_dump(mode="json"))


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of plain values, hexadecimal."""
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def derived_seed(*parts: str | int) -> int:
    """A 32-bit seed from a key, so that adding a method or a seed changes no other run."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:4], "big")
