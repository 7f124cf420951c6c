"""The part all writers share: from scenes to stored films and the truth about them, in parallel."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from replication.config_files import derived_seed
from replication.phantom.population import Prevalence, sample_scenes
from replication.phantom.rendering import ACQUISITIONS, boxes, render
from replication.phantom.scene import FindingInstance, Scene
from replication.processes import end_with_the_parent

FRAME = 1024
"""Side of the pixel frame that the published annotations of NIH, RSNA and SIIM-ACR refer to."""

_CHUNK = 48

Box = tuple[float, float, float, float]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Film:
    """One image to be written.

    Attributes:
        scene: what it shows.
        sample_id: the data set's own name of the image.
        file: where it is stored, relative to the data set's folder.
        extra: whatever else the data set's ``store`` needs to know; ``alias`` is the image's name in a second
            form of the data set.
    """

    scene: Scene
    sample_id: str
    file: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Located:
    """A finding of a stored film.

    Attributes:
        instance: the finding.
        boxes: its boxes (x, y, width, height) in fractions of the image, one for each side it lies on.
        mask: its exact mask [size, size], bits packed and compressed; see ``unpack``.
    """

    instance: FindingInstance
    boxes: tuple[Box, ...]
    mask: bytes


@dataclass(frozen=True)
class Order:
    """What is asked of a writer.

    Attributes:
        dataset: name of the data set, which also names its acquisition.
        out: folder to write into.
        n_patients: how many patients. size: pixels a side. seed: of the whole phantom.
        workers: processes. progress: whether to show a bar.
    """

    dataset: str
    out: Path
    n_patients: int
    size: int
    seed: int
    workers: int = 2
    progress: bool = True

    @property
    def own_seed(self) -> int:
        """The seed of this data set: no two data sets of a phantom share a draw."""
        return derived_seed("phantom", self.dataset, self.seed)

    @property
    def first_patient(self) -> int:
        """The first patient number; every data set has a million of its own."""
        return 1_000_000 * (list(ACQUISITIONS).index(self.dataset) + 1)

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """A stream of its own for a purpose."""
        return np.random.default_rng(derived_seed("phantom", self.dataset, self.seed, *purpose))

    def scenes(self, prevalence: Prevalence, *, one_image: bool = False, unseen: bool = False) -> list[Scene]:
        """The scenes, patient by patient; with ``one_image`` the first image of every patient."""
        drawn = sample_scenes(
            self.n_patients,
            self.own_seed,
            prevalence=prevalence,
            allow_unseen=unseen,
            first_patient=self.first_patient,
        )
        if not one_image:
            return drawn
        return list({scene.patient: scene for scene in reversed(drawn)}.values())[::-1]

    def splits(self, shares: dict[str, float]) -> dict[int, str]:
        """A split for every patient; shares are met to the patient."""
        numbers = self.rng("split").permutation(self.n_patients) + self.first_patient
        ends = np.rint(np.cumsum(list(shares.values())) * self.n_patients).astype(int)
        names = np.repeat(list(shares), np.diff(ends, prepend=0))
        return {int(patient): str(name) for patient, name in zip(numbers, names, strict=True)}


Store = Callable[[Path, Film, NDArray[np.uint8], Sequence[tuple[FindingInstance, Mask]]], None]


def write_films(order: Order, films: Sequence[Film], store: Store) -> list[list[Located]]:
    """Render all films and store them; what each shows where, in the order of the films.

    Args:
        store: writes one film's files below a folder; a function of a module, as it runs in other processes.
    """
    chunks = [films[start : start + _CHUNK] for start in range(0, len(films), _CHUNK)]
    for folder in sorted({(order.out / film.file).parent for film in films}):
        folder.mkdir(parents=True, exist_ok=True)
    located: list[list[Located]] = []
    with (
        _pool(order.workers) as pool,
        tqdm(total=len(films), desc=order.dataset, unit="image", disable=not order.progress) as bar,
    ):
        work = ((order, chunk, store) for chunk in chunks)
        results: Iterable[list[list[Located]]] = map(_write, work) if pool is None else pool.map(_write, work)
        for result in results:
            located += result
            bar.update(len(result))
    _write_truth(order, films, located)
    return located


def unpack(mask: bytes, size: int) -> Mask:
    """The exact mask [size, size] of a row of ``truth.parquet``."""
    bits = np.frombuffer(zlib.decompress(mask), np.uint8)
    return np.unpackbits(bits, count=size * size).reshape(size, size).astype(bool)


def in_frame(box: Box) -> Box:
    """A box in fractions of the image, in the pixels of the 1024 frame."""
    x, y, width, height = (value * FRAME for value in box)
    return x, y, width, height


def write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """A grey JPEG (quality 95) or PNG, by the name's ending."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    _, encoded = cv2.imencode(path.suffix, image, options)
    path.write_bytes(encoded.tobytes())


@contextmanager
def _pool(workers: int) -> Any:
    if workers < 2:
        with nullcontext() as nothing:
            yield nothing
        return
    context = get_context("spawn")
    executor: Executor = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_the_parent)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _write(work: tuple[Order, Sequence[Film], Store]) -> list[list[Located]]:
    order, films, store = work
    rendered = render([film.scene for film in films], order.size, order.dataset, seed=order.own_seed)
    out = []
    for index, film in enumerate(films):
        shown = list(rendered.masks.instances(index))
        store(order.out, film, rendered.images[index], shown)
        out.append([_locate(instance, mask) for instance, mask in shown])
    return out


def _locate(instance: FindingInstance, mask: Mask) -> Located:
    parts = split_sides(mask) if instance.side == "bilateral" else [mask]
    bits = zlib.compress(np.packbits(mask).tobytes())
    return Located(instance, tuple(boxes(part) for part in parts if part.any()), bits)


def split_sides(mask: Mask) -> list[Mask]:
    """The parts [H, W] of a mask on the patient's right and left.

    A connected part goes to the side of its centre, so that a chest off centre is not cut; one that reaches
    well over the middle from both sides is cut there.
    """
    count, labels, extents, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    width = mask.shape[1]
    middle, margin = (width - 1) / 2, 0.08 * width
    columns = np.arange(width)[None, :]
    right = np.zeros_like(mask)
    for k in range(1, count):
        start, end = (
            extents[k, cv2.CC_STAT_LEFT],
            extents[k, cv2.CC_STAT_LEFT] + extents[k, cv2.CC_STAT_WIDTH],
        )
        across = start < middle - margin and end > middle + margin
        right |= (labels == k) & ((columns < middle) if across else (centres[k][0] < middle))
    return [right, mask & ~right]


def _write_truth(order: Order, films: Sequence[Film], located: Sequence[Sequence[Located]]) -> None:
    rows = [
        {
            "sample_id": film.sample_id,
            "alias": film.extra.get("alias", film.sample_id),
            "patient": film.scene.patient,
            "study": film.scene.study,
            "finding": found.instance.finding,
            "side": found.instance.side,
            "zone": found.instance.zone,
            "severity": found.instance.severity,
            "certainty": found.instance.certainty,
            "boxes": json.dumps([[round(value, 6) for value in box] for box in found.boxes]),
            "mask": found.mask,
        }
        for film, shown in zip(films, located, strict=True)
        for found in shown
    ]
    columns = ["sample_id", "alias", "patient", "study", "finding", "side", "zone", "severity"]
    table = pd.DataFrame(rows, columns=[*columns, "certainty", "boxes", "mask"])
    table.to_parquet(order.out / "truth.parquet", index=False)
