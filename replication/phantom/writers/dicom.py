"""One radiograph as a DICOM file: secondary capture, eight bits, uncompressed, explicit VR little endian."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

IMPLEMENTATION = UID("1.2.826.0.1.3680043.8.498.1")
"""Implementation class UID written into the files."""


def uid(*parts: str | int) -> UID:
    """A UID of the root for UUIDs (2.25) that only depends on its parts."""
    return UID(f"2.25.{UUID(pseudonym(*parts)).int}")


def pseudonym(*parts: str | int) -> str:
    """An identifier in the form of a UUID that only depends on its parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return str(UUID(bytes=digest[:16], version=4))


def write_dicom(
    path: Path,
    image: NDArray[np.uint8],
    *,
    patient_id: str,
    study_uid: UID,
    series_uid: UID,
    sop_uid: UID,
    view: str,
    age: int,
    sex: str,
    inverted: bool = False,
) -> None:
    """Write an image [H, W] with light bones.

    Args:
        inverted: store the negative and say so (``MONOCHROME1``): it is displayed the same.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = "MEDSLIP_BENCH"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = sop_uid
    data.StudyDate = "19010101"
    data.StudyTime = "000000.00"
    data.AccessionNumber = ""
    data.Modality = "CR"
    data.ConversionType = "WSD"
    data.ReferringPhysicianName = ""
    data.SeriesDescription = f"view: {view}"
    data.PatientName = patient_id
    data.PatientID = patient_id
    data.PatientBirthDate = ""
    data.PatientSex = sex
    data.PatientAge = f"{age:03d}Y"
    data.BodyPartExamined = "CHEST"
    data.ViewPosition = view
    data.StudyInstanceUID = study_uid
    data.SeriesInstanceUID = series_uid
    data.StudyID = ""
    data.SeriesNumber = "1"
    data.InstanceNumber = "1"
    data.PatientOrientation = ""
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.Rows, data.Columns = image.shape
    spacing = f"{420 / image.shape[1]:.6g}"
    data.PixelSpacing = [spacing, spacing]
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelRepresentation = 0
    pixels = (255 - image if inverted else image).tobytes()
    data.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))
    data.save_as(path, enforce_file_format=True)
