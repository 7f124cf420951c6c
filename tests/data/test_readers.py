from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.data.boxes import boxes_from_json
from replication.data.covid_chestxray import CovidChestxray
from replication.data.covidx_cxr4 import CovidxCxr4, parse_line
from replication.data.mimic_cxr import MimicCxr
from replication.data.nih_cxr14 import NIH_LABELS, NihCxr14, parse_labels
from replication.data.readers import DatasetReader
from replication.data.rsna_pneumonia import RsnaPneumonia
from replication.data.siim_acr import SiimAcr
from replication.errors import ConfigError, DataError
from replication.registry import DATASETS, dataset_reader, names

from . import raw

READERS = [MimicCxr, NihCxr14, RsnaPneumonia, SiimAcr, CovidxCxr4, CovidChestxray]


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_is_registered_and_says_where_its_data_are(reader: type[DatasetReader]) -> None:
    assert dataset_reader(reader.name) is reader
    assert reader.name in names(DATASETS)
    for text in (reader.homepage, reader.terms, reader.layout, *reader.splits.values()):
        assert len(text) > 20


def by_id(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.set_index("sample_id")


class TestNih:
    def test_rows(self, tmp_path: Path) -> None:
        rows = by_id(NihCxr14.records(raw.write_nih(tmp_path)))
        assert len(rows) == 24
        row = rows.loc["00000001_000.png"]
        assert row["file"] == "images_001/images/00000001_000.png"
        assert (row["split"], row["patient_id"], row["view"]) == ("test", "1", "PA")
        assert row["label:effusion"] == row["label:mass"] == 1
        assert row["label:hernia"] == 0
        assert rows.loc["00000000_000.png"].filter(like="label:").sum() == 0

    def test_boxes_are_fractions_of_the_1024_frame(self, tmp_path: Path) -> None:
        rows = by_id(NihCxr14.records(raw.write_nih(tmp_path)))
        assert boxes_from_json(rows.loc["00000001_000.png", "boxes"]) == [
            ("effusion", 0.25, 0.5, 0.125, 0.0625),
            ("mass", 0, 0, 1, 1),
        ]
        infiltrate = boxes_from_json(rows.loc["00000003_001.png", "boxes"])[0]
        assert infiltrate.finding == "infiltration"

    def test_the_official_split_carves_val_out_of_train_val_by_patient(self, tmp_path: Path) -> None:
        rows = NihCxr14.records(raw.write_nih(tmp_path, patients=64), "official")
        assert set(rows.loc[rows["split"] == "test", "patient_id"]) == {str(k) for k in range(1, 64, 4)}
        assert 0 < (rows["split"] == "val").sum() < (rows["split"] == "train").sum()
        assert rows.groupby("patient_id")["split"].nunique().max() == 1

    def test_without_lists_patients_are_split_by_hash(self, tmp_path: Path) -> None:
        source = raw.write_nih(tmp_path)
        for name in ("train_val_list.txt", "test_list.txt"):
            (source / name).unlink()
        assert NihCxr14.default_split(source) == "patient-seeded"
        NihCxr14.records(source)
        with pytest.raises(DataError, match="official split is missing"):
            NihCxr14.records(source, "official")

    def test_columns_are_read_by_name_not_position(self, tmp_path: Path) -> None:
        source = raw.write_nih(tmp_path)
        before = NihCxr14.records(source)
        path = source / "Data_Entry_2017_v2020.csv"
        table = pd.read_csv(path, dtype=str)
        table[table.columns[::-1]].to_csv(source / "Data_Entry_2017.csv", index=False)
        path.unlink()
        assert NihCxr14.records(source).drop(columns="origin").equals(before.drop(columns="origin"))

    @given(st.sets(st.sampled_from(sorted(NIH_LABELS)), min_size=1))
    def test_label_strings(self, labels: set[str]) -> None:
        assert parse_labels("|".join(labels), "here") == {NIH_LABELS[label] for label in labels}

    @given(st.text(max_size=20).filter(lambda t: not set(t.split("|")) & {*NIH_LABELS, "No Finding"}))
    def test_other_label_strings_are_refused(self, text: str) -> None:
        if {part.strip() for part in text.split("|")} & {*NIH_LABELS, "No Finding"}:
            return
        with pytest.raises(DataError, match="not in the protocol"):
            parse_labels(text, "here")


class TestRsna:
    def test_several_rows_of_a_patient_are_one_image(self, tmp_path: Path) -> None:
        rows = by_id(RsnaPneumonia.records(raw.write_rsna(tmp_path)))
        assert len(rows) == 20
        first = rows.loc["patient-0000"]
        assert first["label:pneumonia"] == 1
        assert len(boxes_from_json(first["boxes"])) == 2
        assert rows.loc["patient-0001", "boxes"] == "[]"
        assert rows["label:pneumonia"].sum() == 5
        assert set(rows["split"]) == {"train", "val", "test"}

    def released(self, source: Path, *rows: str) -> None:
        raw.lines(source / "test.csv", "ID,img_path,boxes,classes", *rows)

    def test_the_released_list_is_the_test_split(self, tmp_path: Path) -> None:
        source = raw.write_rsna(tmp_path)
        two = "100;200;300;400|600.0;100.0;200.0;300.0"
        self.released(source, f"patient-0000,a/b/c.dcm,{two},1", "patient-0003,a/b/d.dcm,,0")
        rows = by_id(RsnaPneumonia.records(source, "released-list"))
        assert rows.index[rows["split"] == "test"].tolist() == ["patient-0000", "patient-0003"]

    @pytest.mark.parametrize(
        "line", ["patient-0000,x,100;200;300;401,1", "nobody,x,,0", "patient-0004,x,1;2;3,1"]
    )
    def test_a_released_list_that_contradicts_the_labels_is_refused(self, tmp_path: Path, line: str) -> None:
        source = raw.write_rsna(tmp_path)
        self.released(source, line)
        with pytest.raises(DataError, match=r"test\.csv, row 2"):
            RsnaPneumonia.records(source, "released-list")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("patient-0001,,,,,0", "patient-0001,,,,,2", "not in the protocol"),
            ("patient-0001,,,,,0", "patient-0001,,,,,1", "holds no number"),
            ("100,200,300,400,1", "100,200,300,900,1", "outside its image"),
            ("600.0,100.0,200.0,300.0,1", ",,,,0", "contradict"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        source = raw.write_rsna(tmp_path)
        raw.edit(source / "stage_2_train_labels.csv", old, new)
        with pytest.raises(DataError, match=message) as error:
            RsnaPneumonia.records(source)
        assert "stage_2_train_labels.csv, row" in str(error.value)


class TestSiim:
    def test_the_dicom_form(self, tmp_path: Path) -> None:
        source = raw.write_siim_dicom(tmp_path)
        assert SiimAcr.default_split(source) == "patient-seeded"
        rows = by_id(SiimAcr.records(source))
        assert len(rows) == 16
        assert rows["label:pneumothorax"].sum() == 4
        assert rows.loc[raw.siim_uid(0), "mask_rle"] == f"10 20 1004 30|{1024 * 1023} 1024"
        assert rows.loc[raw.siim_uid(1), "mask_rle"] == ""
        assert rows.loc[raw.siim_uid(3), "patient_id"] == "person-1"
        assert rows.groupby("patient_id")["split"].nunique().max() == 1

    def test_the_column_without_its_leading_space_is_read_too(self, tmp_path: Path) -> None:
        source = raw.write_siim_dicom(tmp_path)
        before = SiimAcr.records(source)
        raw.edit(source / "train-rle.csv", "ImageId, EncodedPixels", "ImageId,EncodedPixels")
        assert SiimAcr.records(source).equals(before)

    def test_the_png_form(self, tmp_path: Path) -> None:
        source = raw.write_siim_png(tmp_path)
        assert SiimAcr.default_split(source) == "stage-1"
        rows = by_id(SiimAcr.records(source))
        assert (rows["split"] == "test").sum() == 4
        assert rows.loc["4_train_1_.png", "mask_file"] == "png_masks/4_train_1_.png"
        assert rows.loc["1_test_0_.png", "mask_file"] == ""

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (" -1", " 1048570 10", "leaves its image"),
            (" -1", " 5", "cannot be read"),
            (f"{raw.siim_uid(1)}, -1", f"{raw.siim_uid(0)}, -1", "contradict"),
            (f"{raw.siim_uid(1)}, -1", "1.2.3, -1", "are missing"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        source = raw.write_siim_dicom(tmp_path)
        raw.edit(source / "train-rle.csv", old, new)
        with pytest.raises(DataError, match=message) as error:
            SiimAcr.records(source)
        assert "train-rle.csv, row 4" in str(error.value)


class TestCovidx:
    def test_every_line_of_the_headerless_lists_is_an_image(self, tmp_path: Path) -> None:
        rows = by_id(CovidxCxr4.records(raw.write_covidx(tmp_path)))
        assert rows["split"].value_counts().to_dict() == {"train": 6, "test": 4, "val": 2}
        assert rows.loc["train 1.png", "label:covid"] == 1
        assert rows.loc["train-0.png", "patient_id"] == "cohen/0"

    word = st.text(st.characters(whitelist_categories=("L", "N"), whitelist_characters="-_."), min_size=1)

    @given(word, st.lists(word, min_size=1, max_size=3), st.booleans(), word)
    def test_lines(self, patient: str, parts: list[str], positive: bool, source: str) -> None:
        kind = "positive" if positive else "negative"
        line = parse_line(f"{patient} {' '.join(parts)} {kind} {source}", "here")
        assert line == (patient, " ".join(parts), int(positive), source)

    @pytest.mark.parametrize(
        "line", ["patient_id filename class data_source", "1 a.png positive", "1 a.png maybe rsna"]
    )
    def test_other_lines_are_refused(self, tmp_path: Path, line: str) -> None:
        source = raw.write_covidx(tmp_path)
        raw.edit(source / "val.txt", "0 val-0.png negative rsna", line)
        with pytest.raises(DataError, match=r"val\.txt, row 1"):
            CovidxCxr4.records(source)


class TestCovidChestxray:
    def test_findings_that_nobody_filled_in_are_unknown(self, tmp_path: Path) -> None:
        rows = by_id(CovidChestxray.records(raw.write_covid_chestxray(tmp_path)))
        assert rows["label:covid"].tolist() == [1, 1, -1, 0, 0, 1]
        assert rows["label:lungs"].tolist() == [1, -1] * 3
        assert rows["mask_file"].tolist() == [
            "lung_masks/0.png",
            "",
            "lung_masks/2.png",
            "",
            "lung_masks/4.png",
            "",
        ]
        assert rows.loc["0.png", "split"] == rows.loc["1.png", "split"]

    def test_a_flag_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        source = raw.write_covid_chestxray(tmp_path)
        raw.edit(source / "metadata.csv", "3.png,1,,PA,Streptococcus,False", "3.png,1,,PA,Streptococcus,no")
        with pytest.raises(DataError, match=r"metadata\.csv, row 5"):
            CovidChestxray.records(source)


class TestMimic:
    def test_frontal_images_with_chexpert_labels(self, tmp_path: Path) -> None:
        rows = by_id(MimicCxr.records(raw.write_mimic(tmp_path)))
        assert rows["view"].tolist() == ["PA", "AP"] * 3
        assert rows["split"].tolist() == ["train"] * 3 + ["val"] + ["test"] * 2
        row = rows.loc["dicom-0-pa"]
        assert row["file"] == "files/p10/p10000000/s50000000/dicom-0-pa.jpg"
        found = {
            name: row[f"label:{name}"] for name in ("atelectasis", "cardiomegaly", "consolidation", "edema")
        }
        assert found == {"atelectasis": 1, "cardiomegaly": 0, "consolidation": -1, "edema": -1}
        assert row["label:effusion"] == 1

    def test_compressed_tables_and_reports_of_their_own_folder(self, tmp_path: Path) -> None:
        source = raw.write_mimic(tmp_path)
        before = MimicCxr.records(source)
        for kind in ("split", "metadata", "chexpert"):
            path = source / f"mimic-cxr-2.0.0-{kind}.csv"
            (source / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        for report in source.glob("files/*/*/*.txt"):
            new = source / "mimic-cxr-reports" / report.relative_to(source)
            new.parent.mkdir(parents=True, exist_ok=True)
            report.rename(new)
        after = MimicCxr.records(source)
        assert after["report_file"].str.startswith("mimic-cxr-reports/files/p10").all()
        changed = ["origin", "report_file"]
        assert after.drop(columns=changed).equals(before.drop(columns=changed))

    def test_a_damaged_archive_is_refused(self, tmp_path: Path) -> None:
        source = raw.write_mimic(tmp_path)
        path = source / "mimic-cxr-2.0.0-metadata.csv"
        content = gzip.compress(path.read_bytes() * 50)
        (source / f"{path.name}.gz").write_bytes(content[: len(content) // 2])
        path.unlink()
        with pytest.raises(DataError, match="cannot be read"):
            MimicCxr.records(source)

    def test_exact_labels_take_the_place_of_the_labeller(self, tmp_path: Path) -> None:
        rows = MimicCxr.records(raw.write_mimic(tmp_path, exact=True))
        assert (rows["label:effusion"] == 1).all()
        assert (rows["label:pleural_thickening"] == 0).all()
        assert "label:fracture" not in rows.columns

    def test_triplets(self, tmp_path: Path) -> None:
        triplets = MimicCxr.triplets(raw.write_mimic(tmp_path))
        assert triplets is not None
        studies, matrix = triplets
        assert studies == tuple(str(50000000 + k) for k in range(5))
        assert matrix.shape == (5, 51, 75)
        assert (matrix == 1).sum() == 5

    def test_a_dangling_relation_is_refused(self, tmp_path: Path) -> None:
        source = raw.write_mimic(tmp_path)
        path = source / "MIMIC-CXR_graphs.json"
        documents = json.loads(path.read_text())
        documents["p10/p10000002/s50000002.txt"]["entities"]["3"]["relations"] = [["located_at", "9"]]
        path.write_text(json.dumps(documents))
        with pytest.raises(DataError) as error:
            MimicCxr.triplets(source)
        assert "s50000002" in str(error.value)

    @pytest.mark.parametrize(
        ("kind", "old", "new", "message"),
        [
            ("split", "validate", "valid", "Unknown split"),
            ("metadata", "dicom-2-pa,", "dicom-9-pa,", "not in the metadata"),
            ("chexpert", ",1.0,0.0,-1.0", ",1.0,yes,-1.0", "not in the protocol"),
            ("split", "dicom-1-ap", "dicom-0-pa", "repeated"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, kind: str, old: str, new: str, message: str) -> None:
        source = raw.write_mimic(tmp_path)
        raw.edit(source / f"mimic-cxr-2.0.0-{kind}.csv", old, new)
        with pytest.raises(DataError, match=message) as error:
            MimicCxr.records(source)
        assert ", row " in str(error.value)


Writer = Callable[[Path], Path]
COLUMNS: list[tuple[type[DatasetReader], Writer, str, str, str]] = [
    (NihCxr14, raw.write_nih, "Data_Entry_2017_v2020.csv", "Finding Labels", "Labels"),
    (NihCxr14, raw.write_nih, "BBox_List_2017.csv", "Bbox [x", "Box"),
    (RsnaPneumonia, raw.write_rsna, "stage_2_train_labels.csv", "Target", "target_"),
    (SiimAcr, raw.write_siim_dicom, "train-rle.csv", " EncodedPixels", " Pixels"),
    (SiimAcr, raw.write_siim_png, "stage_1_test_images.csv", "has_pneumo", "label"),
    (MimicCxr, raw.write_mimic, "mimic-cxr-2.0.0-metadata.csv", "ViewPosition", "View"),
    (MimicCxr, raw.write_mimic, "mimic-cxr-2.0.0-chexpert.csv", "Pleural Effusion", "Effusion"),
]


@pytest.mark.parametrize(("reader", "write", "table", "column", "other"), COLUMNS)
def test_a_missing_column_is_named(
    tmp_path: Path, reader: type[DatasetReader], write: Writer, table: str, column: str, other: str
) -> None:
    source = write(tmp_path)
    raw.edit(source / table, column, other)
    with pytest.raises(DataError, match="is missing") as error:
        reader.records(source)
    message = str(error.value)
    assert repr(column.strip()) in message
    assert table in message
    assert other.strip() in message


def test_a_table_that_is_no_table_is_refused(tmp_path: Path) -> None:
    source = raw.write_rsna(tmp_path)
    (source / "stage_2_train_labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        RsnaPneumonia.records(source)
    (source / "stage_2_train_labels.csv").write_text("")
    with pytest.raises(DataError, match="cannot be read"):
        RsnaPneumonia.records(source)


def test_a_missing_folder_says_where_to_get_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source folder") as error:
        NihCxr14.records(tmp_path / "nowhere")
    assert "nihcc.app.box.com" in str(error.value)


def test_an_unknown_split_rule_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="patient-seeded"):
        RsnaPneumonia.records(raw.write_rsna(tmp_path), "patient-seed")


def test_a_patient_in_two_splits_is_named(tmp_path: Path) -> None:
    source = raw.write_nih(tmp_path)
    raw.edit(source / "test_list.txt", "00000001_000.png\n", "")
    with (source / "train_val_list.txt").open("a") as file:
        file.write("00000001_000.png\n")
    with pytest.raises(DataError, match="two splits") as error:
        NihCxr14.records(source, "official")
    message = str(error.value)
    assert "patient 1:" in message
    assert "00000001_000.png" in message
    assert "00000001_001.png" in message


def test_an_image_in_two_lists_is_named(tmp_path: Path) -> None:
    source = raw.write_covidx(tmp_path)
    with (source / "test.txt").open("a") as file:
        file.write("0 train-0.png negative cohen\n")
    with pytest.raises(DataError, match="listed twice") as error:
        CovidxCxr4.records(source)
    assert "train.txt, row 1" in str(error.value)
    assert "test.txt, row 5" in str(error.value)


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    source = raw.write_rsna(tmp_path)
    for k in (3, 5):
        (source / f"stage_2_train_images/patient-{k:04d}.dcm").unlink()
    with pytest.raises(DataError, match="2 of 20 files") as error:
        RsnaPneumonia.records(source)
    assert "patient-0003.dcm" in str(error.value)
    assert "row 6" in str(error.value)
