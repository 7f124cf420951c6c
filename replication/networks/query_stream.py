"""The parts of the query-decoder family: patch projection, and the stream of queries through a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from replication.knowledge.descriptions import EXTRA_DESCRIPTIONS
from replication.knowledge.vocabulary import TAIL_PATHOLOGY, anatomy_index, pathology_index
from replication.method import Finding, Settings
from replication.networks.dropout import Dropout
from replication.networks.query_decoder import Attention, DecoderLayer, QueryDecoder
from replication.networks.text_book import BookSettings, TextBook


class DecoderSettings(Settings):
    """Sizes and initialisation of the query-decoder family (defaults: the released configuration).

    Attributes:
        d_model: width of queries and patches. decoder_layers, heads, feedforward: of each decoder.
        dropout: everywhere in the decoder, attention included, and before the heads.
        initialisation: ``released`` draws every linear and attention weight from N(0, 0.02) and lets all
            layers start with the same feed-forward biases, as the released code does; ``xavier`` draws
            Glorot-uniform weights and zero biases, which also learns at small width.
    """

    d_model: int = 256
    decoder_layers: int = 4
    heads: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    initialisation: Literal["released", "xavier"] = "xavier"


class QuerySettings(DecoderSettings):
    """Those of the methods whose queries come from a book of descriptions.

    Attributes:
        book: how texts become the rows of the books.
    """

    book: BookSettings = BookSettings()


@dataclass(frozen=True)
class StreamOutput:
    """What a stream answers.

    Attributes:
        features: ``[B, Q, d]``, after the final layer normalisation.
        dropped: the same with dropout, which both heads see.
        logits: ``[B, Q, 2]``; index 1 means present.
        attention: ``[layers, B, Q, K]`` or ``None``.
    """

    features: Tensor
    dropped: Tensor
    logits: Tensor
    attention: Tensor | None

    @property
    def maps(self) -> Tensor:
        """The attention, where it has been asked for."""
        if self.attention is None:
            raise ValueError("attention was not asked for")
        return self.attention

    @property
    def mean_attention(self) -> Tensor:
        """Attention averaged over layers, ``[B, Q, K]`` float32."""
        return self.maps.float().mean(dim=0)


class PatchProjection(nn.Module):
    """Two linear layers that turn a trunk's patches ``[B, K, C]`` into a decoder's memory ``[B, K, d]``."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, width)

    def forward(self, patches: Tensor) -> Tensor:
        """``[B, K, C]`` -> ``[B, K, d]``."""
        memory: Tensor = self.output(torch.relu(self.hidden(patches)))
        return memory


class QueryStream(nn.Module):
    """Query decoder, existence classifier and contrastive projection.

    Args:
        text_width: D of the book that the contrastive loss compares with.
        contrastive: whether there is such a loss.
    """

    def __init__(self, text_width: int, settings: DecoderSettings, contrastive: bool) -> None:
        super().__init__()
        width = settings.d_model
        self.decoder = QueryDecoder(
            width, settings.decoder_layers, settings.heads, settings.feedforward, settings.dropout
        )
        self.dropout = Dropout(settings.dropout)
        self.classifier = nn.Linear(width, 2)
        self.contrast = nn.Linear(width, text_width) if contrastive else None

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        norm: nn.Module,
        *,
        mask: Tensor | None = None,
        want_maps: bool = False,
    ) -> StreamOutput:
        """Queries ``[Q, d]``, memory ``[B, K, d]``; ``norm`` is the decoder's final layer normalisation."""
        decoded = self.decoder(queries, memory, mask=mask, want_maps=want_maps)
        features = norm(decoded.features)
        dropped = self.dropout(features)
        return StreamOutput(features, dropped, self.classifier(dropped), decoded.attention)

    def similarities(self, features: Tensor, book: Tensor) -> Tensor:
        """Dot products ``[B, Q, N]`` of projected features ``[B, Q, d]`` with the rows of a book ``[N, D]``.

        The projection is applied to the book instead of to the features: the same products, without the
        ``[B, Q, D]`` tensor.
        """
        if self.contrast is None:
            raise ValueError("this stream was built without a contrastive projection")
        with torch.autocast(features.device.type, enabled=False):
            keys = book @ self.contrast.weight
            return features.float() @ keys.T + book @ self.contrast.bias


def initialise(model: nn.Module, scheme: Literal["released", "xavier"]) -> None:
    """Draw the weights of all linear and attention layers outside the trunk; see ``DecoderSettings``."""
    for name, module in model.named_modules():
        if name.startswith("trunk"):
            continue
        if isinstance(module, Attention):
            _draw(module.in_proj_weight, scheme)
        elif isinstance(module, nn.Linear):
            _draw(module.weight, scheme)
            if scheme == "xavier":
                nn.init.zeros_(module.bias)
    if scheme == "released":
        _share_first_biases([module for module in model.modules() if isinstance(module, DecoderLayer)])


def _draw(weight: Tensor, scheme: Literal["released", "xavier"]) -> None:
    if scheme == "released":
        nn.init.normal_(weight, std=0.02)
    else:
        nn.init.xavier_uniform_(weight)


@torch.no_grad()
def _share_first_biases(layers: list[DecoderLayer]) -> None:
    """The released layers are copies of one, made before weights, but not biases, are drawn anew."""
    for layer in layers[1:]:
        layer.linear1.bias.copy_(layers[0].linear1.bias)
        layer.linear2.bias.copy_(layers[0].linear2.bias)


@dataclass(frozen=True)
class Questions:
    """What the pathology stream is asked in evaluation.

    Attributes:
        texts: ``[N, D]``, the book's rows first. mask: ``[N, N]``, who may look at whom; ``None`` is all.
        index: position of each finding among the N, or among the groups of rows where a class has several.
    """

    texts: Tensor
    mask: Tensor | None
    index: list[int]

    @classmethod
    def about(
        cls,
        findings: Sequence[Finding],
        book: TextBook,
        *,
        tail: bool,
        texts_of: Callable[[Finding], Sequence[str]] | None = None,
    ) -> Questions:
        """The book's classes, and texts of its own for each finding that has no class.

        An added finding looks at the book and at itself, and the book does not look at it: the score of a
        finding does not depend on what else is asked.

        Args:
            tail: score a finding of the catch-all class by that class, as the released code does for
                fibrosis, instead of by its own text.
            texts_of: the texts of a finding, as many as the book has for each class; ``None`` is one, its
                description where there is one (fibrosis, covid), else its plain words.
        """
        extra: list[Tensor] = []
        index = []
        known = len(book.for_scores)
        for finding in findings:
            if finding.pathology is None or (finding.pathology == TAIL_PATHOLOGY and not tail):
                own = texts_of(finding) if texts_of else [EXTRA_DESCRIPTIONS.get(finding.name, finding.text)]
                index.append(known // len(own) + len(extra))
                extra.append(torch.stack([book.later(text) for text in own]))
            else:
                index.append(pathology_index(finding.pathology))
        if not extra:
            return cls(book.for_scores, None, index)
        texts = torch.cat([book.for_scores, *extra])
        group = torch.arange(len(texts), device=texts.device) // len(extra[0])
        mask = group.unsqueeze(0) == group.unsqueeze(1)
        mask[:, :known] = True
        return cls(texts, mask, index)


def finding_scores(
    log_present: Tensor,
    similarities: Tensor | None,
    findings: Sequence[Finding],
    index: Sequence[int],
    *,
    with_existence: bool,
) -> Tensor:
    """Probability ``[B, F]`` of each finding; the log-score of the relation where an anatomy is asked for.

    A relation's score is the log-softmax, over the 51 anatomies, of the finding's position similarities, plus
    the log-probability of the finding where ``with_existence``.

    Args:
        log_present: ``[B, N]``; ``index`` says which of the N each finding is.
        similarities: ``[B, N, 51]``; ``None`` leaves anatomies out of account.
    """
    scores = log_present[:, index].exp()
    asked = [number for number, finding in enumerate(findings) if finding.anatomy]
    if asked and similarities is not None:
        pathologies = [index[number] for number in asked]
        anatomies = [anatomy_index(findings[number].anatomy or "") for number in asked]
        relation = similarities.log_softmax(dim=-1)[:, pathologies, anatomies]
        scores[:, asked] = relation + log_present[:, pathologies] if with_existence else relation
    return scores


def as_tokens(feature_map: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """``[B, C, h, w]`` -> patches in row order ``[B, h * w, C]``, and the grid (h, w)."""
    height, width = feature_map.shape[-2:]
    return feature_map.flatten(2).transpose(1, 2), (height, width)
