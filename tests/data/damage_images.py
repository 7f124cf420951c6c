"""Damage of single images: cut short, of the wrong kind, or claiming more than they hold."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from . import raw
from .damage import Spoil, cut, holding, of


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(side: int) -> bytes:
    """A PNG file whose header promises a large grey image and that holds a few bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def text_bomb(path: Path) -> None:
    """A comment before the picture that unpacks to 64 MiB."""
    content = path.read_bytes()
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26), 9))
    path.write_bytes(content[:33] + bomb + content[33:])


def jpeg_claiming(path: Path) -> None:
    """The frame header promises 65,500 x 65,500 pixels."""
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 65500, 65500)
    path.write_bytes(content)


def flipped(path: Path) -> None:
    """One bit in the middle of the file is wrong."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def sparse(path: Path) -> None:
    """Three gibibytes that take no room on the disk."""
    with path.open("r+b") as file:
        file.truncate(3 * 2**30)


def stored(**tags: object) -> Spoil:
    """A DICOM file with other tags; ``None`` leaves one out."""

    def spoil(path: Path) -> None:
        data = raw.dicom(raw.picture(1))
        for name, value in tags.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        raw.write_dicom(path, data)

    return spoil


def deflated(path: Path) -> None:
    """64 MiB of zeros behind the header, deflated."""
    data = raw.dicom(raw.picture(1))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    # The file meta information begins with its own length.
    end = 144 + struct.unpack("<I", content[140:144])[0]
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:end] + compressor.compress(bytes(2**26)) + compressor.flush())


def encoded(syntax: UID) -> Spoil:
    """Pixels that are said to be compressed and are not."""

    def spoil(path: Path) -> None:
        data = raw.dicom(raw.picture(1))
        data.PixelData = encapsulate([b"no picture at all "])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = syntax
        raw.write_dicom(path, data)

    return spoil


def two_frames(path: Path) -> None:
    frames = np.stack([raw.picture(1), raw.picture(2)])
    raw.write_dicom(path, raw.dicom(frames, NumberOfFrames=2, Rows=40, Columns=40))


def empty_mask(path: Path) -> None:
    raw.write_picture(path, np.zeros((40, 40), np.uint8))


BROKEN = "damaged or cut short"
TOO_MANY = "claims more pixels"
SIXTEEN_BITS = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
NAN = float("nan")

IMAGES = [
    *of(
        "NIH",
        "images_001/images/00000000_000.png",
        ("PNG cut short", cut(0.6), BROKEN),
        ("one bit of a PNG wrong", flipped, BROKEN),
        ("PNG that claims 100,000 x 100,000 pixels", holding(png_claiming(100_000)), TOO_MANY),
        ("PNG that claims 9,000 x 9,000 pixels", holding(png_claiming(9_000)), TOO_MANY),
        ("PNG with a comment that unpacks to 64 MiB", text_bomb, BROKEN),
        ("file empty", holding(b""), "image file is empty"),
        ("web page in place of an image", holding(b"<html>log in</html>"), "file is no image"),
        ("image of another format", holding(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "file is no image"),
        ("file of 3 GiB", sparse, "larger than a radiograph"),
        image=True,
    ),
    *of(
        "MIMIC",
        "files/p10/p10000000/s50000000/dicom-0-pa.jpg",
        ("JPEG cut short", cut(0.6), BROKEN),
        ("JPEG that claims 65,500 x 65,500 pixels", jpeg_claiming, TOO_MANY),
        image=True,
    ),
    *of(
        "RSNA",
        "stage_2_train_images/patient-0001.dcm",
        ("DICOM cut short", cut(0.9), BROKEN),
        ("DICOM cut short in its header", cut(0.1), "holds no image"),
        ("DICOM that claims 65,535 x 65,535 pixels", stored(Rows=65535, Columns=65535), TOO_MANY),
        ("DICOM that claims a million frames", stored(NumberOfFrames=10**6), TOO_MANY),
        ("DICOM deflated from 64 MiB", deflated, "is deflated as a whole"),
        ("DICOM without pixels", stored(PixelData=None), "holds no image"),
        ("DICOM without its height", stored(Rows=None), BROKEN),
        ("DICOM with the wrong type of pixels", stored(**SIXTEEN_BITS), BROKEN),
        ("DICOM of several frames", two_frames, "holds several frames"),
        ("DICOM with a window of no width", stored(WindowCenter=9, WindowWidth=0), BROKEN),
        ("DICOM rescaled to NaN", stored(RescaleSlope=NAN, RescaleIntercept=0), "no numbers"),
        (
            "DICOM rescaled to a point, with a window",
            stored(RescaleSlope=0, RescaleIntercept=0, WindowCenter=9, WindowWidth=9),
            "no range of numbers",
        ),
        ("DICOM that holds a video", encoded(MPEG2MPML), "cannot be read here"),
        ("DICOM with a broken JPEG 2000 stream", encoded(JPEG2000Lossless), BROKEN),
        image=True,
    ),
    *of(
        "SIIM, PNG",
        "png_masks/4_train_1_.png",
        ("mask cut short", cut(0.6), BROKEN),
        ("mask empty although positive", empty_mask, "mask is empty"),
        image=True,
    ),
]
