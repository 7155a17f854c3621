"""A photograph from anywhere -> upright RGB pixels, at a bounded cost whatever the file holds; and the size that any image states."""
from __future__ import annotations

import os
import stat
from pathlib import Path

import cv2
import numpy as np

from askd.errors import DataError

MOST_BYTES = 64 << 20
MOST_PIXELS = 64_000_000  # 192 MB decoded
MOST_SCANS = 64  # a progressive JPEG decodes all of its pixels once per scan; cameras and programs write about ten
PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_END_OF_IMAGE = 0xD9
_NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)  # the markers among SOF0..SOF15 that mean something else


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """Read a JPEG or PNG file as `decode_photo` does; DataError naming it, also for a pipe, a folder or a missing file."""
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: is no plain file; name a JPEG or PNG")
        if status.st_size > MOST_BYTES:
            raise DataError(f"{path}: has {status.st_size:,} bytes, expected a photograph of at most {MOST_BYTES:,}; shrink it")
        encoded = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    return decode_photo(encoded, str(path))


def decode_photo(encoded: bytes, name: str) -> np.ndarray:
    """Decode a JPEG or PNG to uint8 (H, W, 3) RGB, turned upright as its EXIF orientation says.

    Grey becomes RGB, alpha is dropped, 16 bits become the upper 8. Size and scans are read before anything is decoded. Raises
    DataError naming `name`: empty, cut short, damaged, another format, more than MOST_PIXELS, more than MOST_SCANS.
    """
    if len(encoded) > MOST_BYTES:
        raise DataError(f"{name}: has {len(encoded):,} bytes, expected a photograph of at most {MOST_BYTES:,}; shrink it")
    width, height = encoded_size(encoded, name)
    if width * height > MOST_PIXELS:
        raise DataError(f"{name}: says it is {width}x{height} pixels, expected at most {MOST_PIXELS:,} in all; shrink it")
    png = encoded.startswith(PNG)
    if not png and encoded.count(b"\xff\xda") > MOST_SCANS:
        raise DataError(f"{name}: is a JPEG of more than {MOST_SCANS} scans, which costs time without end; save it anew")
    whole = png or encoded.rfind(b"\xff\xd9") > 0  # OpenCV before 5 fills what a truncated JPEG lacks with grey
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB) if whole else None
    if pixels is None:
        raise DataError(f"{name}: its {len(encoded)} bytes do not decode, cut short or damaged; fetch it again")
    return pixels


def encoded_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Width and height, pixels, that a JPEG or PNG states in its header; DataError naming `name` for anything else."""
    if encoded.startswith(PNG) and encoded[12:16] == b"IHDR" and len(encoded) >= 24:
        return int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")
    size = _jpeg_size(encoded) if encoded.startswith(_JPEG) else None
    if size is None:
        problem = f"starts with {encoded[:8].hex(' ')}" if encoded else "is empty (0 bytes)"
        raise DataError(f"{name}: {problem}, expected a JPEG or PNG with a whole header; fetch it again, or convert it")
    return size


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height of the first frame header; None where the segments before it are damaged."""
    at = 2
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            at += 2
        elif marker == _END_OF_IMAGE:
            return None
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER:
            return int.from_bytes(encoded[at + 7:at + 9], "big"), int.from_bytes(encoded[at + 5:at + 7], "big")
        else:
            at += 2 + int.from_bytes(encoded[at + 2:at + 4], "big")
    return None
