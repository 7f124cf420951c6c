"""Cross-attention by sigmoids, in both directions at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SigmoidAttention(nn.Module):
    """One head of attention in both directions between cells (1) and sentences (2), as PRIOR counts them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query1, self.key1, self.value1 = (nn.Linear(width, width) for _ in range(3))
        self.query2, self.key2, self.value2 = (nn.Linear(width, width) for _ in range(3))

    def forward(
        self, cells: Tensor, sentences: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Cells ``[B, R, D]`` and sentences ``[B, S, D]`` with ``mask`` ``[B, S]`` look at each other.

        Nothing is normalised over what is attended: more sentences make longer vectors.

        Returns:
            For each cell what it gets from the sentences ``[B, R, D]``, for each sentence what it gets from
            the cells ``[B, S, D]``, and both attentions ``[B, R, S]``, ``[B, S, R]``.
        """
        to_sentences, to_cells = self.weights(cells, sentences)
        to_sentences = to_sentences * mask.unsqueeze(1)
        with torch.autocast(cells.device.type, enabled=False):
            return (
                to_sentences @ self.value2(sentences),
                to_cells @ self.value1(cells),
                (to_sentences, to_cells),
            )

    def weights(self, cells: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of cells to sentences ``[B, R, S]`` and of sentences to cells ``[B, S, R]``, float32."""
        with torch.autocast(cells.device.type, enabled=False):
            root = math.sqrt(cells.shape[-1])
            to_sentences = self.query1(cells) @ self.key2(sentences).transpose(1, 2) / root
            to_cells = self.query2(sentences) @ self.key1(cells).transpose(1, 2) / root
            return to_sentences.sigmoid(), to_cells.sigmoid()
