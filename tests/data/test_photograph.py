"""Photographs: upright as the camera was held, and what is no photograph refused before it costs anything."""
from __future__ import annotations

import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from askd.data import photograph
from askd.data.photograph import MOST_BYTES, MOST_PIXELS, decode_photograph, read_photograph
from askd.errors import DataError

UPRIGHT = np.zeros((40, 60, 3), np.uint8)
UPRIGHT[:20, :30], UPRIGHT[:20, 30:], UPRIGHT[20:, :30] = (250, 10, 10), (10, 250, 10), (10, 10, 250)  # no symmetry
# How a camera stores an upright scene under each EXIF orientation (the tag's definition: where row 0 and column 0 of the scene went).
STORED = {
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT), 7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(UPRIGHT, -1),
}


def exif(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def encoded(rgb: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


def jpeg_with(orientation: int, rgb: np.ndarray) -> bytes:
    body = b"Exif\0\0" + exif(orientation)
    jpeg = encoded(rgb, ".jpg")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(orientation: int, rgb: np.ndarray) -> bytes:
    png = encoded(rgb, ".png")
    return png[:33] + chunk(b"eXIf", exif(orientation)) + png[33:]  # after the signature and IHDR


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("make", [jpeg_with, png_with])
def test_exif_orientation_is_undone(orientation, make):
    rgb = decode_photograph(make(orientation, STORED[orientation]), "x")
    assert rgb.shape == UPRIGHT.shape and rgb.dtype == np.uint8
    assert np.abs(rgb[5:-5:10, 5:-5:10].astype(int) - UPRIGHT[5:-5:10, 5:-5:10]).max() < 30  # within each quarter, JPEG's error apart


def test_grey_alpha_and_16_bit_become_rgb():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    for stored in (grey, grey.astype(np.uint16) << 8 | 77, np.dstack([grey] * 3 + [grey * 0])):
        found = decode_photograph(cv2.imencode(".png", stored)[1].tobytes(), "x")
        assert np.array_equal(found, np.dstack([grey] * 3))


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    rows = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(DataError, match=r"^bomb.png: says it is 60000x60000 pixels, expected at most 100,000,000 in all; shrink it"):
        decode_photograph(b"\x89PNG\r\n\x1a\n" + rows, "bomb.png")
    assert MOST_PIXELS < 60_000**2


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is empty"), (b"plain text", "starts with 70 6c"), (encoded(UPRIGHT, ".jpg")[:-200], "do not decode"),
    (encoded(UPRIGHT, ".png")[:-30], "do not decode"), (encoded(UPRIGHT, ".png")[:24], "do not decode"),
])
def test_what_does_not_decode_is_named(content, said, tmp_path):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=f"x.jpg: .*{said}"):
        read_photograph(tmp_path / "x.jpg")


def test_what_is_no_plain_file_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(photograph, "read_file", None)
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(MOST_BYTES + 1)
    for name, said in (("pipe.jpg", "is no plain file"), ("large.jpg", "has 268,435,457 bytes"), ("none.jpg", "cannot be read")):
        with pytest.raises(DataError, match=f"{name}: {said}"):
            read_photograph(tmp_path / name)
