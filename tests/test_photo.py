"""Photographs as they come: turned by EXIF, grey, transparent, cut short, lying about their size, endless."""
from __future__ import annotations

import os
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from askd.data.synthetic import render_face
from askd.errors import DataError
from askd.photo import MOST_SCANS, decode_photo, read_photo

FACE = render_face(0, 0)
JPEG = cv2.imencode(".jpg", FACE[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
PNG = cv2.imencode(".png", FACE[..., ::-1])[1].tobytes()


def exif(orientation: int) -> bytes:
    """An APP1 segment with the one tag 0x0112."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(tiff)) + b"Exif\0\0" + tiff


# What each orientation asks of the stored pixels (EXIF 2.3, 4.6.4): rows and columns as they should be shown.
UPRIGHT = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1], 7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1], 8: lambda x: x.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_it_upright(orientation):
    stored = decode_photo(JPEG, "x")
    turned = decode_photo(JPEG[:2] + exif(orientation) + JPEG[2:], "x")
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](stored))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_of_a_png_turns_it_upright(orientation):
    tag = exif(orientation)[10:]  # without marker, length and the name that JPEG puts first
    chunk = struct.pack(">I", len(tag)) + b"eXIf" + tag + struct.pack(">I", zlib.crc32(b"eXIf" + tag))
    turned = decode_photo(PNG[:33] + chunk + PNG[33:], "x")  # after the signature and IHDR
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](FACE))


def test_png_is_exact_in_rgb_order():
    np.testing.assert_array_equal(decode_photo(PNG, "x"), FACE)


def test_grey_alpha_and_16_bit_become_rgb():
    grey = FACE[..., 1]
    np.testing.assert_array_equal(decode_photo(cv2.imencode(".png", grey)[1].tobytes(), "x"), np.stack([grey] * 3, 2))
    with_alpha = np.dstack([FACE[..., ::-1], np.full((112, 112), 7, np.uint8)])
    np.testing.assert_array_equal(decode_photo(cv2.imencode(".png", with_alpha)[1].tobytes(), "x"), FACE)
    deep = FACE[..., ::-1].astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(decode_photo(cv2.imencode(".png", deep)[1].tobytes(), "x"), FACE)


def test_a_bomb_is_not_decoded():
    raw = zlib.compress(bytes(1000))
    chunks = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", raw), (b"IEND", b"")))
    began = time.monotonic()
    with pytest.raises(DataError, match=r"bomb.png: says it is 60000x60000 pixels, expected at most 64,000,000"):
        decode_photo(b"\x89PNG\r\n\x1a\n" + chunks, "bomb.png")
    at = JPEG.index(b"\xff\xc0")
    huge = JPEG[:at + 5] + struct.pack(">HH", 65500, 65500) + JPEG[at + 9:]
    with pytest.raises(DataError, match="65500x65500"):
        decode_photo(huge, "bomb.jpg")
    assert time.monotonic() - began < 1


def test_scans_without_end_are_refused():
    scan = JPEG.index(b"\xff\xda")
    with pytest.raises(DataError, match="scans"):
        decode_photo(JPEG[:scan] + JPEG[scan:scan + 14] * (MOST_SCANS + 1) + JPEG[scan:], "x.jpg")


@pytest.mark.parametrize("content, message", [
    (b"", r"is empty"), (b"GIF89a" + bytes(20), "starts with 47 49 46"), (JPEG[:40], "whole header"), (JPEG[:-2000], "cut short or damaged"),
    (PNG[:-500], "cut short or damaged"), (PNG[:20], "whole header"), (b"\xff\xd8\xff\xd9", "whole header"),
])
def test_what_is_no_whole_image(content, message):
    with pytest.raises(DataError, match=f"x.jpg: .*{message}"):
        decode_photo(content, "x.jpg")


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="cannot be read .*correct the path"):
        read_photo(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="no plain file"):
        read_photo(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    with pytest.raises(DataError, match="no plain file"):
        read_photo(tmp_path / "pipe.jpg")
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(DataError, match="8,589,934,592 bytes"):
        read_photo(tmp_path / "large.jpg")
    (tmp_path / "face.png").write_bytes(PNG)
    np.testing.assert_array_equal(read_photo(tmp_path / "face.png"), FACE)


@given(st.sampled_from([JPEG, PNG]), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 400))
def test_damage_gives_pixels_or_a_data_error(content, changes, cut):
    damaged = bytearray(content)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    try:
        pixels = decode_photo(bytes(damaged[:len(damaged) - cut]), "x")
    except DataError:
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
