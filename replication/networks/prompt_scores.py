"""Zero-shot answers of methods that compare an image with prompts by the cosine of one vector each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from replication.errors import ConfigError
from replication.knowledge.prompts import Polarity, Style, prompts
from replication.method import Finding, HeatmapKind, Method, ReportScorer, Settings
from replication.networks.report_scores import vector_scorer
from replication.networks.text_tower import mean_direction, spread


class PromptSettings(Settings):
    """Settings of the zero-shot answers.

    Attributes:
        score: ``positive_minus_negative`` is the softmax over a finding's positive and negative prompts at
            ``prompt_temperature``, ``cosine`` the cosine with the positive prompts alone.
        prompts: ``report`` (sentences), ``short`` (bare labels), or a published set.
        ensemble: the direction of several prompts is that of the mean of their unit vectors, or of the mean
            of the vectors as they are.
    """

    score: Literal["positive_minus_negative", "cosine"] = "positive_minus_negative"
    prompts: Style = "report"
    prompt_temperature: float = 0.1
    ensemble: Literal["unit", "raw"] = "unit"


class PromptMethod(Method):
    """A method with one vector for an image, one for each of its cells, and one for a text, in one space.

    A subclass answers ``image_features``, ``cell_features`` and ``text_features``, none of them normalised;
    score and heat map follow from these. Prompts are encoded once in evaluation mode and remembered until the
    mode or the weights change.

    Raises:
        ConfigError: on scoring, if the prompts have none that deny a finding and the score needs them.
    """

    heatmap_kind: ClassVar[HeatmapKind] = "post hoc"
    prompt_settings: PromptSettings

    def __init__(self) -> None:
        super().__init__()
        self._directions: dict[tuple[Finding, Polarity], Tensor] = {}
        self.register_load_state_dict_post_hook(self._forget)  # type: ignore[no-untyped-call]

    @abstractmethod
    def image_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, D]``."""

    @abstractmethod
    def cell_features(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, h, w, D]``."""

    @abstractmethod
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """N texts -> ``[N, D]``."""

    def report_features(self, reports: Sequence[str]) -> Tensor:
        """N whole reports -> ``[N, D]``; a method that reads them unlike prompts says how."""
        return self.text_features([report.strip() for report in reports])

    def report_scorer(self, reports: Sequence[str]) -> ReportScorer:
        """The cosine of image and report."""
        return vector_scorer(self.image_features, self.report_features, reports)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; prompts encoded with the weights so far are forgotten."""
        self._forget()
        return super().train(mode)

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Probability of the positive against the negative prompts, or the cosine with the positive ones."""
        return self._compare(self.image_features(images), findings)

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """The score of each cell by itself: ``[B, F, h, w]``."""
        return self._compare(self.cell_features(images), findings).movedim(-1, 1)

    def _compare(self, features: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Vectors ``[..., D]`` -> scores ``[..., F]``."""
        chosen = self.prompt_settings
        units = functional.normalize(features.float(), dim=-1)
        positive = units @ self._prompt_directions(findings, "present").T
        if chosen.score == "cosine":
            return positive
        negative = units @ self._prompt_directions(findings, "absent").T
        return ((positive - negative) / chosen.prompt_temperature).sigmoid()

    def _prompt_directions(self, findings: Sequence[Finding], polarity: Polarity) -> Tensor:
        """``[F, D]``: direction of each finding's prompt ensemble."""
        known = {} if self.training else self._directions
        new = [finding for finding in dict.fromkeys(findings) if (finding, polarity) not in known]
        if new:
            chosen = self.prompt_settings
            texts = [prompts(finding, polarity, chosen.prompts) for finding in new]
            if not all(texts):
                raise ConfigError(
                    "This set of prompts cannot say that a finding is absent.",
                    where=f"{self.name}, model.prompts",
                    found=chosen.prompts,
                    remedy="score: cosine, or other prompts",
                )
            features = self.text_features([text for ensemble in texts for text in ensemble]).float()
            for finding, part in zip(new, spread([len(ensemble) for ensemble in texts]), strict=True):
                known[finding, polarity] = self._direction(features[part])
        device = next(self.parameters()).device
        return torch.stack([known[finding, polarity].to(device) for finding in findings])

    def _direction(self, features: Tensor) -> Tensor:
        """``[N, D]`` -> unit vector ``[D]``."""
        if self.prompt_settings.ensemble == "unit":
            return mean_direction(features)
        return functional.normalize(features.mean(dim=0), dim=0)

    def _forget(self, *_: object) -> None:
        self._directions.clear()
