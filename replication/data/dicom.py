"""The image of a DICOM file, with light bones on a dark ground whatever its photometric interpretation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from replication.data.limits import check_pixels
from replication.errors import DataError

MISLABELLED = "marked MONOCHROME1 but stored with light bones; not inverted"
"""Note of a file whose photometric interpretation contradicts its picture."""

POLARITY_MARGIN = 0.5
"""By how many standard deviations the mediastinum must be lighter than each lung to overrule the tag.

On 1,360 films (NIH, covid-chestxray) an upright picture passes in four cases of five, an inverted one
in one of five hundred."""


class DicomImage(NamedTuple):
    """``pixels`` [H, W] or [H, W, 3], uint8 or deeper; ``view`` and ``note`` as in ``Radiograph``."""

    pixels: NDArray[np.generic]
    view: str
    note: str


def looks_like_dicom(content: bytes) -> bool:
    """Whether the content has the DICOM preamble."""
    return content[128:132] == b"DICM"


def read_header(path: Path, tags: list[str]) -> pydicom.Dataset:
    """Some tags of a file, its pixels unread.

    Raises:
        DataError: the file is no DICOM file.
    """
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    except (InvalidDicomError, OSError, EOFError) as error:
        raise DataError(
            "The file is no DICOM file.",
            where=path,
            found=error,
            allowed="DICOM part 10",
            remedy="fetch the file again",
        ) from error


def decode_dicom(content: bytes, where: str | Path) -> DicomImage:
    """Pixels of a DICOM file after modality rescaling, display window and photometric interpretation.

    MONOCHROME1 (small values are light) is inverted, unless the stored picture clearly shows a chest with
    light bones already: some archives carry a wrong tag, and a negative would be scored as another patient.

    Raises:
        DataError: the file holds no image, several frames, or damaged pixels, or is compressed in a way that
            needs the optional extra ``dicom``.
    """
    _refuse_deflated(content, where)
    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
    except Exception as error:  # pydicom raises a dozen kinds on a damaged header
        raise _damaged(where, error, content) from error
    if "PixelData" not in dataset:
        raise DataError(
            "A DICOM file holds no image.",
            where=where,
            found=f"SOP class {dataset.get('SOPClassUID', 'unknown')}, no pixel data",
            allowed="one radiograph",
            remedy="remove the file from the list, or fetch it again",
        )
    _check_decoder(dataset, where)
    try:
        samples = int(dataset.SamplesPerPixel) * int(dataset.get("NumberOfFrames") or 1)
        check_pixels(int(dataset.Rows) * int(dataset.Columns) * samples, where)
        pixels = _displayed(dataset)
    except DataError:
        raise
    except Exception as error:  # as above; decoders add their own kinds
        raise _damaged(where, error, content) from error
    if pixels.ndim != (3 if int(dataset.SamplesPerPixel) == 3 else 2):
        raise DataError(
            "A DICOM file holds several frames.",
            where=where,
            found=f"an array of shape {pixels.shape}",
            allowed="one frame",
        )
    note = ""
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        if _has_light_mediastinum(pixels):
            note = MISLABELLED
        else:
            pixels = _inverted(pixels)
    return DicomImage(pixels, str(dataset.get("ViewPosition", "") or ""), note)


def _displayed(dataset: pydicom.Dataset) -> NDArray[np.generic]:
    """The pixels; uint8 if eight bits are stored or a window maps them there."""
    stored = pixel_array(dataset)
    if int(dataset.SamplesPerPixel) != 1:
        return np.asarray(stored)
    values = apply_modality_lut(stored, dataset)
    windowed = "VOILUTSequence" in dataset or "WindowCenter" in dataset
    if windowed:
        low, high = _window_range(dataset)
        values = apply_voi_lut(values, dataset)
        if not (high > low and np.isfinite(values).all()):
            raise ValueError("the rescaling or the display window maps the pixels onto no range of numbers")
        return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    if stored.dtype == np.uint8 and np.array_equal(values, stored):
        return np.asarray(stored)
    if not np.isfinite(values).all():
        raise ValueError("the rescaling maps the pixels onto no numbers")
    return np.asarray(values)


def _window_range(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Smallest and largest value that pydicom's ``apply_voi_lut`` maps onto."""
    if "VOILUTSequence" in dataset:
        return 0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if "ModalityLUTSequence" in dataset:
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(dataset.BitsStored)
    signed = int(dataset.PixelRepresentation) == 1
    ends = np.array([-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1] if signed else [0.0, 2.0**bits - 1])
    if "RescaleSlope" in dataset and "RescaleIntercept" in dataset:
        ends = ends * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    return float(ends.min()), float(ends.max())


def _inverted(pixels: NDArray[Any]) -> NDArray[np.generic]:
    if pixels.dtype == np.uint8:
        return np.asarray(255 - pixels)
    return np.asarray(pixels.max() + pixels.min() - pixels.astype(np.float64))


def _has_light_mediastinum(pixels: NDArray[np.generic]) -> bool:
    """Whether the middle of the upper chest is clearly lighter than the lung fields on both sides."""
    if pixels.ndim != 2:
        return False
    small = cv2.resize(pixels.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    right, middle, left = (
        small[16:40, columns].mean() for columns in (slice(12, 24), slice(28, 36), slice(40, 52))
    )
    return bool(middle - max(right, left) > POLARITY_MARGIN * max(float(small.std()), 1e-6))


def _refuse_deflated(content: bytes, where: str | Path) -> None:
    """Deflated files, which pydicom would inflate to whatever size they hide."""
    if DeflatedExplicitVRLittleEndian.encode() in content[: 2**16]:
        raise DataError(
            "A DICOM file is deflated as a whole.",
            where=where,
            found=f"transfer syntax {DeflatedExplicitVRLittleEndian.name}",
            allowed="compression of the pixels only, as images have it",
            remedy="convert the file to Explicit VR Little Endian",
        )


def _check_decoder(dataset: pydicom.Dataset, where: str | Path) -> None:
    """Raise ``DataError`` if the pixels are compressed and nothing that is installed can read them."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or syntax.is_private or not syntax.is_transfer_syntax or not syntax.is_compressed:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        raise DataError(
            "A DICOM file is compressed in a way that cannot be read here.",
            where=where,
            found=f"transfer syntax {syntax.name} ({syntax})",
            allowed="uncompressed, RLE or JPEG baseline; with the extra: lossless JPEG, JPEG-LS, JPEG 2000",
            remedy="install the decoders (pip install 'medslip-bench[dicom]'), or decompress the files",
        )


def _damaged(where: str | Path, error: Exception, content: bytes) -> DataError:
    return DataError(
        "A DICOM file is damaged or cut short.",
        where=where,
        found=f"{error} ({len(content)} bytes)",
        allowed="one complete frame",
        remedy="fetch the file again",
    )
