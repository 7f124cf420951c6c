from __future__ import annotations

from pathlib import Path

import harness_doubles as doubles
import numpy as np
import pytest
import torch
from torch import Tensor

from replication.data.batches import PreparedData
from replication.data.prepare import prepare
from replication.errors import DataError
from replication.knowledge.vocabulary import ANATOMIES, PATHOLOGIES, anatomy_index, pathology_index
from replication.method import ImageTrunk, Method
from replication.phantom.ground_truth import GroundTruth
from replication.phantom.rendering import regions
from replication.phantom.writers import write_phantom
from replication.tasks import disentanglement, disentanglement_patches
from replication.tasks.common import NothingToMeasure
from replication.tasks.disentanglement import drawn_rows, targets
from replication.tasks.disentanglement_patches import COVERED, PATCHES, REGIONS, chosen, shares, shown

FINDINGS = [
    {"name": "effusion", "column": "spot", "text": "pleural effusion", "pathology": "effusion"},
    {"name": "edema", "column": "noise", "text": "pulmonary edema", "pathology": "edema"},
]
PROTOCOL = doubles.protocol(
    id="mimic-cxr/double/v1", dataset="mimic-cxr", tasks=["disentanglement"], findings=FINDINGS
)
PLACES = ("left_lower_lung", "right_lower_lung", "heart_size", "unspecified")
NAMES = [finding["name"] for finding in FINDINGS]


def triplets(images: int, seed: int = 0) -> np.ndarray:
    """Mostly a single finding, in a place that does not depend on which it is."""
    rng = np.random.default_rng(seed)
    cells = np.full((images, len(ANATOMIES), len(PATHOLOGIES)), -1, dtype=np.int8)
    for cell, kind, place in zip(cells, rng.integers(0, 5, images), rng.integers(0, 4, images), strict=True):
        for bit, name in enumerate(NAMES):
            column = pathology_index(name)
            if kind in (bit, bit + 2, 4 - 4 * bit):
                cell[anatomy_index(PLACES[place]), column] = 1
            else:
                cell[anatomy_index("pleural_unspec"), column] = rng.integers(-1, 1)
    return cells


DATA = doubles.prepared(
    patients=240, dataset="mimic-cxr", triplets=triplets(480), splits=("train", "train", "val", "test")
)


class Planted(doubles.TinyMethod):
    """Knows what to put in each stream by the pixels of an image."""

    known: dict[bytes, dict[str, np.ndarray]]

    def streams(self, images: Tensor) -> dict[str, Tensor]:
        found = [self.known[image.cpu().numpy().tobytes()] for image in images]
        return {
            name: torch.from_numpy(np.stack([one[name] for one in found]).astype(np.float32))
            for name in found[0]
        }


def keyed(data: PreparedData, contents: list[dict[str, np.ndarray]]) -> Planted:
    """A method with given streams ``[C, h, w]`` for every image of the data."""
    method = doubles.method(Planted)
    images = data.batch(np.arange(len(contents)), augmentation=None, seed=0).images
    method.known = {image.cpu().numpy().tobytes(): one for image, one in zip(images, contents, strict=True)}
    return method


def test_planted_streams_come_out_disentangled() -> None:
    assert DATA.triplets is not None
    stated = targets(DATA.triplets, PROTOCOL)
    rng = np.random.default_rng(0)

    def maps(labels: np.ndarray) -> np.ndarray:
        signal = 4.0 * np.clip(labels, 0, 1)[:, None, None]
        return signal + rng.standard_normal((len(labels), 3, 3))

    what, where = stated["pathology"].labels, stated["anatomy"].labels
    contents = [
        {"trunk": maps(np.r_[a, b]), "pathology": maps(a), "anatomy": maps(b)}
        for a, b in zip(what, where, strict=True)
    ]
    predictions = disentanglement.predict(keyed(DATA, contents), DATA, PROTOCOL)
    found = {(m.finding, m.metric): m for m in disentanglement.measure(predictions, PROTOCOL, draws=50)}
    assert found["pathology", "pathology_auc"].value > 0.95
    assert found["anatomy", "anatomy_auc"].value > 0.95
    assert found["anatomy", "side_auc"].value > 0.95
    assert found["pathology", "side_auc"].value < 0.7
    for stream in ("pathology", "anatomy"):
        assert found[stream, "contrast_to_trunk"].lower > 0.1
    places = predictions.arrays["shown"]
    assert predictions.arrays["features/anatomy"].shape == (len(places), where.shape[1])
    side = predictions.frame[predictions.frame["finding"] == "anatomy/anatomy/heart_size"]
    assert (side["label"].to_numpy()[places] >= 0).all()


def test_a_method_with_one_stream_is_a_comparison() -> None:
    predictions = disentanglement.predict(doubles.method(), DATA, PROTOCOL)
    found = {(m.finding, m.metric) for m in disentanglement.measure(predictions, PROTOCOL, draws=10)}
    assert {stream for stream, _ in found} == {"trunk"}
    assert not any("contrast" in metric for _, metric in found)
    again = disentanglement.predict(doubles.method(), DATA, PROTOCOL)
    assert predictions.frame.equals(again.frame)
    assert set(predictions.frame["split"]) == {"test"}


def test_targets_say_what_the_reports_state() -> None:
    """The literal twin, cell by cell."""
    assert DATA.triplets is not None
    stated = targets(DATA.triplets, PROTOCOL)
    for image, cells in enumerate(DATA.triplets):
        present = {
            name: {ANATOMIES[i] for i in np.flatnonzero(cells[:, pathology_index(name)] == 1)}
            for name in NAMES
        }
        there = [name for name in NAMES if present[name]]
        assert list(stated["pathology"].labels[image]) == [int(name in there) for name in NAMES]
        places = present[there[0]] if len(there) == 1 else None
        for name, label in zip(stated["anatomy"].classes, stated["anatomy"].labels[image], strict=True):
            assert label == (-1 if places is None else int(name in places))
        sides = {place.split("_")[0] for place in places or ()} & {"left", "right"}
        expected = -1 if len(sides) != 1 else int(sides == {"left"})
        assert stated["side"].labels[image, 0] == expected
    assert "unspecified" not in stated["anatomy"].classes


def test_images_are_drawn_by_split_and_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disentanglement, "MOST", {"train": 30, "val": 10, "test": 1000})
    rows = drawn_rows(DATA, PROTOCOL)
    split = DATA.manifest["split"].to_numpy()[rows]
    assert {name: int((split == name).sum()) for name in ("train", "val", "test")} == {
        "train": 30,
        "val": 10,
        "test": len(DATA.rows("test")),
    }
    assert len(set(rows.tolist())) == len(rows)
    assert np.array_equal(rows, drawn_rows(DATA, PROTOCOL))


def test_data_without_annotation_or_masks_have_nothing_to_measure() -> None:
    with pytest.raises(NothingToMeasure, match="annotated reports"):
        disentanglement.predict(doubles.method(), doubles.prepared(dataset="mimic-cxr"), PROTOCOL)
    with pytest.raises(NothingToMeasure, match="exact masks"):
        disentanglement_patches.predict(doubles.method(), DATA, PROTOCOL)


def test_a_method_without_a_trunk_is_left_out() -> None:
    class Bare(doubles.TinyMethod):
        def streams(self, images: Tensor) -> dict[str, Tensor]:
            return Method.streams(self, images)

    method = doubles.method(Bare)
    del method.trunk
    assert not isinstance(getattr(method, "trunk", None), ImageTrunk)
    with pytest.raises(NothingToMeasure, match="no image trunk"):
        disentanglement.predict(method, DATA, PROTOCOL)


def test_streams_on_different_grids_are_refused() -> None:
    method = keyed(DATA, [{"trunk": np.zeros((1, 2, 2)), "anatomy": np.zeros((1, 3, 3))}] * 480)
    with pytest.raises(ValueError, match="different grids"):
        disentanglement.predict(method, DATA, PROTOCOL)


SIZE, GRID = 64, (4, 4)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom("mimic-cxr", folder / "raw", n_patients=150, size=SIZE, seed=5, workers=1, progress=False)
    prepare("mimic-cxr", folder / "raw", folder / "prepared", size=SIZE, workers=1, progress=False)
    return PreparedData.open(folder / "prepared")


def raw(data: PreparedData) -> Path:
    return Path(str(data.provenance["source"]))


def test_the_truth_is_that_of_the_images(phantom: PreparedData) -> None:
    samples = list(phantom.manifest["sample_id"].iloc[:12])
    truth = GroundTruth.open(raw(phantom), samples)
    for sample in samples:
        scene = truth.scenes[sample]
        assert set(truth.findings(sample)) == {found.finding for found in scene.findings}
        again = regions(scene, SIZE, seed=truth.seed)
        assert all(np.array_equal(mask, again[name]) for name, mask in truth.regions(sample).items())
    # A region follows the image: the lungs are darker than the rest of the body.
    row = int(np.flatnonzero(phantom.manifest["sample_id"] == samples[0])[0])
    image, lung = phantom.images[row].astype(float), truth.regions(samples[0])["pulmonary"]
    body = image > 20
    assert image[lung & body].mean() < image[~lung & body].mean()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 6, "does not give the image"),
        ("phantom_version", "0", "Another phantom"),
        ("dataset", "nih-cxr14", "Another phantom"),
    ],
)
def test_a_phantom_that_is_not_what_its_record_says(
    phantom: PreparedData, tmp_path: Path, key: str, value: object, message: str
) -> None:
    import json

    facts = json.loads((raw(phantom) / "phantom.json").read_text())
    (tmp_path / "phantom.json").write_text(json.dumps({**facts, key: value}))
    (tmp_path / "truth.parquet").write_bytes((raw(phantom) / "truth.parquet").read_bytes())
    with pytest.raises(DataError, match=message):
        GroundTruth.open(tmp_path, [str(phantom.manifest["sample_id"].iloc[0])])


def test_planted_patches_come_out_disentangled(phantom: PreparedData) -> None:
    protocol = doubles.protocol(
        id="mimic-cxr/double/v1",
        dataset="mimic-cxr",
        tasks=["disentanglement_patches"],
        findings=[{"name": name, "column": name, "text": name} for name in ("effusion", "cardiomegaly")],
    )
    names = [finding.name for finding in protocol.findings]
    samples = [str(name) for name in phantom.manifest["sample_id"]]
    truth = GroundTruth.open(raw(phantom), samples)
    rng = np.random.default_rng(0)
    contents = []
    for sample in samples:
        what = shares(truth.findings(sample), names, GRID).reshape(-1, *GRID)
        where = shares(truth.regions(sample), REGIONS, GRID).reshape(-1, *GRID)
        maps = {"pathology": what, "anatomy": where, "trunk": np.concatenate([what, where])}
        contents.append({k: v + 0.02 * rng.standard_normal(v.shape) for k, v in maps.items()})
    predictions = disentanglement_patches.predict(keyed(phantom, contents), phantom, protocol)
    found = {
        (m.finding, m.metric): m for m in disentanglement_patches.measure(predictions, protocol, draws=20)
    }
    assert found["pathology", "pathology_auc"].value > 0.95
    assert found["anatomy", "anatomy_auc"].value > 0.95
    assert found["pathology", "contrast_to_trunk"].value > 0.1
    assert found["anatomy", "contrast_to_trunk"].value > 0.03
    per_image = predictions.frame.drop_duplicates("sample")["sample"].str.split("#").str[0].value_counts()
    assert per_image.max() == PATCHES


def test_shares_of_cells_by_hand() -> None:
    """A grid that does not divide the image, against a loop over cells."""
    rng = np.random.default_rng(0)
    mask = rng.random((10, 10)) < 0.4
    found = shares({"a": mask}, ["a", "b"], (3, 4))
    for y in range(3):
        for x in range(4):
            cell = mask[y * 10 // 3 : (y + 1) * 10 // 3, x * 10 // 4 : (x + 1) * 10 // 4]
            assert found[0, 4 * y + x] == pytest.approx(cell.mean())
    assert not found[1].any()


def test_half_of_the_patches_are_covered_where_enough_are() -> None:
    rng = np.random.default_rng(0)
    covered = np.where(rng.random((50, 64)) < 0.05, rng.random((50, 64)), 0.0)
    patch = chosen(covered, seed=1)
    for image in range(50):
        cells = patch.cell[patch.image == image]
        inside = covered[image, cells] >= COVERED
        assert len(set(cells.tolist())) == PATCHES
        assert inside.sum() == min(PATCHES // 2, (covered[image] >= COVERED).sum())
    assert np.array_equal(chosen(covered, seed=1).cell, patch.cell)
    assert list(shown(np.array([0.0, 0.05, COVERED, 1.0]))) == [0, -1, 1, 1]
