from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from askd.data.decode import decode_rgb
from askd.photo import encoded_size
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


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PICTURE = Image.fromarray(SMOOTH)
RAMP = Image.fromarray(np.tile(np.arange(0, 224, 2, dtype=np.uint8), (112, 1)))
BLACK_INK = np.full((112, 112, 4), (20, 200, 90, 60), np.uint8)
BLACK_INK[40:] = (250, 0, 0, 0)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("encoded", [
    *(saved(PICTURE, "JPEG", quality=90, subsampling=ratio) for ratio in range(3)),
    saved(PICTURE, "JPEG", progressive=True), saved(PICTURE, "JPEG", keep_rgb=True), saved(PICTURE.convert("L"), "JPEG"),
    *(saved(PICTURE.convert(mode), "PNG") for mode in ("1", "L", "P", "RGB")),
    *(saved(PICTURE.quantize(1 << bits), "PNG", bits=bits) for bits in (1, 2, 4, 8)),
    saved(PICTURE, "PNG", transparency=(1, 2, 3)), saved(PICTURE.convert("L"), "PNG", transparency=100),
    saved(PICTURE.quantize(16), "PNG", transparency=bytes(range(16))),
], ids=lambda encoded: f"{len(encoded)} bytes")
def test_as_pil_decodes_it(encoded):
    np.testing.assert_array_equal(decode_rgb(encoded, "x"), Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.mark.parametrize(("mode", "colours"), [("RGBA", PICTURE), ("LA", PICTURE.convert("L"))])
def test_colours_below_transparency_stay(mode, colours):
    translucent = Image.merge(mode, (*colours.split(), RAMP))
    np.testing.assert_array_equal(decode_rgb(saved(translucent, "PNG"), "x"), colours.convert("RGB"))


@pytest.mark.parametrize("inks", [PICTURE.convert("CMYK"), Image.fromarray(BLACK_INK, "CMYK")], ids=["picture", "black ink"])
@pytest.mark.parametrize("marker", ["CMYK", "YCCK", "none"])
def test_printers_colours(inks, marker):
    """What Adobe's programs write: four inks, stored inverted; or three of them as luma and chroma; or unmarked."""
    encoded = saved(inks, "JPEG", quality=95)
    adobe = encoded.index(b"Adobe")
    encoded = {"CMYK": encoded, "YCCK": encoded[:adobe + 11] + b"\2" + encoded[adobe + 12:],
               "none": encoded[:adobe - 4] + encoded[adobe + 12:]}[marker]
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)
    assert np.abs(decode_rgb(encoded, "x") - expected).max() <= 1


def test_red_ink_is_red():
    """No cyan, all magenta and yellow, a fifth of black: 255 * 0.8 of red."""
    encoded = saved(Image.new("CMYK", (112, 112), (0, 255, 255, 51)), "JPEG", quality=100)
    assert np.abs(decode_rgb(encoded, "x") - np.array([204, 0, 0])).max() <= 2


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
