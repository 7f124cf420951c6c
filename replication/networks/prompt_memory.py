"""Features of a finding's positive prompts, encoded once and remembered until the weights change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from replication.knowledge.prompts import Style, prompts
from replication.method import Finding
from replication.networks.text_tower import spread


class PromptMemory:
    """For heat maps that ask with more than one vector for a finding.

    Args:
        style: of the prompts. encode: N texts -> ``[N, D]``.
    """

    def __init__(self, style: Style, encode: Callable[[Sequence[str]], Tensor]) -> None:
        self._style, self._encode = style, encode
        self._known: dict[Finding, Tensor] = {}

    def features(self, findings: Sequence[Finding], *, remember: bool) -> list[Tensor]:
        """``[prompts, D]`` for each finding; ``remember`` is false while weights change."""
        known = self._known if remember else {}
        new = [finding for finding in dict.fromkeys(findings) if finding not in known]
        if new:
            texts = [prompts(finding, "present", self._style) for finding in new]
            encoded = self._encode([text for ensemble in texts for text in ensemble])
            for finding, part in zip(new, spread([len(ensemble) for ensemble in texts]), strict=True):
                known[finding] = encoded[part]
        return [known[finding] for finding in findings]

    def forget(self) -> None:
        """The weights are others now."""
        self._known.clear()
