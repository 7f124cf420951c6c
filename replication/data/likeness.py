"""Which radiographs are copies of one another, though cropped, brightened or compressed again.

All chest radiographs look alike, so a short hash of an image's coarse structure either misses a crop of two
percent or confuses patients. Two steps do better: a perceptual hash finds the few most similar images, and a
registration of each such pair decides.

- The hash is real-valued: the lowest ``FREQUENCIES`` x ``FREQUENCIES`` cosine coefficients (Zauner 2010,
  "pHash") of the image after local contrast normalisation, each coefficient standardised over the gallery,
  so that what all chests share counts for nothing. Hashes are compared by their cosine, all with all, by
  matrix products: exact, where bucketed search of bits would miss some.
- Pairs are registered by an affine map that maximises their correlation (Evangelidis and Psarakis 2008,
  OpenCV's ``findTransformECC``). Copies correlate after it, two films of different people do not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

Grey = NDArray[np.uint8]
Float = NDArray[np.float32]

SIDE = 96
"""Pixels a side at which images are compared; smaller, and different people look the same."""

FREQUENCIES = 12
CANDIDATES = 3
"""Most similar images of the gallery, per query, that are registered."""

COPY = 0.82
"""Correlation after registration from which two images are copies; measured in ``docs/leaks.md``."""

_DEVIATION = 2.0
_NOISE = 4.0
_COARSE = 32
_EDGE = 8
_STEPS = 20
_BLOCK = 512


class Copies(NamedTuple):
    """Pairs of copies: rows of the queries, rows of the gallery, correlations; each ``[P]``."""

    queries: NDArray[np.int64]
    gallery: NDArray[np.int64]
    correlations: Float


def texture(image: Grey) -> Float:
    """``[S, S]`` uint8 -> ``[SIDE, SIDE]``: local mean 0, local contrast 1, whatever brightness and gamma.

    The noise floor keeps empty regions (collimation, air) near 0.
    """
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = small - cv2.GaussianBlur(small, (0, 0), _DEVIATION)
    energy = cv2.GaussianBlur(detail * detail, (0, 0), _DEVIATION)
    return np.asarray(detail / np.sqrt(energy + _NOISE), np.float32)


def hashes(images: Grey, rows: NDArray[np.int64]) -> Float:
    """Perceptual hashes ``[n, FREQUENCIES**2 - 1]`` of some rows of ``[N, S, S]``, read one after another."""
    result = np.empty((len(rows), FREQUENCIES**2 - 1), np.float32)
    for k, row in enumerate(rows):
        coarse = cv2.resize(texture(images[row]), (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
        result[k] = cv2.dct(coarse)[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    return result


def copies(
    queries: Grey,
    query_rows: NDArray[np.int64],
    gallery: Grey,
    gallery_rows: NDArray[np.int64],
    *,
    progress: bool = False,
) -> Copies:
    """Copies of the queries among the gallery: of each query at most its ``CANDIDATES`` nearest.

    Mirrored and rotated copies are not looked for.

    Args:
        queries, gallery: ``[N, S, S]`` uint8, of any two sizes; memory maps stay on disk.
        query_rows, gallery_rows: the rows to compare.
    """
    if not len(query_rows) or not len(gallery_rows):
        none = np.empty(0, np.int64)
        return Copies(none, none, np.empty(0, np.float32))
    known = hashes(gallery, gallery_rows)
    nearest = _nearest(*_standardised(hashes(queries, query_rows), known))

    def score(k: int) -> list[float]:
        mine = texture(queries[query_rows[k]])
        return [correlation(mine, texture(gallery[gallery_rows[c]])) for c in nearest[k]]

    # OpenCV releases the interpreter while it registers, so threads are enough.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2) as pool:
        results = pool.map(score, range(len(query_rows)), chunksize=64)
        shown = tqdm(results, "near-duplicates", len(query_rows), unit="img", disable=not progress)
        correlations = np.array(list(shown), np.float32)
    query, place = np.nonzero(correlations >= COPY)
    return Copies(query_rows[query], gallery_rows[nearest[query, place]], correlations[query, place])


def correlation(a: Float, b: Float) -> float:
    """Correlation of two textures where the one, mapped affinely onto the other, overlaps it; -1 to 1.

    A registration that does not converge, or needs more than a slight map, answers -1.
    """
    start, everywhere = np.eye(2, 3, dtype=np.float32), np.ones(b.shape, np.uint8)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, 1e-4)
    try:
        _, found = cv2.findTransformECC(a, b, start, cv2.MOTION_AFFINE, criteria, everywhere, 5)
    except cv2.error:
        # OpenCV's way of saying that the two have nothing to be aligned by.
        return -1.0
    matrix = np.asarray(found, np.float32)
    if np.abs(matrix - np.eye(2, 3))[:, :2].max() > 0.2:
        return -1.0
    mapped = cv2.warpAffine(b, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inner = slice(_EDGE, -_EDGE)
    x, y = a[inner, inner].ravel(), mapped[inner, inner].ravel()
    if x.std() == 0 or y.std() == 0:
        return -1.0
    return float(np.corrcoef(x, y)[0, 1])


def _standardised(queries: Float, gallery: Float) -> tuple[Tensor, Tensor]:
    """Unit vectors of both after the gallery's mean and deviation of each coefficient."""
    mean, deviation = gallery.mean(0), gallery.std(0) + 1e-6 + 0.1 * float(gallery.std())
    both = []
    for values in (queries, gallery):
        scaled = torch.from_numpy((values - mean) / deviation)
        both.append(torch.nn.functional.normalize(scaled, dim=1))
    return both[0], both[1]


def _nearest(queries: Tensor, gallery: Tensor) -> NDArray[np.int64]:
    """``[Q, k]`` rows of the gallery, the most similar first."""
    k = min(CANDIDATES, len(gallery))

    def blocks() -> Iterator[Tensor]:
        for start in range(0, len(queries), _BLOCK):
            yield (queries[start : start + _BLOCK] @ gallery.T).topk(k, dim=1).indices

    return torch.cat(list(blocks())).numpy()
