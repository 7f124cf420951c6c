"""What ``replicate doctor`` looks for beside the machine: data, published lists, pre-trained weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from torchvision.models import get_model_weights

from replication.config_files import parse
from replication.data.batches import read_provenance
from replication.data.split_lists import listed_rule
from replication.errors import UserError
from replication.networks.clip_trunk import HUB_FILE, OPENAI
from replication.registry import dataset_reader, method_class
from replication.workflow.finding import Finding, judged
from replication.workflow.plan import Workspace, datasets, protocols, run_config, runs, split_rule
from replication.workflow.text_encoders import local_copy, names


def data(workspace: Workspace) -> Iterable[Finding]:
    """Each data set: prepared as the tier's protocols want it, or at least there and readable."""
    for dataset in datasets(workspace.tier):
        what = f"data {dataset}"
        if (workspace.prepared(dataset) / "prepare.json").is_file():
            yield _prepared(workspace, dataset)
        elif workspace.tier.phantom is not None and dataset in workspace.tier.phantom.patients:
            yield Finding(what, "generated when needed", "ok")
        elif workspace.raw(dataset).exists():
            yield from _raw(workspace, dataset)
        else:
            link = f"link the folder of the data set to {workspace.raw(dataset)}"
            plan = f"`replicate run --tier {workspace.source} --dry-run` says where to get it"
            yield Finding(what, "missing", "missing", f"{link}; {plan}")


def _raw(workspace: Workspace, dataset: str) -> Iterable[Finding]:
    """The tables of a data set that is there, and the published lists that its split follows."""
    reader, source, what = dataset_reader(dataset), workspace.raw(dataset), f"data {dataset}"
    rule = split_rule(workspace.tier, dataset) or reader.default_split(source)
    lists = listed_rule(dataset, rule)
    if lists is not None:
        absent = [path.name for path in lists.paths(source).values() if not path.is_file()]
        state = f"not fetched: {', '.join(absent)}" if absent else "fetched"
        remedy = f"replicate data splits fetch {lists.id} --source {source}"
        yield judged(f"lists {lists.id}", state, not absent, remedy, "missing")
        if absent:
            return
    try:
        reader.check_source(source, rule)
    except UserError as error:
        yield Finding(what, str(error).replace("\n", ";"), "wrong", reader.layout)
    else:
        yield Finding(what, f"there, split {rule}, not yet prepared", "ok")


def _prepared(workspace: Workspace, dataset: str) -> Finding:
    folder, tier = workspace.prepared(dataset), workspace.tier
    again = f"remove {folder} and let it be prepared again"
    try:
        found = read_provenance(folder)
    except UserError as error:
        return Finding(f"data {dataset}", str(error).replace("\n", ";"), "wrong", again)
    wanted = [p for p in protocols(tier) if p.dataset == dataset]
    wrong = []
    if found["size"] != tier.image_size:
        wrong.append(f"{found['size']} px instead of {tier.image_size}")
    for protocol in wanted:
        if found["split"] != protocol.split:
            wrong.append(f"split {found['split']} instead of {protocol.split}")
        if found["equalize"] != any(p.equalize for p in wanted):
            wrong.append(f"equalize is {found['equalize']}")
        for split, count in (protocol.counts or {}).items():
            if (there := found["counts"].get(split, 0)) != count:
                wrong.append(f"{there:,} images in {split} instead of {count:,} ({protocol.id})")
    state = f"prepared: {found['images']:,} images at {found['size']} px, split {found['split']}"
    return judged(f"data {dataset}", "; ".join(dict.fromkeys(wrong)) or state, not wrong, again)


def text_encoders(workspace: Workspace) -> Iterable[Finding]:
    """Each pre-trained text encoder of the tier's runs: a folder, a local copy, or in the hub's cache."""
    for name in names(workspace):
        what, copy = f"text encoder {name}", local_copy(workspace, name)
        fetch = f"where there is a network: replicate text-encoder --tier {workspace.source}"
        if copy.is_dir() or Path(name).is_dir():
            folder = copy if copy.is_dir() else Path(name)
            absent = [file for file in ("config.json", "model.safetensors") if not (folder / file).is_file()]
            state = f"{folder} lacks {', '.join(absent)}" if absent else "there"
            yield judged(what, state, not absent, fetch)
        elif cached(name, "model.safetensors"):
            yield Finding(what, "in the cache", "ok")
        elif cached(name, "pytorch_model.bin"):
            yield Finding(what, "in the cache, but only as pytorch_model.bin", "wrong", fetch)
        else:
            yield Finding(what, "not in the cache", "missing", fetch)


def tokenizers(workspace: Workspace) -> Iterable[Finding]:
    """Each tokeniser that a method loads by itself: a folder, or in the hub's cache."""
    configs = [run_config(workspace, run) for run in runs(workspace.tier)]
    settings = [parse(method_class(one.method).settings_class, one.model, one.label) for one in configs]
    for name in dict.fromkeys(name for one in settings for name in one.tokenizers()):
        there = Path(name).is_dir() or cached(name, "tokenizer.json")
        state = "there" if Path(name).is_dir() else "in the cache" if there else "not in the cache"
        remedy = f"where there is a network: hf download {name} --include '*.json' --include '*.txt'"
        yield judged(f"tokeniser {name}", state, there, remedy, "missing")


def cached(repository: str, file: str) -> bool:
    """Whether a file of a Hugging Face repository is in the local cache."""
    return isinstance(try_to_load_from_cache(repository, file), str)


def image_weights(workspace: Workspace) -> Iterable[Finding]:
    """Each kind of pre-trained weights that the tier's image trunks start from."""
    trunks = [run_config(workspace, run).trunk for run in runs(workspace.tier)]
    for trunk in dict.fromkeys((trunk.architecture, trunk.weights) for trunk in trunks):
        if trunk[1] != "random":
            yield _image_weights(*trunk)


def _image_weights(architecture: str, weights: str) -> Finding:
    what = f"weights {architecture} {weights}"
    path = Path(weights)
    if path.suffix in {".pth", ".pt", ".safetensors"}:
        state = "there" if path.is_file() else "the file is not there"
        return judged(
            what, state, path.is_file(), "give the path of the weights in the tier's trunk", "missing"
        )
    if weights == "OPENAI":
        repository = OPENAI[architecture]
        there = cached(repository, HUB_FILE)
        remedy = f"where there is a network: hf download {repository} {HUB_FILE}"
    else:
        url = get_model_weights(architecture)[weights].url
        target = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        there = target.is_file()
        remedy = f"where there is a network: fetch {url} into {target.parent}"
    return judged(what, "in the cache" if there else "not in the cache", there, remedy, "missing")
