"""From scenes to radiographs with exact masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from replication.phantom import findings
from replication.phantom.acquisition import ACQUISITIONS, Acquisition, resolve
from replication.phantom.anatomy import chest
from replication.phantom.camera import BoolArray
from replication.phantom.detector import expose, pose
from replication.phantom.devices import add_devices
from replication.phantom.projection import Projection
from replication.phantom.regions import region_masks
from replication.phantom.scene import FindingInstance, Scene, Side
from replication.phantom.skeleton import add_normal_structures

__all__ = ["ACQUISITIONS", "Acquisition", "Masks", "Rendered", "boxes", "regions", "render"]


class Masks(Sequence[dict[tuple[str, Side], BoolArray]]):
    """Where every finding of every image is, kept as bits.

    ``masks[i]`` maps (finding, side) of image i to a mask [size, size]; instances that share both are united.
    """

    def __init__(
        self, size: int, packed: Sequence[Sequence[tuple[FindingInstance, NDArray[np.uint8]]]]
    ) -> None:
        self.size = size
        self._packed = [list(image) for image in packed]

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> dict[tuple[str, Side], BoolArray]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[tuple[str, Side], BoolArray]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> dict[tuple[str, Side], BoolArray] | list[dict[tuple[str, Side], BoolArray]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        united: dict[tuple[str, Side], BoolArray] = {}
        for instance, mask in self.instances(index):
            key = (instance.finding, instance.side)
            united[key] = united[key] | mask if key in united else mask
        return united

    def instances(self, index: int) -> Iterator[tuple[FindingInstance, BoolArray]]:
        """Every finding instance of an image, in the scene's order, with its mask [size, size]."""
        for instance, bits in self._packed[index]:
            flat = np.unpackbits(bits, count=self.size * self.size).astype(bool)
            yield instance, flat.reshape(self.size, self.size)


@dataclass(frozen=True)
class Rendered:
    """Rendered radiographs.

    Attributes:
        images: uint8 [N, size, size].
        masks: ``masks[i][(finding, side)]`` is a bool mask [size, size]; ``masks.instances(i)`` keeps
            instances of one finding apart.
    """

    images: NDArray[np.uint8]
    masks: Masks


def render(
    scenes: Sequence[Scene],
    size: int = 128,
    acquisition: Acquisition | str = "mimic-cxr",
    *,
    seed: int = 0,
) -> Rendered:
    """Render radiographs and exact finding masks.

    An image is a function of its scene, the size, the acquisition and the seed alone: it does not depend
    on the batch it is rendered in.

    Args:
        scenes: what to show.
        size: pixels a side.
        acquisition: a preset's name or an acquisition.
        seed: of the data set; habitus, pose, lesion shapes and noise derive from it and the scene's numbers.

    Returns:
        Images uint8 [N, size, size] and masks.
    """
    film = resolve(acquisition)
    images = np.empty((len(scenes), size, size), np.uint8)
    packed = []
    for i, scene in enumerate(scenes):
        view, masks, rng = _project(scene, size, film, seed)
        images[i] = expose(view, film, rng)
        packed.append([(instance, np.packbits(mask)) for instance, mask in masks])
    return Rendered(images, Masks(size, packed))


def _project(
    scene: Scene, size: int, film: Acquisition, seed: int
) -> tuple[Projection, list[tuple[FindingInstance, BoolArray]], np.random.Generator]:
    rng = np.random.default_rng([seed, 21, scene.image])
    body = chest(seed, scene.patient, scene.image, scene.view)
    findings.deform(body, scene)
    view = Projection(body, pose(size, film, rng))
    add_normal_structures(view, np.random.default_rng([seed, 22, scene.patient]))
    masks = findings.paint(view, scene, seed)
    add_devices(view, scene, np.random.default_rng([seed, 23, scene.study]))
    return view, masks, rng


def boxes(mask: BoolArray) -> tuple[float, float, float, float]:
    """Bounding box (x, y, width, height) of a mask [H, W] in fractions of the image; zeros if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return 0.0, 0.0, 0.0, 0.0
    height, width = mask.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1 - columns[0]) / width),
        float((rows[-1] + 1 - rows[0]) / height),
    )


def regions(
    scene: Scene,
    size: int = 128,
    acquisition: Acquisition | str = "mimic-cxr",
    *,
    seed: int = 0,
) -> dict[str, BoolArray]:
    """Masks [size, size] of the anatomical regions of the very image that ``render`` makes of a scene.

    The keys are the names of the released code's anatomy vocabulary that have a place on a frontal film.
    """
    view, _, _ = _project(scene, size, resolve(acquisition), seed)
    return region_masks(view)
