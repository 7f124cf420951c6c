"""Damage of tables, lists and annotations, and files that are not there."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

from . import raw
from .damage import (
    Damage,
    Spoil,
    cut,
    every_column,
    holding,
    last_line_repeated,
    of,
    removed,
    replaced,
    turned_into_a_folder,
)


def archived(spoil: Callable[[bytes], bytes]) -> Spoil:
    """The table is there as a spoilt ``.gz`` only."""

    def apply(path: Path) -> None:
        content = gzip.compress(os.urandom(40_000).hex().encode())
        path.with_name(f"{path.name}.gz").write_bytes(spoil(content))
        path.unlink()

    return apply


CHEXPERT = raw.CHEXPERT_HEADER.split(",")[1:]
STAGE_1 = ("new_filename", "ImageId", "has_pneumo")
LABEL = "label is not in the protocol"
OUTSIDE = "box lies outside its image"
GONE = "files that a table names are missing"
ESCAPE = "leaves the folder"
IDENTIFIER = "identifier is not usable"
SHIFT = bytes(255 - value for value in range(256))

COLUMNS = [
    *every_column("NIH", "Data_Entry_2017_v2020.csv", "Image Index", "Finding Labels", "Patient ID"),
    *every_column("NIH", "BBox_List_2017.csv", "Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"),
    *every_column("RSNA", "stage_2_train_labels.csv", "patientId", "x", "y", "width", "height", "Target"),
    *every_column("RSNA, released list", "test.csv", "ID", "boxes", "classes"),
    *every_column("SIIM, DICOM", "train-rle.csv", "ImageId", "EncodedPixels"),
    *every_column("SIIM, PNG", "stage_1_train_images.csv", *STAGE_1),
    *every_column("SIIM, PNG", "stage_1_test_images.csv", *STAGE_1),
    *every_column("MIMIC", "mimic-cxr-2.0.0-split.csv", "dicom_id", "study_id", "subject_id", "split"),
    *every_column("MIMIC", "mimic-cxr-2.0.0-metadata.csv", "dicom_id", "ViewPosition"),
    *every_column("MIMIC", "mimic-cxr-2.0.0-chexpert.csv", *CHEXPERT),
    *every_column("MIMIC, exact labels", "phantom-labels.csv", "study_id", "atelectasis", "hernia"),
    *every_column(
        "covid-chestxray", "metadata.csv", "image", "patient_id", "view", "finding", "has_lung_mask"
    ),
]

NIH = [
    *of(
        "NIH",
        "Data_Entry_2017_v2020.csv",
        ("table missing", removed, "is missing"),
        ("quotation mark never closed", replaced("Mass", '"Mass'), LABEL),
        ("image listed twice", last_line_repeated, "is repeated"),
        ("patient in two splits", replaced(",0,1,57", ",0,0,57"), "two splits"),
        ("label unknown", replaced("Infiltration", "Infiltrated"), LABEL),
        ("label is a formula", replaced("Infiltration", "=2+5"), LABEL),
        ("patient is a formula", replaced(",0,0,57", ",0,=HYPERLINK(A1),57"), IDENTIFIER),
        ("patient left empty", replaced(",0,0,57", ",0,,57"), IDENTIFIER),
    ),
    *of(
        "NIH",
        "BBox_List_2017.csv",
        ("NaN in a box", replaced("256.0", "NaN"), "holds no number"),
        ("infinite box", replaced("256.0", "inf"), OUTSIDE),
        ("box outside its image", replaced("256.0", "956.0"), OUTSIDE),
        ("box of an unknown finding", replaced("Effusion", "Tumour"), "label of a box"),
        ("box of an unknown image", replaced("00000001_000", "00009999_000"), "belongs to no listed image"),
    ),
    *of("NIH", "test_list.txt", ("one of two lists missing", removed, "is missing")),
    Damage(
        "image in two lists",
        "NIH",
        "test_list.txt",
        replaced("00000001_000", "00000000_000"),
        ("in both official lists", "test_list.txt, row 1"),
    ),
    Damage(
        "image in no list",
        "NIH",
        "test_list.txt",
        replaced("00000001_000.png\n", ""),
        ("in neither official list", "00000001_000.png"),
    ),
    *of(
        "NIH",
        "images_001/images/00000000_000.png",
        ("image missing", removed, GONE),
        ("folder in place of an image", turned_into_a_folder, GONE),
    ),
]

RSNA = [
    *of(
        "RSNA",
        "stage_2_train_labels.csv",
        ("table empty", holding(b""), "cannot be read"),
        ("table of a header only", holding(b"patientId,x,y,width,height,Target\n"), "no image"),
        ("table cut short in a row", cut(0.995), LABEL),
        ("table is no text", holding(b"\xff\xfe\x00a,b"), "cannot be read"),
        ("one row longer than the header", replaced(",,,,0", ",,,,0,7"), "cannot be read"),
        ("row shorter than the header", replaced(",,,,0", ",,"), LABEL),
        ("rows contradict each other", replaced("600.0,100.0,200.0,300.0,1", ",,,,0"), "contradict"),
        ("label neither 0 nor 1", replaced(",,,,0", ",,,,2"), LABEL),
        ("text in a box", replaced("100,200", "left,200"), "holds no number"),
        ("box of negative size", replaced("300,400,1", "-300,400,1"), OUTSIDE),
    ),
    *of(
        "RSNA, released list",
        "test.csv",
        ("list names an unknown image", replaced("patient-0003", "patient-99"), "that the labels do not"),
        ("boxes of two tables differ", replaced("100;200;300;400", "100;200;300;401"), "not those of the"),
        ("box of three numbers", replaced("100;200;300;400", "100;200;300"), "box string cannot be read"),
    ),
]

SIIM = [
    *of(
        "SIIM, DICOM",
        "train-rle.csv",
        ("rows contradict each other", replaced(f"{raw.siim_uid(1)},", f"{raw.siim_uid(0)},"), "contradict"),
        ("run length outside its image", replaced("10 20 1004 30", "1048570 20"), "leaves its image"),
        ("run length of a huge number", replaced("10 20", f"{10**30} 20"), "cannot be read"),
        ("run lengths not in pairs", replaced("10 20 1004", "10 20"), "no list of pairs"),
    ),
    *of("SIIM, PNG", "stage_1_test_images.csv", ("label neither 0 nor 1", replaced(",1\n", ",yes\n"), LABEL)),
    *of("SIIM, PNG", "png_masks/4_train_1_.png", ("mask missing", removed, GONE)),
]

COVID = [
    *of(
        "COVIDx",
        "val.txt",
        ("list cut short in a line", cut(0.9), LABEL),
        ("line with too few fields", replaced(" negative rsna", ""), "line of the list cannot be read"),
        ("class of a line unknown", replaced("negative", "neg"), LABEL),
        ("name too long for the disk", replaced("val-0.png", "9" * 300 + ".png"), GONE),
    ),
    *of(
        "COVIDx",
        "train.txt",
        ("list is no text", holding(b"\xff\xfe\x00"), "no UTF-8 text"),
        ("path that climbs out", replaced("train-0.png", "../../etc/passwd"), ESCAPE),
        ("control character in a name", replaced("0 train-0.png", "0 tr\x07ain-0.png"), IDENTIFIER),
    ),
    *of("COVIDx", "test.txt", ("image listed twice", last_line_repeated, "listed twice")),
    *of(
        "covid-chestxray",
        "metadata.csv",
        ("rows longer than the header", replaced("sex,", ""), "cannot be read"),
        ("flag neither True nor False", replaced("False", "maybe"), "holds something else"),
        ("path that climbs out", replaced("0.png", "../../secret.png"), ESCAPE),
        ("image is a formula", replaced("0.png", "@SUM(A1).png"), IDENTIFIER),
    ),
]

MIMIC = [
    *of(
        "MIMIC",
        "mimic-cxr-2.0.0-split.csv",
        ("unknown split", replaced("validate", "holdout"), "Unknown split"),
        ("image listed twice", replaced("dicom-1-ap", "dicom-0-pa"), "is repeated"),
        ("path that climbs out", replaced("10000000", "../../../../etc"), ESCAPE),
    ),
    *of(
        "MIMIC",
        "mimic-cxr-2.0.0-metadata.csv",
        ("archive cut short", archived(lambda content: content[:9000]), "cannot be read"),
        ("archive with wrong bytes", archived(lambda c: c[:90] + c[90:].translate(SHIFT)), "cannot be read"),
        ("image not in the second table", replaced("dicom-2-pa", "dicom-9-pa"), "not in the metadata"),
    ),
    *of(
        "MIMIC",
        "mimic-cxr-2.0.0-chexpert.csv",
        ("study listed twice", last_line_repeated, "is repeated"),
        ("NaN as a label", replaced(",1.0,0.0,", ",1.0,nan,"), "is not in the protocol"),
    ),
    *of(
        "MIMIC",
        "MIMIC-CXR_graphs.json",
        ("RadGraph file cut short", cut(0.7), "MIMIC-CXR_graphs.json"),
        ("RadGraph relation to nothing", replaced('["located_at", "2"]', '["located_at", "7"]'), "s50000000"),
        ("RadGraph entity without a field", replaced('"label"', '"lable"'), "s50000000"),
        ("RadGraph study listed twice", replaced("p10000001/s50000001", "p9/s50000000"), "the same study"),
    ),
    Damage(
        "RadGraph file of other studies",
        "MIMIC",
        "MIMIC-CXR_graphs.json",
        holding(b"{}"),
        ("No study of the data set is annotated", "RadGraph file"),
    ),
    *of(
        "MIMIC",
        "files/p10/p10000001/s50000001.txt",
        ("report is no text", holding(b"\xff\xfe\xff"), "no UTF-8 text"),
        ("report missing", removed, GONE),
    ),
]

TABLES = [*COLUMNS, *NIH, *RSNA, *SIIM, *COVID, *MIMIC]
