"""Random batches out of the image cache, beside decoding each image as the released data sets do.

The stored images are PNG files of 1024 x 1024 pixels, as NIH publishes them; what is read is 224 x 224.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from data import raw
from PIL import Image
from torchvision import transforms

from replication.data.batches import MEAN, STD, PreparedData
from replication.data.prepare import prepare

SIZE, BATCH = 224, 32
TRANSFORM = transforms.Compose(
    [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """64 images of the size and about the entropy of a radiograph."""
    folder = tmp_path_factory.mktemp("reading")
    source = raw.write_nih(folder / "nih", patients=32)
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        raw.write_picture(path, cv2.GaussianBlur(raw.picture(number, 1024), (0, 0), 1))
    return PreparedData.open(prepare("nih-cxr14", source, folder / "out", size=SIZE, progress=False))


def batches(data: PreparedData, count: int) -> list[np.ndarray]:
    """Rows of shuffled batches."""
    generator = np.random.default_rng(0)
    return [generator.choice(len(data.manifest), BATCH, replace=False) for _ in range(count)]


def from_cache(data: PreparedData, rows: np.ndarray) -> torch.Tensor:
    return data.batch(rows, augmentation=None, seed=0).images


def by_decoding(data: PreparedData, rows: np.ndarray) -> torch.Tensor:
    source = Path(data.provenance["source"])
    images = []
    for file in data.manifest["file"].iloc[rows]:
        with Image.open(source / file) as image:
            images.append(TRANSFORM(image.convert("RGB")))
    return torch.stack(images)


def seconds(read: Callable[[np.ndarray], torch.Tensor], some: Sequence[np.ndarray]) -> float:
    """Of the fastest batch: what other processes take from the rest is left out."""
    times = []
    for rows in some:
        start = time.perf_counter()
        read(rows)
        times.append(time.perf_counter() - start)
    return min(times)


def test_the_cache_is_at_least_ten_times_faster(data: PreparedData) -> None:
    cached = seconds(lambda rows: from_cache(data, rows), batches(data, 20))
    decoded = seconds(lambda rows: by_decoding(data, rows), batches(data, 3))
    assert decoded >= 10 * cached


def test_both_read_the_same_images(data: PreparedData) -> None:
    """Up to the filter that shrinks them."""
    (rows,) = batches(data, 1)
    difference = from_cache(data, rows) - by_decoding(data, rows)
    assert difference.abs().mean() < 0.1


@pytest.mark.benchmark(group="a batch of 32 random images of 224 px")
def test_batch_from_cache(benchmark: Any, data: PreparedData) -> None:
    (rows,) = batches(data, 1)
    assert benchmark(from_cache, data, rows).shape == (BATCH, 3, SIZE, SIZE)


@pytest.mark.benchmark(group="a batch of 32 random images of 224 px")
def test_batch_by_decoding(benchmark: Any, data: PreparedData) -> None:
    (rows,) = batches(data, 1)
    assert benchmark(by_decoding, data, rows).shape == (BATCH, 3, SIZE, SIZE)
