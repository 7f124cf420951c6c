"""What each kind of job needs: cores, memory, time, an accelerator. For the Snakefile and `doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from replication.tier_config import TierConfig


@dataclass(frozen=True)
class Need:
    """Of one job.

    Attributes:
        mem_mb: resident memory in MiB. minutes: wall time that a cluster may cut it off at. gpu: how many.
    """

    threads: int
    mem_mb: int
    minutes: int
    gpu: int = 0

    @property
    def resources(self) -> dict[str, int]:
        """In Snakemake's words."""
        return {"mem_mb": self.mem_mb, "runtime": self.minutes, "gpu": self.gpu}


def needs(tier: TierConfig) -> dict[str, Need]:
    """By rule of the Snakefile.

    A pre-training that is cut off goes on where it was when it is started again, so its time is no bound on
    the length of a run.
    """
    small = {
        "rows": Need(1, 4000, 60),
        "search": Need(1, 2000, 30),
        "notebook": Need(1, 4000, 60),
        "site": Need(1, 2000, 30),
    }
    if tier.phantom is not None:
        return small | {
            "phantom": Need(1, 1500, 120),
            "prepare": Need(1, 2000, 120),
            "text_encoder": Need(tier.threads, 3000, 120),
            "pretrain": Need(tier.threads, 4000, 720),
            "trial": Need(tier.threads, 4000, 720),
            "evaluate": Need(tier.threads, 4000, 720),
        }
    return small | {
        "prepare": Need(tier.threads, 16000, 1440),
        "text_encoder": Need(tier.threads, 16000, 120),
        "pretrain": Need(tier.threads, 48000, 2880, gpu=1),
        "trial": Need(tier.threads, 48000, 2880, gpu=1),
        "evaluate": Need(tier.threads, 48000, 2880, gpu=1),
    }
