"""Tiny data sets in the real on-disk formats, written by hand and not by our own writers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

Grey = NDArray[np.uint8]


def picture(seed: int, size: int = 40) -> Grey:
    """Noise with lungs: dark on both sides of a light middle."""
    image = np.random.default_rng(seed).integers(150, 190, (size, size)).astype(np.uint8)
    image[:, size // 6 : size * 5 // 12] -= 100
    image[:, size * 7 // 12 : size * 5 // 6] -= 100
    return image


def write_picture(path: Path, image: Grey) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def dicom(image: NDArray[np.generic], **tags: object) -> Dataset:
    """An uncompressed secondary capture of an image [H, W], MONOCHROME2 unless a tag says otherwise."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    data.PhotometricInterpretation = "MONOCHROME2"
    data.SamplesPerPixel = 1
    data.Rows, data.Columns = image.shape[:2]
    data.BitsAllocated = data.BitsStored = image.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(image.dtype.kind == "i")
    data.PixelData = image.tobytes()
    data["PixelData"].VR = "OW" if image.dtype.itemsize > 1 else "OB"
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def write_dicom(path: Path, data: Dataset) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
NIH_FINDINGS = ("No Finding", "Effusion|Mass", "Pleural_Thickening", "Infiltration")


def write_nih(source: Path, patients: int = 12) -> Path:
    """Two images a patient; patients 1, 5, 9 ... have two findings and are the test list."""
    rows, train_val, test = [], [], []
    for patient in range(patients):
        for follow_up in range(2):
            name = f"{patient:08d}_{follow_up:03d}.png"
            findings = NIH_FINDINGS[patient % 4]
            rows.append(f"{name},{findings},{follow_up},{patient},57,M,PA,2682,2749,0.143,0.143")
            (test if patient % 4 == 1 else train_val).append(name)
            folder = "images_001/images" if patient < 2 else "images_002/images"
            write_picture(source / folder / name, picture(2 * patient + follow_up))
    lines(source / "Data_Entry_2017_v2020.csv", NIH_HEADER, *rows)
    lines(source / "train_val_list.txt", *train_val)
    lines(source / "test_list.txt", *test)
    lines(
        source / "BBox_List_2017.csv",
        BOX_HEADER,
        "00000001_000.png,Effusion,256.0,512.0,128.0,64.0,,,",
        "00000001_000.png,Mass,0,0,1024,1024,,,",
        "00000003_001.png,Infiltrate,100.5,200.25,300,400,,,",
    )
    return source


def write_rsna(source: Path, patients: int = 20) -> Path:
    """Every fourth patient has pneumonia, the first of them in two boxes."""
    rows = []
    for k in range(patients):
        name = f"patient-{k:04d}"
        boxes = ["100,200,300,400"] if k % 4 == 0 else [",,,"]
        if k == 0:
            boxes.append("600.0,100.0,200.0,300.0")
        rows += [f"{name},{box},{int(k % 4 == 0)}" for box in boxes]
        data = dicom(picture(k), PatientID=name, ViewPosition="AP" if k % 2 else "PA")
        write_dicom(source / "stage_2_train_images" / f"{name}.dcm", data)
    lines(source / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *rows)
    return source


def write_rsna_released(source: Path) -> Path:
    """RSNA with the released test list: one image with two boxes, one without."""
    write_rsna(source)
    lines(
        source / "test.csv",
        "ID,img_path,boxes,classes",
        "patient-0000,a/b/c.dcm,100;200;300;400|600.0;100.0;200.0;300.0,1",
        "patient-0003,a/b/d.dcm,,0",
    )
    return source


def siim_uid(k: int) -> str:
    return f"1.2.276.0.{k}"


def write_siim_dicom(source: Path, images: int = 16) -> Path:
    """Every fourth image has a pneumothorax, the first of them in two rows; two images a patient."""
    rows = []
    for k in range(images):
        uid = siim_uid(k)
        rows.append(f"{uid}, 10 20 1004 30" if k % 4 == 0 else f"{uid}, -1")
        if k == 0:
            rows.append(f"{uid},{1024 * 1023} 1024")
        data = dicom(picture(k), PatientID=f"person-{k // 2}", ViewPosition="PA")
        write_dicom(source / f"dicom-images-train/study{k}/series{k}/{uid}.dcm", data)
    lines(source / "train-rle.csv", "ImageId, EncodedPixels", *rows)
    return source


def write_siim_png(source: Path) -> Path:
    """Twelve images of stage 1 training, four of testing; every fourth is positive."""
    for split, count in (("train", 12), ("test", 4)):
        rows = []
        for k in range(count):
            positive = int(k % 4 == 0)
            name = f"{k}_{split}_{positive}_.png"
            rows.append(f"{name},{siim_uid(k + 100 * (split == 'test'))},{positive}")
            write_picture(source / "png_images" / name, picture(k))
            mask = np.zeros((40, 40), np.uint8)
            mask[5:15, 20:30] = 255 * positive
            write_picture(source / "png_masks" / name, mask)
        lines(source / f"stage_1_{split}_images.csv", "new_filename,ImageId,has_pneumo", *rows)
    return source


def write_covidx(source: Path) -> Path:
    """Three lists; one file name holds a blank; two sources number their patients alike."""
    for split, count in (("train", 6), ("val", 2), ("test", 4)):
        rows = []
        for k in range(count):
            name = f"{split} {k}.png" if k == 1 else f"{split}-{k}.png"
            kind = "positive" if k % 2 else "negative"
            source_name = {"train": "cohen", "val": "rsna", "test": "bimcv"}[split]
            rows.append(f"{k} {name} {kind} {source_name}")
            write_picture(source / split / name, picture(k + 100 * ord(split[1])))
        lines(source / f"{split}.txt", *rows)
    return source


def write_covid_chestxray(source: Path) -> Path:
    """Findings of every kind, one not filled in; every other image has a mask of the lungs."""
    findings = ["COVID-19", '"COVID-19, ARDS"', "todo", "Streptococcus", "No Finding", "COVID-19"]
    rows = []
    for k, finding in enumerate(findings):
        name, masked = f"{k}.png", k % 2 == 0
        rows.append(f"{name},{k // 2},,PA,{finding},{masked}")
        write_picture(source / "images" / name, picture(k))
        if masked:
            mask = np.zeros((40, 40), np.uint8)
            mask[5:35, 5:15] = 255
            write_picture(source / "lung_masks" / name, mask)
    lines(source / "metadata.csv", "image,patient_id,sex,view,finding,has_lung_mask", *rows)
    return source


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ with cough.

 FINDINGS:

 There is a small left pleural effusion.
 No pneumothorax.

 IMPRESSION:

 Small left effusion .
"""
CHEXPERT_HEADER = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,"
    "Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,"
    "Support Devices"
)


def radgraph_document() -> dict[str, object]:
    """'Small left pleural effusion .': the effusion is located at pleural, which left modifies."""
    return {
        "text": "Small left pleural effusion .",
        "entities": {
            "1": {
                "tokens": "left",
                "label": "ANAT-DP",
                "start_ix": 1,
                "end_ix": 1,
                "relations": [["modify", "2"]],
            },
            "2": {"tokens": "pleural", "label": "ANAT-DP", "start_ix": 2, "end_ix": 2, "relations": []},
            "3": {
                "tokens": "effusion",
                "label": "OBS-DP",
                "start_ix": 3,
                "end_ix": 3,
                "relations": [["located_at", "2"]],
            },
        },
        "data_source": "MIMIC-CXR",
        "data_split": "inference",
    }


def write_mimic(source: Path, *, exact: bool = False) -> Path:
    """Six studies of one frontal and one lateral image; the last study has no RadGraph document."""
    splits, metadata, chexpert, documents = [], [], [], {}
    for k in range(6):
        subject, study = 10000000 + k, 50000000 + k
        folder = source / f"files/p10/p{subject}/s{study}"
        for view in ("AP" if k % 2 else "PA", "LATERAL"):
            name = f"dicom-{k}-{view.lower()}"
            splits.append(
                f"{name},{study},{subject},{('train', 'train', 'train', 'validate', 'test', 'test')[k]}"
            )
            metadata.append(f"{name},{subject},{study},CHEST (PA AND LAT),{view},40,40,21800101")
            write_picture(folder / f"{name}.jpg", picture(k))
        chexpert.append(f"{subject},{study},1.0,0.0,-1.0,,,,,,,1.0,,,,")
        folder.with_suffix(".txt").write_text(REPORT)
        if k < 5:
            documents[f"p10/p{subject}/s{study}.txt"] = radgraph_document()
    lines(source / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", *splits)
    lines(
        source / "mimic-cxr-2.0.0-metadata.csv",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate",
        *metadata,
    )
    lines(source / "mimic-cxr-2.0.0-chexpert.csv", CHEXPERT_HEADER, *chexpert)
    (source / "MIMIC-CXR_graphs.json").write_text(json.dumps(documents))
    if exact:
        findings = (
            "atelectasis,cardiomegaly,effusion,infiltration,mass,nodule,pneumonia,pneumothorax,consolidation,"
            "edema,emphysema,fibrosis,pleural_thickening,hernia"
        )
        rows = [f"{50000000 + k},0,0,1,0,0,0,0,0,0,0,0,0,0,0" for k in range(6)]
        lines(source / "phantom-labels.csv", f"study_id,{findings}", *rows)
    return source


def lines(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
