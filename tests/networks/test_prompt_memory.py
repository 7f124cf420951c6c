"""Prompts are encoded once, and anew when the weights have changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from replication.knowledge.prompts import prompts
from replication.method import Finding
from replication.networks.prompt_memory import PromptMemory

EFFUSION = Finding("effusion", "pleural effusion", "effusion")
NODULE = Finding("nodule", "nodule", "nodule")


def test_prompts_are_remembered_until_forgotten() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> torch.Tensor:
        asked.extend(texts)
        return torch.tensor([[float(len(text))] for text in texts])

    memory = PromptMemory("report", encode)
    found = memory.features([NODULE, EFFUSION, NODULE], remember=True)
    for finding, features in zip((NODULE, EFFUSION, NODULE), found, strict=True):
        assert features[:, 0].tolist() == [len(text) for text in prompts(finding, "present")]
    once = len(asked)
    memory.features([EFFUSION], remember=True)
    assert len(asked) == once
    memory.features([EFFUSION], remember=False)
    memory.forget()
    memory.features([EFFUSION], remember=True)
    assert len(asked) == once + 2 * len(prompts(EFFUSION, "present"))
