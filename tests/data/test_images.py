from __future__ import annotations

import io
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from skimage.exposure import equalize_hist

from replication.data.dicom import MISLABELLED
from replication.data.images import decode_image, equalize_histogram, read_image, resize, resize_mask
from replication.errors import DataError

from .raw import dicom, picture, write_dicom


def png(image: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    pixels = Image.fromarray(image)
    (pixels.convert(mode) if mode else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def dicom_bytes(image: np.ndarray, **tags: object) -> bytes:
    buffer = io.BytesIO()
    dicom(image, **tags).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", [None, "RGB", "RGBA", "LA"])
def test_grey_pictures_keep_their_values_in_every_colour_mode(mode: str | None) -> None:
    image = picture(1)
    assert np.array_equal(decode_image(png(image, mode), "x.png").pixels, image)


def test_jpeg_is_read() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(1)).save(buffer, "JPEG", quality=100)
    difference = decode_image(buffer.getvalue(), "x.jpg").pixels.astype(int) - picture(1)
    assert np.abs(difference).max() <= 4


def test_sixteen_bits_are_mapped_from_minimum_to_maximum() -> None:
    deep = (picture(1).astype(np.uint16) * 16) + 7
    expected = np.rint((deep - deep.min()) * (255.0 / float(deep.max() - deep.min())))
    assert np.array_equal(decode_image(png(deep), "x.png").pixels, expected)
    assert np.array_equal(decode_image(dicom_bytes(deep, BitsStored=12, HighBit=11), "x").pixels, expected)


def test_a_flat_deep_image_is_black() -> None:
    assert not decode_image(png(np.full((8, 8), 900, np.uint16)), "x.png").pixels.any()


def test_dicom_pixels_view_and_bits() -> None:
    read = decode_image(dicom_bytes(picture(2), ViewPosition="AP"), "x.dcm")
    assert np.array_equal(read.pixels, picture(2))
    assert read.view == "AP"
    assert read.note == ""


def test_a_display_window_is_applied_after_rescaling() -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    content = dicom_bytes(
        stored,
        BitsStored=12,
        HighBit=11,
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=2000,
        WindowWidth=1000,
    )
    pixels = decode_image(content, "x.dcm").pixels.ravel().astype(int)
    values = stored.ravel().astype(int) * 2 - 100
    assert (pixels[values < 1499] == 0).all()
    assert (pixels[values > 2500] == 255).all()
    inside = (values > 1500) & (values < 2499)
    expected = ((values - 1999.5) / 999 + 0.5) * 255
    assert np.abs(pixels - expected)[inside].max() <= 1


def test_signed_pixels_are_read() -> None:
    stored = picture(3).astype(np.int16) - 100
    pixels = decode_image(dicom_bytes(stored), "x.dcm").pixels
    assert np.corrcoef(pixels.ravel(), stored.ravel())[0, 1] > 0.9999


def test_a_negative_marked_monochrome1_is_inverted() -> None:
    plain = decode_image(dicom_bytes(picture(4)), "x.dcm")
    twin = decode_image(dicom_bytes(255 - picture(4), PhotometricInterpretation="MONOCHROME1"), "y.dcm")
    assert np.array_equal(plain.pixels, twin.pixels)
    assert twin.note == ""


def test_a_positive_marked_monochrome1_is_left_alone_and_noted() -> None:
    twin = decode_image(dicom_bytes(picture(4), PhotometricInterpretation="MONOCHROME1"), "y.dcm")
    assert np.array_equal(twin.pixels, picture(4))
    assert twin.note == MISLABELLED


def test_a_picture_without_a_chest_follows_its_tag() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    content = dicom_bytes(ramp, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode_image(content, "x").pixels, 255 - ramp)


def test_colour_dicom_becomes_grey() -> None:
    colour = np.repeat(picture(5)[..., None], 3, -1)
    content = dicom_bytes(colour, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    assert np.array_equal(decode_image(content, "x").pixels, picture(5))


def compressed(syntax: UID, frame: bytes, image: np.ndarray) -> bytes:
    """A DICOM file that holds a picture as an encoder left it."""
    data = dicom(image)
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def encode(image: np.ndarray, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **settings)
    return buffer.getvalue()


def test_compressed_dicom_reads_like_the_plain_one() -> None:
    image = picture(6, 64)
    plain = decode_image(dicom_bytes(image), "x").pixels
    lossless = compressed(JPEG2000Lossless, encode(image, "JPEG2000", no_jp2=True), image)
    assert np.array_equal(decode_image(lossless, "x").pixels, plain)
    data = dicom(image)
    data.compress(RLELossless, encoding_plugin="pydicom")
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    assert np.array_equal(decode_image(buffer.getvalue(), "x").pixels, plain)
    lossy = compressed(JPEGBaseline8Bit, encode(image, "JPEG", quality=100), image)
    assert np.abs(decode_image(lossy, "x").pixels.astype(int) - plain).max() <= 4


def test_compression_that_needs_the_extra_is_read_with_it() -> None:
    pytest.importorskip("libjpeg", reason="needs the extra `dicom`")
    path = Path(get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False))
    plain = Path(get_testdata_file("MR_small.dcm", download=False))
    expected = decode_image(plain.read_bytes(), plain).pixels
    assert np.array_equal(decode_image(path.read_bytes(), path).pixels, expected)


def test_compression_that_cannot_be_read_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replication.data.dicom.get_decoder", lambda syntax: Missing())
    content = compressed(JPEGLSLossless, b"anything", picture(1))
    with pytest.raises(DataError, match="compressed in a way") as error:
        decode_image(content, "x.dcm")
    for word in ("x.dcm", "JPEG-LS Lossless", "pip install 'medslip-bench[dicom]'"):
        assert word in str(error.value)


class Missing:
    """A decoder none of whose libraries is installed."""

    is_available = False


@given(st.sampled_from(["png", "jpg", "dcm"]), st.randoms(use_true_random=False))
def test_no_damage_is_an_error_of_another_kind(kind: str, draw: random.Random) -> None:
    image = picture(6, 48)
    content = bytearray(dicom_bytes(image) if kind == "dcm" else cv2.imencode(f".{kind}", image)[1].tobytes())
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    try:
        pixels = decode_image(bytes(content[: draw.randint(1, len(content))]), f"x.{kind}").pixels
    except DataError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2


def test_several_frames_are_refused() -> None:
    frames = np.stack([picture(1), picture(2)])
    content = dicom_bytes(frames, NumberOfFrames=2, Rows=40, Columns=40)
    with pytest.raises(DataError, match="several frames"):
        decode_image(content, "x.dcm")


def test_a_dicom_that_is_no_image_is_refused(tmp_path: Path) -> None:
    data = dicom(picture(1))
    del data.PixelData
    write_dicom(tmp_path / "report.dcm", data)
    with pytest.raises(DataError, match="holds no image") as error:
        read_image(tmp_path / "report.dcm")
    assert "report.dcm" in str(error.value)
    assert "remedy" in str(error.value)


@pytest.mark.parametrize("kind", ["png", "jpg", "dcm"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_image_is_refused(tmp_path: Path, kind: str, keep: float) -> None:
    image = picture(6, 200)
    content = dicom_bytes(image) if kind == "dcm" else cv2.imencode(f".{kind}", image)[1].tobytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match="cut short") as error:
        read_image(path)
    assert path.name in str(error.value)


@pytest.mark.parametrize("content", [b"<html>login</html>", b"\x89PNG\r\n\x1a\n", b"DICM"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image(path)
    assert "page.png" in str(error.value)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        read_image(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="empty"):
        read_image(tmp_path / "empty.png")


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_equalisation_is_that_of_scikit_image(image: np.ndarray) -> None:
    expected = (equalize_hist(image / 255.0, nbins=256) * 255).astype(np.uint8)
    assert np.array_equal(equalize_histogram(image), expected)


def test_equalisation_comes_before_anything_else(tmp_path: Path) -> None:
    expected = equalize_histogram(picture(7))
    write_dicom(tmp_path / "x.dcm", dicom(picture(7)))
    assert np.array_equal(read_image(tmp_path / "x.dcm", equalize=True), expected)


def test_resizing_averages_when_shrinking_and_ignores_the_aspect() -> None:
    image = np.zeros((8, 16), np.uint8)
    image[:4, :8] = 200
    assert resize(image, 4).tolist() == [[200, 200, 0, 0]] * 2 + [[0] * 4] * 2
    assert resize(picture(1, 32), 48).shape == (48, 48)
    mask = np.zeros((1024, 1024), np.uint8)
    mask[100:300, 500:900] = 1
    small = resize_mask(mask, 128)
    assert set(np.unique(small)) == {0, 1}
    assert small.mean() == pytest.approx(mask.mean(), rel=0.05)


def test_real_dicom_and_its_monochrome1_twin_read_to_the_same_pixels(realdata: Path) -> None:
    files = sorted((realdata / "radiographs").glob("*.dcm"))
    first, second = (decode_image(path.read_bytes(), path) for path in files)
    assert np.array_equal(first.pixels, second.pixels)
    assert first.pixels.shape == (1024, 1024)
    # Air beside the neck is dark, the spine light.
    assert first.pixels[:50, :50].mean() < 20
    assert first.pixels[400:600, 480:540].mean() > 200


@pytest.mark.slow
def test_real_negatives_are_inverted(realdata: Path) -> None:
    """Genuine MONOCHROME1 files must not be taken for mislabelled ones."""
    files = sorted((realdata / "nih_cxr14_64px" / "images").glob("*.png"))[::4]
    wrong = 0
    for path in files:
        negative = 255 - read_image(path)
        content = dicom_bytes(negative, PhotometricInterpretation="MONOCHROME1")
        wrong += bool(decode_image(content, path).note)
    assert wrong <= len(files) // 100
