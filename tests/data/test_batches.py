from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from replication.data.batches import MEAN, STD, PreparedData, normalise
from replication.data.prepare import prepare
from replication.data.readers import DatasetReader
from replication.errors import DataError
from replication.knowledge.vocabulary import PATHOLOGIES, anatomy_index, pathology_index
from replication.protocol_config import load_protocol, protocol_ids
from replication.registry import dataset_reader
from replication.tasks import transfer
from replication.tasks.evaluate import TASKS
from replication.training_config import AugmentationConfig
from replication.transfer_config import base_task

from . import raw

EFFUSION = pathology_index("effusion")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("mimic")
    raw.write_mimic(folder / "raw", exact=True)
    out = prepare("mimic-cxr", folder / "raw", folder / "out", size=24, workers=1, progress=False)
    return PreparedData.open(out)


def test_normalising_is_that_of_imagenet() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 5, 5)).astype(np.uint8)
    result = normalise(grey)
    expected = (
        torch.from_numpy(grey).float()[:, None] / 255 - torch.tensor(MEAN)[:, None, None]
    ) / torch.tensor(STD)[:, None, None]
    assert result.dtype == torch.float32
    assert torch.allclose(result, expected, atol=1e-6)


def test_an_evaluation_batch_is_the_cache(data: PreparedData) -> None:
    batch = data.batch([4, 1], augmentation=None, seed=9)
    assert torch.equal(batch.images, normalise(data.images[[4, 1]]))
    assert batch.seed == 9
    assert batch.reports[1] == data.reports["50000001"]
    assert batch.labels.tolist() == data.labels[[4, 1]].tolist()
    assert batch.labels.dtype == batch.triplets.dtype == torch.int8
    assert batch.triplets.shape == (2, 51, 75)


def test_a_study_without_annotation_mentions_nothing(data: PreparedData) -> None:
    triplets = data.batch(range(6), augmentation=None, seed=0).triplets
    assert (triplets[5] == -1).all()
    assert triplets[0, anatomy_index("left_pleural"), EFFUSION] == 1


@pytest.mark.parametrize("kind", ["batched", "released"])
def test_swapping_labels_follows_each_flip(data: PreparedData, kind: str) -> None:
    rows = [0, 1, 2, 3] * 8
    swap = data.batch(rows, augmentation=AugmentationConfig(kind=kind, hflip="swap_labels"), seed=1)
    keep = data.batch(rows, augmentation=AugmentationConfig(kind=kind, hflip="keep_labels"), seed=1)
    assert torch.equal(swap.images, keep.images)
    right = swap.triplets[:, anatomy_index("right_pleural"), EFFUSION] == 1
    left = swap.triplets[:, anatomy_index("left_pleural"), EFFUSION] == 1
    assert torch.equal(right, ~left)
    assert 0 < right.sum() < len(rows)
    assert [("right" in text) for text in swap.reports] == right.tolist()
    assert (keep.triplets[:, anatomy_index("left_pleural"), EFFUSION] == 1).all()
    assert all("left" in text for text in keep.reports)
    # Nothing of it reaches the arrays on disk.
    assert (data.triplets[:, anatomy_index("left_pleural"), EFFUSION] == 1).all()


def test_rows_of_a_split(data: PreparedData) -> None:
    assert data.rows("train").tolist() == [0, 1, 2]
    assert data.rows("val").tolist() == [3]
    with pytest.raises(DataError, match="train, val, test"):
        data.rows("validate")


def test_opening_a_folder_that_is_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prepared data set"):
        PreparedData.open(tmp_path)


class TestProtocols:
    @pytest.mark.parametrize("name", protocol_ids())
    def test_a_protocol_fits_its_reader(self, name: str) -> None:
        protocol = load_protocol(name)
        reader: type[DatasetReader] = dataset_reader(protocol.dataset)
        assert protocol.split in reader.splits
        classes = {finding.pathology for finding in protocol.findings} - {None}
        assert classes <= set(PATHOLOGIES)
        columns = [finding.column for finding in protocol.findings]
        if protocol.dataset == "covid-chestxray":
            assert set(columns) <= set(reader.label_names)
        elif protocol.dataset != "mimic-cxr":
            assert columns == list(reader.label_names)
        assert set(protocol.tasks) <= {*TASKS, *map(base_task, transfer.TASKS)}
        with_regions = {"zero_shot_grounding", "finetune_segmentation"} & set(protocol.tasks)
        assert bool(with_regions) == (protocol.grounding != "none")

    def test_the_released_classes_of_the_nih_findings(self) -> None:
        """Indices of the released zero-shot script."""
        findings = load_protocol("nih-cxr14/official-25596/v1").findings
        indices = [pathology_index(str(finding.pathology)) for finding in findings]
        assert indices == [12, 24, 8, 56, 54, 38, 20, 10, 14, 11, 52, 73, 43, 59]

    def test_data_that_follow_a_protocol_pass(self, data: PreparedData) -> None:
        data.check_protocol(load_protocol("mimic-cxr/phantom-labels/v1"))
        data.check_protocol(load_protocol("mimic-cxr/relations/v1"))

    def test_another_data_set_is_refused(self, data: PreparedData) -> None:
        with pytest.raises(DataError, match="dataset differs"):
            data.check_protocol(load_protocol("nih-cxr14/phantom/v1"))

    def test_another_reading_is_refused(self, data: PreparedData) -> None:
        protocol = load_protocol("mimic-cxr/phantom-labels/v1")
        for change in ({"split": "patient-seeded"}, {"equalize": True}):
            with pytest.raises(DataError, match=f"{next(iter(change))} differs"):
                data.check_protocol(protocol.model_copy(update=change))

    def test_other_counts_are_refused(self, data: PreparedData) -> None:
        protocol = load_protocol("mimic-cxr/phantom-labels/v1")
        data.check_protocol(protocol.model_copy(update={"counts": {"test": 2}}))
        with pytest.raises(DataError, match="number of images"):
            data.check_protocol(protocol.model_copy(update={"counts": {"test": 25596}}))

    def test_a_label_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        source = raw.write_mimic(tmp_path / "raw")
        out = prepare("mimic-cxr", source, tmp_path / "out", size=16, workers=1, progress=False)
        chexpert = PreparedData.open(out)
        with pytest.raises(DataError, match="do not have") as error:
            chexpert.check_protocol(load_protocol("mimic-cxr/phantom-labels/v1"))
        assert "infiltration" in str(error.value)
        chexpert.check_protocol(load_protocol("mimic-cxr/relations/v1"))
