"""The plan of a tier as a person reads it: jobs, data that are missing, disk and time."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from replication.errors import UserError
from replication.registry import dataset_reader
from replication.tier_config import TierConfig
from replication.workflow.estimate import Cost, Disk, disk, training_costs
from replication.workflow.facts import GIGABYTE, extent, published
from replication.workflow.plan import Run, Workspace, datasets
from replication.workflow.speed import Speed

_COUNT = re.compile(r"^(\w+)\s+(\d+)$", re.MULTILINE)
_WIDTH = 110


def job_counts(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, int]:
    """Jobs that are left to do by rule, as Snakemake counts them.

    Args:
        command: Snakemake with ``--dry-run``.

    Raises:
        UserError: Snakemake cannot plan; with the end of what it says.
    """
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        raise UserError(
            "Snakemake cannot plan this tier.",
            found="\n".join(said.strip().splitlines()[-15:]),
            remedy="see what Snakemake says, or run the same with --jobs",
        )
    stats = said.partition("Job stats:")[2].partition("total")[0]
    counts = {rule: int(count) for rule, count in _COUNT.findall(stats)}
    counts.pop("all", None)
    return counts


def overview(
    workspace: Workspace,
    runs: Sequence[Run],
    jobs: Mapping[str, int],
    speeds: Mapping[tuple[str, str], Speed],
) -> str:
    """The whole plan."""
    tier = workspace.tier
    total = sum(jobs.values())
    listed = ", ".join(f"{count} {rule}" for rule, count in jobs.items()) if jobs else "none"
    return "\n".join(
        [
            f"Tier {tier.name}: {tier.description}",
            "",
            f"Jobs to do: {total}",
            f"  {listed}",
            "",
            "Data",
            *_data(workspace),
            "",
            "Disk, at most",
            *_disk(disk(workspace, runs), workspace),
            "",
            "Pre-training (reading, validation, evaluation and transfer come on top)",
            *_time(training_costs(workspace, runs, speeds), tier, _published_counts(workspace)),
        ]
    )


def _data(workspace: Workspace) -> Iterator[str]:
    for dataset in datasets(workspace.tier):
        if (workspace.prepared(dataset) / "prepare.json").is_file():
            yield f"  {dataset:16} prepared"
        elif workspace.raw(dataset).exists():
            yield f"  {dataset:16} there, not yet prepared"
        elif workspace.tier.phantom is not None:
            yield f"  {dataset:16} will be generated"
        else:
            yield f"  {dataset:16} MISSING: link its folder to {workspace.raw(dataset)}"
            yield from _way(dataset)


def _way(dataset: str) -> Iterator[str]:
    """Where a data set is had, and on what terms."""
    reader, facts = dataset_reader(dataset), published().get(dataset)
    size = "size not on record" if facts is None or facts.gigabytes is None else f"{facts.gigabytes:g} GB"
    images = f"{facts.images:,} images, " if facts else ""
    lines = {
        "access": "CREDENTIALED, under a signed agreement" if reader.credentialed else "no agreement to sign",
        "terms": reader.terms,
        "from": f"{reader.homepage} ({images}{size})",
        "how": facts.how if facts else "see there",
        "folder": reader.layout,
    }
    for name, text in lines.items():
        yield textwrap.fill(
            text, _WIDTH, initial_indent=f"    {name:7} ", subsequent_indent=" " * 12, break_on_hyphens=False
        )


def _disk(needed: Disk, workspace: Workspace) -> Iterator[str]:
    def line(name: str, size: int) -> str:
        return f"  {name:34} {size / GIGABYTE:8.1f} GB"

    for dataset, size in needed.raw.items():
        yield line(f"{dataset}, as published", size)
    if needed.unknown:
        yield f"  size not on record: {', '.join(needed.unknown)}"
    if needed.generated:
        yield line("generated radiographs", needed.generated)
    for dataset, size in needed.caches.items():
        yield line(f"{dataset}, cache at {workspace.tier.image_size} px", size)
    yield line("weights, and states to resume from", needed.weights)
    yield line("predictions", needed.predictions)
    yield line("work and results together", needed.total)


def _published_counts(workspace: Workspace) -> str:
    """Where the number of training images is from, if not from prepared data."""
    size, facts = extent(workspace, workspace.tier.pretrain), published().get(workspace.tier.pretrain)
    return facts.source if facts and size and size.origin == "published" else ""


def _time(costs: Sequence[Cost], tier: TierConfig, published_counts: str) -> Iterator[str]:
    if not costs:
        yield "  nothing is left to train"
        return
    if published_counts:
        yield "  Images a run follow from published counts, as nothing is prepared yet:"
        yield textwrap.fill(f"{published_counts}.", _WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield f"  {'method':28} {'runs':>4} {'images a run':>13} {'images/s':>9} {'hours':>9}  speed from"
    for cost in costs:
        images = "unknown" if cost.images is None else f"{cost.images:,}"
        rate = "-" if cost.speed is None else f"{cost.speed.images_per_second:.1f}"
        hours = "-" if cost.hours is None else f"{cost.hours:,.1f}"
        yield (
            f"  {cost.label:28} {cost.runs:4} {images:>13} {rate:>9} {hours:>9}  "
            f"{'no estimate' if cost.speed is None else _origin(cost.speed)}"
        )
    for unit, hours_ in totals(costs).items():
        yield f"  together {hours_:,.0f} {unit}"
    if any(cost.speed is None for cost in costs):
        yield "  Without a speed there is no estimate: add --measure (some steps of each method, here), or"
        yield "  --images-per-second METHOD=N, or a table of such speeds from the machine that will train."
    if any(cost.images is None for cost in costs):
        yield f"  The number of training images is known once {tier.pretrain} is prepared."


def totals(costs: Sequence[Cost]) -> dict[str, float]:
    """Hours by what they are hours of."""
    found: dict[str, float] = {}
    for cost in costs:
        if cost.speed is None or cost.hours is None:
            continue
        unit, factor = f"GPU-hours ({cost.speed.device})", 1
        if cost.speed.device == "cpu":
            unit, factor = "core-hours", max(cost.speed.threads, 1)
        elif cost.speed.device == "not said":
            unit = "hours of the machine that the speeds are of"
        found[unit] = found.get(unit, 0.0) + factor * cost.hours
    return found


def _origin(speed: Speed) -> str:
    device = speed.device if speed.device != "cpu" else f"cpu, {speed.threads} thread(s)"
    return speed.source if device == "not said" else f"{speed.source}; {device}"
