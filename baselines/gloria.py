"""GLoRIA: images and sentences aligned as wholes, and by words and the regions they attend to (ICCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from replication.errors import ConfigError
from replication.knowledge.prompts import Polarity, Style, prompts
from replication.knowledge.word_sentences import SentenceRule, prompt_by, sentences_by, text_by
from replication.method import (
    Batch,
    Finding,
    HeatmapKind,
    ImportReport,
    Ingredients,
    Losses,
    Method,
    ReportScorer,
    Settings,
    Supervision,
)
from replication.networks.distributed import processes
from replication.networks.key_maps import load_released, module_keys
from replication.networks.losses import info_nce
from replication.networks.report_scores import vector_scorer
from replication.networks.text_tower import TextTower, spread
from replication.networks.two_scales import cell_channels, flat, two_scales
from replication.networks.word_pieces import Slots, WordPieces, mean_over_words, merge
from replication.networks.word_regions import (
    Temperatures,
    cosine,
    in_turns,
    local_losses,
    local_similarity,
    region_attention,
    word_products,
)

_RELEASED = {
    "gloria.img_encoder.model": "trunk",
    "gloria.img_encoder.global_embedder": "global_head",
    "gloria.img_encoder.local_embedder": "local_head",
    "gloria.text_encoder.model": "text.encoder.model",
}
_UNUSED = {
    "gloria.text_encoder.model.pooler.": "the pooled output of BERT is not used",
    "gloria.text_encoder.model.embeddings.position_ids": "a constant of old versions of the library",
}


class GLoRIASettings(Settings):
    """Settings of GLoRIA: defaults are corrected values, the recipe ``published`` sets the faithful ones.

    Attributes:
        region_temperature, word_temperature, temperature: temp1 of the attention over regions, temp2 of the
            words, temp3 of the logits of both losses; all multiply.
        aggregation: over the words of a text, the logarithm of the ``sum`` or ``mean`` of exponentials.
        local_weight, global_weight: of the two pairs of losses.
        text_layers: hidden states of so many last layers are added.
        text_unit: one uniformly sampled ``sentence`` of the report, drawn anew at each access, or all of it.
        sentence_rule: how a report is cut, see ``SentenceRule``. Prompts go the same way; ``released`` leaves
            nothing of a prompt of one word.
        caption_lengths: ``words`` compares a text's words. ``released`` compares prompts up to as many slots
            as they have characters, [SEP] and pads among them, and does not count words like [UNK].
        input_side: images are resized to so many pixels inside the model (published: 299).
        score: best similarity with the ``positive`` prompts (published), or the probability of that against
            the best one with the negative prompts, their difference being divided by ``prompt_temperature``.
        similarity: mean of ``both`` similarities, or one of them.
        prompts: ``report`` (sentences), ``short`` (bare labels), or a published set.
    """

    region_temperature: float = 4.0
    word_temperature: float = 5.0
    temperature: float = 10.0
    aggregation: Literal["sum", "mean"] = "sum"
    local_weight: float = 1.0
    global_weight: float = 1.0
    text_layers: int = 4
    frozen_share: float = 0.0
    max_length: int = 97
    text_unit: Literal["sentence", "report"] = "sentence"
    sentence_rule: SentenceRule = "suite"
    caption_lengths: Literal["words", "released"] = "words"
    input_side: int | None = None
    score: Literal["positive_minus_negative", "positive"] = "positive_minus_negative"
    similarity: Literal["both", "local", "global"] = "both"
    prompts: Style = "report"
    prompt_temperature: float = 1.0


class EncodedTexts(NamedTuple):
    """N texts: ``words`` ``[N, L, D]`` in slots (see ``word_pieces``), ``whole`` ``[N, D]``."""

    words: Tensor
    whole: Tensor
    slots: Slots


class EncodedPrompts(NamedTuple):
    """P prompts of F findings, one after another: slots ``used`` ``[P, L]`` and ``groups`` of a finding."""

    text: EncodedTexts
    used: Tensor
    groups: list[slice]


class GLoRIA(Method):
    """A trunk with a linear head for the image and one for its regions, and a text tower without heads."""

    name: ClassVar[str] = "gloria"
    supervision: ClassVar[Supervision] = "report"
    heatmap_kind: ClassVar[HeatmapKind] = "native"
    settings_class: ClassVar[type[Settings]] = GLoRIASettings

    def __init__(self, settings: GLoRIASettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.settings = settings
        self.trunk = ingredients.trunk
        self.text = TextTower(
            ingredients.text_encoder,
            frozen_share=settings.frozen_share,
            pooling="mean",
            max_length=settings.max_length,
        )
        self.pieces = WordPieces(self.text.encoder)
        self.global_head = nn.Linear(self.trunk.channels, self.text.width)
        self.local_head = nn.Conv2d(cell_channels(self.trunk), self.text.width, kernel_size=1, bias=False)
        self._known: dict[tuple[tuple[Finding, ...], Polarity], EncodedPrompts] = {}
        self.register_load_state_dict_post_hook(self._forget)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; prompts encoded with the weights so far are forgotten."""
        self._forget()
        return super().train(mode)

    def loss(self, batch: Batch) -> Losses:
        """Global and local contrast, two directions each; images without a text do not count."""
        chosen = self.settings
        texts = self._texts(batch)
        keep = torch.tensor([bool(text) for text in texts]).to(batch.images.device, non_blocking=True)
        maps, whole = self._regions(batch.images)
        # Processes exchange their words, which takes texts of one length.
        text = self._encode(texts, pad=processes() > 1)
        counts = text.slots.words if chosen.caption_lengths == "words" else text.slots.unbracketed
        # Training compares [CLS] and the words, scores compare the words alone (released code).
        used = text.slots.first(counts + 1)
        # Both directions are added: twice their mean.
        total_whole = 2 * info_nce(whole, text.whole, temperature=1 / chosen.temperature, keep=keep)
        total_local = local_losses(
            flat(maps), text.words, used, keep, self.temperatures, chosen.aggregation
        ).sum()
        total = chosen.local_weight * total_local + chosen.global_weight * total_whole
        return Losses(total, {"local": total_local.detach(), "global": total_whole.detach()})

    @torch.no_grad()
    def score(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Best similarity of an image with a finding's prompts, or the probability against the negative ones.

        The released code then standardises each column over the evaluated images (``standardised``), which
        changes no ranking of images and is left to the caller.
        """
        maps, whole = self._regions(images)
        positive = self._best(flat(maps), whole, self._prompts(findings, "present"))
        if self.settings.score == "positive":
            return positive
        negative = self._best(flat(maps), whole, self._prompts(findings, "absent"))
        return ((positive - negative) / self.settings.prompt_temperature).sigmoid()

    @torch.no_grad()
    def heatmap(self, images: Tensor, findings: Sequence[Finding]) -> Tensor:
        """Attention over regions, mean over the words of a finding's positive prompts: ``[B, F, h, w]``."""
        maps, _ = self._regions(images)
        prompt = self._prompts(findings, "present")
        words, used = prompt.text.words, prompt.text.slots.word_mask

        def attended(regions: Tensor) -> Tensor:
            attention = region_attention(word_products(regions, words), used, self.temperatures.region)
            return mean_over_words(attention, used, prompt.groups)

        return in_turns(attended, flat(maps), words).view(len(maps), len(findings), *maps.shape[-2:])

    def report_scorer(self, reports: Sequence[str]) -> ReportScorer:
        """The cosine of the whole image and the whole report, as in the global loss."""

        def of_reports(some: Sequence[str]) -> Tensor:
            return self._encode([text_by(self.settings.sentence_rule, one) for one in some], pad=False).whole

        return vector_scorer(lambda images: self._regions(images)[1], of_reports, reports)

    def load_released(self, path: Path) -> ImportReport:
        """Load ``chexpert_resnet50.ckpt``, its entry ``state_dict``; see ``Method.load_released``."""
        return load_released(self, path, module_keys(self.state_dict(), _RELEASED), unused=_UNUSED)

    @property
    def temperatures(self) -> Temperatures:
        """The three temperatures of the settings."""
        chosen = self.settings
        return Temperatures(chosen.region_temperature, chosen.word_temperature, chosen.temperature)

    def _regions(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Regions ``[B, D, h, w]`` and the whole image ``[B, D]``, neither normalised, both float32."""
        cells, whole = two_scales(self.trunk, images, self.settings.input_side)
        return self.local_head(cells).float(), self.global_head(whole).float()

    def _encode(self, texts: Sequence[str], *, pad: bool) -> EncodedTexts:
        """N texts, padded to the longest or, with ``pad``, to the largest length there is."""
        tokens = self.text.tokenize(texts, padding="max_length" if pad else "longest")
        slots = self.pieces.slots(tokens)
        layers = self.text.hidden_states(tokens)[1:][-self.settings.text_layers :]
        return EncodedTexts(*text_vectors(layers, slots), slots)

    def _texts(self, batch: Batch) -> list[str]:
        """One text for each report; empty where the report has no usable sentence."""
        rule = self.settings.sentence_rule
        if self.settings.text_unit == "report":
            return [text_by(rule, report) for report in batch.reports]
        draws = batch.draws().uniform().tolist()
        cut = [sentences_by(rule, report) for report in batch.reports]
        return [some[int(draw * len(some))] if some else "" for some, draw in zip(cut, draws, strict=True)]

    def _prompts(self, findings: Sequence[Finding], polarity: Polarity) -> EncodedPrompts:
        """Encoded prompts of all findings, remembered in evaluation mode."""
        key = (tuple(findings), polarity)
        if key in self._known and not self.training:
            return self._known[key]
        chosen = self.settings
        ensembles = [prompts(finding, polarity, chosen.prompts) for finding in findings]
        if not all(ensembles):
            raise ConfigError(
                f"These prompts have none that say a finding is {polarity}.",
                where="model.prompts",
                found=chosen.prompts,
                remedy="set model.score to positive, or choose other prompts",
            )
        raw = [prompt for ensemble in ensembles for prompt in ensemble]
        released = chosen.caption_lengths == "released"
        text = self._encode([prompt_by(chosen.sentence_rule, prompt) for prompt in raw], pad=released)
        used = text.slots.word_mask
        if released:
            characters = torch.tensor([len(prompt) - prompt.count("[") for prompt in raw])
            used = text.slots.first(characters.to(used.device) + 1, start=1)
        groups = spread([len(ensemble) for ensemble in ensembles])
        self._known[key] = EncodedPrompts(text, used, groups)
        return self._known[key]

    def _best(self, regions: Tensor, whole: Tensor, prompt: EncodedPrompts) -> Tensor:
        """Highest similarity with any prompt of a finding, ``[B, F]``."""
        words = local_similarity(regions, prompt.text.words, prompt.used, self.temperatures, "max")
        wholes = cosine(whole.unsqueeze(1), prompt.text.whole.unsqueeze(0))
        answer = {"both": (words + wholes) / 2, "local": words, "global": wholes}[self.settings.similarity]
        return torch.stack([answer[:, group].amax(dim=1) for group in prompt.groups], dim=1)

    def _forget(self, *_: object) -> None:
        self._known.clear()


def text_vectors(layers: Sequence[Tensor], slots: Slots) -> tuple[Tensor, Tensor]:
    """Hidden states ``[N, L, D]`` of some layers -> words ``[N, L, D]`` and the whole text ``[N, D]``.

    Layers are added. The whole text is the mean over all slots, [CLS], [SEP] and pads included, so that its
    length means nothing (released code).
    """
    words = merge(torch.stack([layer.float() for layer in layers]).sum(dim=0), slots)
    return words, words.mean(dim=1)


def standardised(scores: Tensor) -> Tensor:
    """Each column of ``[B, F]`` with mean 0 and population standard deviation 1; one image stays as it is."""
    if len(scores) < 2:
        return scores
    return (scores - scores.mean(dim=0)) / scores.std(dim=0, correction=0)
