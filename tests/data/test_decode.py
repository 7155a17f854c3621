from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from askd.data.decode import decode_rgb, encoded_size
from askd.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
SMOOTH = cv2.GaussianBlur(RGB, (31, 31), 0)


def encode(pixels: np.ndarray, kind: str = ".png", *options: int) -> bytes:
    channels = {4: cv2.COLOR_RGBA2BGRA, 3: cv2.COLOR_RGB2BGR}
    pixels = cv2.cvtColor(pixels, channels[pixels.shape[2]]) if pixels.ndim == 3 else pixels
    return cv2.imencode(kind, pixels, options)[1].tobytes()


def png_that_claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_channels_are_rgb():
    decoded = decode_rgb(encode(RGB), "x")
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, RGB)
    red = np.zeros((112, 112, 3), np.uint8)
    red[..., 0] = 255
    assert decode_rgb(encode(red, ".jpg"), "x")[0, 0].tolist() == [254, 0, 0]


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_jpeg_kinds(options):
    encoded = encode(SMOOTH, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100, *options)
    assert np.abs(decode_rgb(encoded, "x").astype(int) - SMOOTH).max() <= 4


def test_grey_alpha_and_16_bit():
    np.testing.assert_array_equal(decode_rgb(encode(RGB[..., 0]), "x"), np.repeat(RGB[..., :1], 3, 2))
    np.testing.assert_array_equal(decode_rgb(encode(np.dstack([RGB, RGB[..., 0]])), "x"), RGB)
    np.testing.assert_array_equal(decode_rgb(encode(RGB.astype(np.uint16) << 8 | 200), "x"), RGB)


def test_exif_orientation_is_ignored():
    plain = encode(SMOOTH, ".jpg")
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)  # orientation 6: rotate by 90 degrees
    exif = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    turned = plain[:2] + exif + plain[2:]
    upright = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert not np.array_equal(upright, decode_rgb(plain, "x"))  # the tag is one that OpenCV would obey
    np.testing.assert_array_equal(decode_rgb(turned, "x"), decode_rgb(plain, "x"))


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_size_is_read_from_the_header(kind):
    encoded = encode(np.zeros((250, 96, 3), np.uint8), kind)
    assert encoded_size(encoded, "x") == (96, 250)
    with pytest.raises(DataError, match=r"^a.rec: record 5: is 96x250 pixels .* 112x112"):
        decode_rgb(encoded, "a.rec: record 5")


def test_decompression_bomb_is_not_decoded(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match="60000x60000"):
        decode_rgb(png_that_claims(60000, 60000), "x")


@pytest.mark.parametrize(("encoded", "message"), [
    (b"", "^face.png: is empty"),
    (b"<html>not found</html>", "^face.png: starts with 3c 68 74 6d 6c"),
    (b"\xff\xd8", "^face.png: starts with ff d8"),
    (b"\xff\xd8\xff\xd9", "^face.png: starts"),
    (b"\xff\xd8\xff\xe0\xff\xff", "^face.png: starts"),
    (png_that_claims(112, 112), "^face.png: its 33 bytes do not decode"),
    (encode(RGB, ".webp"), "^face.png: starts with 52 49 46 46"),
])
def test_what_is_no_face(encoded, message):
    with pytest.raises(DataError, match=message):
        decode_rgb(encoded, "face.png")


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_truncated(kind):
    encoded = encode(SMOOTH, kind)
    for length in {*range(0, 700), *range(700, len(encoded), 97), len(encoded) - 1}:
        with pytest.raises(DataError, match="^face"):
            decode_rgb(encoded[:length], "face")
