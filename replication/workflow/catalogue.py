"""What ``replicate list`` can list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replication.config import load_recipes
from replication.config_files import CONFIGS
from replication.protocol_config import load_protocol, protocol_ids
from replication.registry import DATASETS, METHODS, dataset_reader, method_class, names
from replication.tier_config import load_tier

TASKS = {
    "zero_shot_classification": "is the finding there? scored by prompts or queries, nothing is fitted",
    "zero_shot_grounding": "where is it? heat maps against boxes or masks, nothing is fitted",
    "zero_shot_relations": "in which anatomy and on which side? scores of (anatomy, pathology) pairs",
    "disentanglement": "what does each stream know? linear probes for finding, anatomy and side, by image",
    "disentanglement_patches": "the same by patch, for finding and region; needs a phantom's exact masks",
    "retrieval": "which report belongs to an image, which image to a report? nothing is fitted",
    "linear_probe": "is the finding there? logistic regression on the frozen trunk, by share of labels",
    "finetune_classification": "is the finding there? trunk and head trained, by share of labels",
    "finetune_segmentation": "where is it? trunk and U-Net decoder trained, by share of labels",
    "finetune_segmentation_frozen": "the same with a frozen trunk",
    "finetune_segmentation_res_unet": "the same with the decoder of the released code, trunk trained",
    "finetune_classification_test_selected": "audit: the step is chosen on test images, as released",
    "finetune_segmentation_test_selected": "audit: the step is chosen on test images, as released",
}
TABLES = {
    "zero_shot_classification": "AUC, AP, F1 and accuracy per protocol",
    "zero_shot_per_finding": "AUC per NIH finding",
    "zero_shot_grounding": "pointing game, IoU, Dice, precision, recall and pixel AUC per protocol",
    "zero_shot_relations": "laterality, site and relation AUC",
    "disentanglement": "AUC of probes per stream and target, their chance level and contrast",
    "disentanglement_variants": "the same for variants of a method that were evaluated as it was",
    "retrieval": "recall at 1, 5 and 10 and median rank, image to report and back",
    "finetune_classification": "AUC per protocol and share of labels",
    "linear_probe": "AUC per protocol and share of labels",
    "finetune_segmentation": "Dice per protocol, share of labels and encoder setting",
    "ablation_components": "each part of MeDSLIP left out or exchanged, against the full model",
    "ablation_loss_weights": "each loss weight changed, against the full model",
    "ablation_text": "texts, their pooling and their names, against the full model",
    "efficiency": "parameters, pre-training speed and time per method",
    "claims": "what the abstracts claim, with the measured contrasts and a verdict by rule",
}


def methods() -> list[dict[str, Any]]:
    """Registered methods with their supervision, recipes and variants."""
    entries = []
    for name in names(METHODS):
        found, recipes = method_class(name), load_recipes(name)
        entries.append(
            {
                "name": name,
                "supervision": found.supervision,
                "heatmap": found.heatmap_kind,
                "recipes": sorted(recipes.recipes),
                "variants": sorted(recipes.variants),
            }
        )
    return entries


def datasets() -> list[dict[str, Any]]:
    """Registered data sets with their split rules."""
    return [{"name": name, "splits": sorted(dataset_reader(name).splits)} for name in names(DATASETS)]


def protocols() -> list[dict[str, Any]]:
    """Protocols that come with the suite."""
    found = [load_protocol(protocol_id) for protocol_id in protocol_ids()]
    return [
        {"id": p.id, "tasks": list(p.tasks), "findings": len(p.findings), "counts": p.counts} for p in found
    ]


def tiers() -> list[dict[str, Any]]:
    """Tiers that come with the suite."""
    found = [load_tier(path.stem) for path in sorted((CONFIGS / "tiers").glob("*.yaml"))]
    return [{"name": tier.name, "description": tier.description} for tier in found]


CATALOGUES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "methods": methods,
    "datasets": datasets,
    "protocols": protocols,
    "tiers": tiers,
    "tasks": lambda: [{"name": name, "what": what} for name, what in TASKS.items()],
    "tables": lambda: [{"name": name, "what": what} for name, what in TABLES.items()],
}
