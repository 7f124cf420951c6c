from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replication.data import split_lists
from replication.data.nih_cxr14 import NihCxr14
from replication.data.rsna_pneumonia import RsnaPneumonia
from replication.data.siim_acr import SiimAcr
from replication.data.split_fetch import fetch
from replication.data.split_lists import SplitList, all_split_lists, apply_lists, load_split_list
from replication.data.splits import SPLITS, shuffled_splits
from replication.errors import ConfigError, DataError
from replication.protocol_config import load_protocol, protocol_ids
from replication.registry import dataset_reader

from . import raw


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of split lists in place of the suite's own."""
    folder = tmp_path / "lists"
    monkeypatch.setattr(split_lists, "FOLDER", folder)
    folder.mkdir()
    return folder


def describe(lists: Path, split_id: str, **files: int) -> None:
    """Lists ``train``, ``val`` and ``test`` of so many rows."""
    entries = "".join(
        f"  {name}: {{path: x/{name}, commit: {'a' * 40}, split: {name}, rows: {rows}}}\n"
        for name, rows in files.items()
    )
    path = lists / f"{split_id.replace('/', '--')}.yaml"
    path.write_text(
        f"id: {split_id}\nbase: patient-seeded\nrepository: some/one\nsource: a test\nfiles:\n{entries}"
    )


def rsna(tmp_path: Path) -> tuple[Path, list[str]]:
    source = raw.write_rsna(tmp_path / "rsna")
    return source, [f"patient-{k:04d}" for k in range(20)]


def give(source: Path, split_id: str, **content: list[str]) -> list[Path]:
    files = {}
    for name, rows in content.items():
        files[name] = source.parent / f"given-{name}"
        files[name].write_text("\n".join(rows) + "\n")
    return fetch(load_split_list(split_id), source, files)


def test_every_protocol_follows_a_rule_of_its_reader() -> None:
    for protocol_id in protocol_ids():
        protocol = load_protocol(protocol_id)
        reader = dataset_reader(protocol.dataset)
        assert protocol.split in reader.splits, protocol_id
        assert reader.leaks(protocol.split) == protocol.leaks, protocol_id


def test_lists_and_protocols_state_the_same_counts() -> None:
    by_rule = {(p.dataset, p.split): p.counts or {} for p in map(load_protocol, protocol_ids())}
    for split in all_split_lists():
        dataset = split.id.partition("/")[0]
        counts = by_rule[dataset, split.rule]
        assert split.base in dataset_reader(dataset).splits
        for file in split.files.values():
            assert file.path is None or file.commit is not None
            if file.split in counts and "by-row" not in split.id:
                assert counts[file.split] == file.rows, split.id


def test_a_reader_follows_fetched_lists(lists: Path, tmp_path: Path) -> None:
    describe(lists, "rsna-pneumonia/lovt", train=10, val=4, test=6)
    source, names = rsna(tmp_path)
    with pytest.raises(DataError, match="replicate data splits fetch rsna-pneumonia/lovt"):
        RsnaPneumonia.records(source, "lovt")
    # Three forms of a line: an image alone, a row of a table under a header, a path.
    test = [f"files/{name}.dcm 0 1" for name in names[14:]]
    give(source, "rsna-pneumonia/lovt", train=names[:10], val=["id,boxes", *names[10:14]], test=test)
    records = RsnaPneumonia.records(source, "lovt")
    assert records["split"].tolist() == ["train"] * 10 + ["val"] * 4 + ["test"] * 6
    assert records["sample_id"].tolist() == names


def test_wrong_lists_are_refused(lists: Path, tmp_path: Path) -> None:
    describe(lists, "rsna-pneumonia/lovt", train=10, val=4, test=6)
    source, names = rsna(tmp_path)
    good = {"train": names[:10], "val": names[10:14], "test": names[14:]}
    wrong = {
        "names an image": {**good, "val": ["stranger", *names[11:14]]},
        "in two lists": {**good, "val": names[9:13]},
        "are in no list": {**good, "val": [*names[10:13], names[12]]},
    }
    for message, content in wrong.items():
        give(source, "rsna-pneumonia/lovt", **content)
        with pytest.raises(DataError, match=message):
            RsnaPneumonia.records(source, "lovt")
    with pytest.raises(DataError, match="length that is on record"):
        give(source, "rsna-pneumonia/lovt", **{**good, "test": names[10:14]})
    with pytest.raises(ConfigError, match="No list"):
        fetch(load_split_list("rsna-pneumonia/lovt"), source, {"tset": source})


def test_a_list_that_changed_after_it_was_fetched_is_refused(lists: Path, tmp_path: Path) -> None:
    describe(lists, "rsna-pneumonia/lovt", train=10, val=4, test=6)
    source, names = rsna(tmp_path)
    train, *_ = give(source, "rsna-pneumonia/lovt", train=names[:10], val=names[10:14], test=names[14:])
    train.write_text("\n".join([*names[1:10], names[0]]) + "\n")
    with pytest.raises(DataError, match="another content"):
        RsnaPneumonia.records(source, "lovt")


def test_fetching_pins_commit_and_content(
    lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(lists, "rsna-pneumonia/lovt", train=2)
    asked = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(b"one\ntwo\n")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    split = load_split_list("rsna-pneumonia/lovt")
    (path,) = fetch(split, tmp_path)
    assert path.read_bytes() == b"one\ntwo\n"
    assert asked == [f"https://raw.githubusercontent.com/some/one/{'a' * 40}/x/train"]
    fetch(split, tmp_path)
    assert len(asked) == 1
    path.unlink()
    known = split.files["train"].model_copy(update={"sha256": hashlib.sha256(b"other").hexdigest()})
    with pytest.raises(DataError, match="another content"):
        fetch(split.model_copy(update={"files": {"train": known}}), tmp_path)
    assert not path.exists()


def test_without_network_the_message_says_what_to_do(
    lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(lists, "rsna-pneumonia/lovt", train=2)

    def offline(url: str, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match="--file train=PATH"):
        fetch(load_split_list("rsna-pneumonia/lovt"), tmp_path)
    assert not (tmp_path / "splits").exists()


def test_images_of_a_by_row_split_stand_in_several_splits(tmp_path: Path) -> None:
    source = raw.write_siim_dicom(tmp_path / "siim", images=40)
    table = source / "train-rle.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([*rows, *[rows[k] for k in range(1, 40) if "-1" not in rows[k]] * 3]) + "\n")
    records = SiimAcr.records(source, "mgca-by-row")
    drawn = shuffled_splits(len(pd.read_csv(table)))
    images = pd.read_csv(table)["ImageId"]
    assert len(records) == len(set(zip(images, drawn, strict=True)))
    files = records.groupby("file")["split"].nunique()
    assert (files > 1).any()
    assert records["sample_id"].is_unique
    assert load_protocol("siim-acr/mgca-by-row/v1").leaks


def test_the_shuffle_is_the_one_of_the_released_code() -> None:
    # 26,684 patients of RSNA and 11,582 rows of SIIM's stage 1 (the specification's counts).
    assert Counter(shuffled_splits(26684)) == {"train": 18678, "val": 4003, "test": 4003}
    assert Counter(shuffled_splits(11582)) == {"train": 8107, "val": 1738, "test": 1737}
    order = np.random.RandomState(0).permutation(101)
    rest, half = order[:31], np.random.RandomState(0).permutation(31)
    expected = np.full(101, "train", object)
    expected[rest[half[:16]]], expected[rest[half[16:]]] = "val", "test"
    assert shuffled_splits(101) == expected.tolist()


def test_rules_of_the_readers_themselves(tmp_path: Path) -> None:
    source, _ = rsna(tmp_path)
    assert set(RsnaPneumonia.records(source, "all-test")["split"]) == {"test"}
    assert Counter(RsnaPneumonia.records(source, "mgca")["split"]) == {"train": 14, "val": 3, "test": 3}


def test_the_rest_of_a_list_is_split_by_patient(lists: Path, tmp_path: Path) -> None:
    source = raw.write_nih(tmp_path / "nih", patients=40)
    images = sorted(path.name for path in source.rglob("*.png"))
    (lists / "nih-cxr14--cxr-lt-val.yaml").write_text(
        "id: nih-cxr14/cxr-lt-val\nbase: patient-seeded\nsource: a test\nrest: split\nfiles:\n"
        "  val: {split: test, rows: 10}\n  test: {split: unused, rows: 10}\n"
    )
    give(source, "nih-cxr14/cxr-lt-val", val=images[:10], test=images[10:20])
    records = NihCxr14.records(source, "cxr-lt-val")
    assert len(records) == len(images) - 10
    assert records.loc[records["split"] == "test", "sample_id"].tolist() == images[:10]
    assert set(records["split"]) == set(SPLITS)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(["train", "val", "test"]), min_size=1, max_size=30),
    st.sampled_from(["{}", "a/b/{}.png", "{},1,2", "{}.dcm 0 0", " {} "]),
)
def test_any_form_of_line_puts_an_image_into_its_split(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], form: str
) -> None:
    source = tmp_path_factory.mktemp("forms")
    names = [f"1.2.{k}" for k in range(len(parts))]
    files = {part: {"split": part, "rows": parts.count(part)} for part in SPLITS if part in parts}
    split = SplitList.model_validate(
        {"id": "some/rule", "base": "patient-seeded", "source": "a test", "files": files}
    )
    given_files = {}
    for part in files:
        given_files[part] = source / part
        rows = [form.format(name) for name, one in zip(names, parts, strict=True) if one == part]
        given_files[part].write_text("\n".join(rows))
    fetch(split, source, given_files)
    records = pd.DataFrame(
        {"sample_id": names, "patient_id": names, "file": [f"{n}.dcm" for n in names], "origin": names}
    )
    assert apply_lists(split, records, source)["split"].tolist() == parts
