"""From scenes to radiographs: the X-ray beam, the detector and the display."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from replication.errors import ConfigError, nearest
from replication.phantom import findings
from replication.phantom.anatomy import chest
from replication.phantom.camera import BoolArray, Camera, FloatArray
from replication.phantom.devices import add_devices
from replication.phantom.projection import Projection
from replication.phantom.scene import FindingInstance, Scene, Side
from replication.phantom.skeleton import add_normal_structures

Range = tuple[float, float]

MU_WATER, MU_BONE, MU_METAL = 0.185, 0.36, 6.0
"""Linear attenuation per cm near 65 keV; bone beyond the water it displaces."""


@dataclass(frozen=True)
class Acquisition:
    """How a hospital takes and displays its films.

    Ranges are drawn from uniformly, once an image.

    Attributes:
        gamma: exponent of the display curve; below 1 brightens the mid-tones.
        contrast: steepness of the display curve around its middle (0: straight).
        window: percentiles of the film shown as black and white.
        toe: how far below the darkest percentile black lies, as a share of the window.
        noise: relative quantum noise behind an average chest.
        blur: unsharpness, cm.
        scatter: scattered over primary radiation.
        scale: magnification.
        rotation: degrees, either way.
        shift: cm, either way.
        collimation: chance of a visible collimated border.
        marker: chance of a lead side marker.
        ap: share of AP films a population of this hospital should be sampled with.
    """

    gamma: Range = (0.85, 1.15)
    contrast: Range = (0.4, 1.1)
    window: tuple[Range, Range] = ((0.5, 3.0), (98.0, 100.0))
    toe: Range = (0.0, 0.2)
    noise: Range = (0.01, 0.022)
    blur: Range = (0.05, 0.12)
    scatter: Range = (0.4, 0.8)
    scale: Range = (0.98, 1.12)
    rotation: float = 2.5
    shift: float = 0.9
    collimation: float = 0.15
    marker: float = 0.6
    ap: float = 0.4


ACQUISITIONS: dict[str, Acquisition] = {
    "mimic-cxr": Acquisition(),
    "nih-cxr14": Acquisition(
        gamma=(0.7, 1.0), contrast=(1.0, 1.8), window=((1.0, 6.0), (94.0, 98.5)), noise=(0.02, 0.045),
        scale=(1.02, 1.18), rotation=3.5, shift=1.2, collimation=0.05, marker=0.8, ap=0.4,
    ),
    "rsna-pneumonia": Acquisition(
        gamma=(0.9, 1.35), contrast=(0.2, 1.2), noise=(0.02, 0.05), blur=(0.08, 0.18), scatter=(0.35, 0.75),
        scale=(0.98, 1.16), rotation=5.0, shift=1.4, collimation=0.25, marker=0.8, ap=0.55,
    ),
    "siim-acr": Acquisition(
        gamma=(0.65, 0.95), contrast=(0.8, 1.6), noise=(0.015, 0.04), blur=(0.04, 0.10),
        scale=(0.94, 1.08), rotation=4.0, shift=1.4, collimation=0.2, marker=0.7, ap=0.5,
    ),
    "covidx-cxr4": Acquisition(
        gamma=(0.6, 1.5), contrast=(0.0, 2.2), window=((0.0, 8.0), (92.0, 100.0)), noise=(0.01, 0.06),
        blur=(0.05, 0.25), scatter=(0.2, 0.9), scale=(0.88, 1.2), rotation=6.0, shift=2.0,
        collimation=0.3, marker=0.5, ap=0.7,
    ),
}  # fmt: skip
"""The acquisition of each data set's hospital; ``mimic-cxr`` is the reference, the others are shifted."""


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

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
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


def resolve(acquisition: Acquisition | str) -> Acquisition:
    """The acquisition of a name; raises ``ConfigError`` for an unknown one."""
    if isinstance(acquisition, Acquisition):
        return acquisition
    if acquisition not in ACQUISITIONS:
        raise ConfigError("unknown acquisition", found=acquisition, remedy=nearest(acquisition, ACQUISITIONS))
    return ACQUISITIONS[acquisition]


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
        images[i] = _expose(view, film, rng)
        packed.append([(instance, np.packbits(mask)) for instance, mask in masks])
    return Rendered(images, Masks(size, packed))


def _camera(size: int, film: Acquisition, rng: np.random.Generator) -> Camera:
    turn, dx, dy = rng.uniform(-1, 1, 3)
    return Camera(
        size, float(rng.uniform(*film.scale)), film.rotation * turn, (film.shift * dx, film.shift * dy)
    )


def _project(
    scene: Scene, size: int, film: Acquisition, seed: int
) -> tuple[Projection, list[tuple[FindingInstance, BoolArray]], np.random.Generator]:
    rng = np.random.default_rng([seed, 21, scene.image])
    body = chest(seed, scene.patient, scene.image, scene.view)
    findings.deform(body, scene, seed)
    view = Projection(body, _camera(size, film, rng))
    add_normal_structures(view, np.random.default_rng([seed, 22, scene.patient]))
    masks = findings.paint(view, scene, seed)
    add_devices(view, scene, np.random.default_rng([seed, 23, scene.study]))
    return view, masks, rng


def _expose(view: Projection, film: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Beam, scatter, unsharpness, quantum noise, display curve."""
    size = view.camera.size
    nepers = (
        np.float32(MU_WATER) * view.water_path()
        + np.float32(MU_BONE) * np.maximum(view.bone, 0)
        + np.float32(MU_METAL) * view.metal
    )
    primary = np.exp(-nepers)
    blur = float(rng.uniform(*film.blur)) * view.camera.pixels_per_cm
    primary = cv2.GaussianBlur(primary, (0, 0), max(blur, 0.3))
    small = cv2.resize(primary, (32, 32), interpolation=cv2.INTER_AREA)
    veil = cv2.resize(cv2.GaussianBlur(small, (0, 0), 3.5), (size, size), interpolation=cv2.INTER_LINEAR)
    signal = primary + np.float32(rng.uniform(*film.scatter)) * veil
    noise = np.float32(rng.uniform(*film.noise) * (size / 128.0) ** 0.5)
    mean = np.float32(signal.mean())
    signal += np.sqrt(signal * mean) * noise * rng.standard_normal((size, size), dtype=np.float32)
    dense = -np.log(np.maximum(signal, np.float32(1e-4)))
    return _display(dense, film, rng)


def _display(dense: FloatArray, film: Acquisition, rng: np.random.Generator) -> NDArray[np.uint8]:
    low_at, high_at = (float(rng.uniform(*r)) for r in film.window)
    gamma, contrast = float(rng.uniform(*film.gamma)), float(rng.uniform(*film.contrast))
    size = dense.shape[0]
    edge = size // 12
    step = max(1, size // 42)
    low, high = np.percentile(dense[edge:-edge:step, edge:-edge:step], [low_at, high_at])
    low -= float(rng.uniform(*film.toe)) * (high - low)
    tone = np.clip((dense - np.float32(low)) * np.float32(1.0 / max(high - low, 1e-3)), 0.0, 1.0)
    levels = np.linspace(0, 1, 1024, dtype=np.float32)
    curve = levels**gamma
    if contrast > 0.05:
        bend = 1.0 / (1.0 + np.exp(-2.5 * contrast * (2 * curve - 1)))
        curve = (bend - bend[0]) / (bend[-1] - bend[0])
    table = np.clip(np.rint(curve * 255), 0, 255).astype(np.uint8)
    return np.take(table, (tone * np.float32(1023)).astype(np.int32))


def boxes(mask: BoolArray) -> tuple[float, float, float, float]:
    """Bounding box (x, y, width, height) of a mask [H, W] in fractions of the image, all 0 for an empty one."""
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
    from replication.phantom.regions import region_masks

    view, _, _ = _project(scene, size, resolve(acquisition), seed)
    return region_masks(view)
