"""One encoded face -> the RGB pixels that everything else sees."""
from __future__ import annotations

import cv2
import numpy as np

from askd.errors import DataError

SIZE = 112
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)  # the markers among SOF0..SOF15 that mean something else
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))
_END_OF_IMAGE = 0xD9
# An aligned crop is upright by construction; an EXIF orientation in it is left over from the photograph.
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_rgb(encoded: bytes, name: str) -> np.ndarray:
    """Decode an aligned face, JPEG or PNG, to uint8 (112, 112, 3) RGB.

    Grey, a palette and printers' CMYK become RGB, alpha is dropped, 16 bits become the upper 8; an EXIF orientation is
    ignored. The size is read from the file's header first, so that no image larger than a face is ever decoded. Raises
    DataError naming `name`: an empty, truncated, undecodable image, another format, another size.
    """
    size = encoded_size(encoded, name)
    if size != (SIZE, SIZE):
        raise DataError(f"{name}: is {size[0]}x{size[1]} pixels (width x height), expected an aligned face of "
                        f"{SIZE}x{SIZE}; align the photographs first")
    return decode_sized(encoded, name)


def decode_sized(encoded: bytes, name: str) -> np.ndarray:
    """The same for an image whose size `encoded_size` has told and the caller accepts: uint8 (H, W, 3) RGB."""
    # OpenCV before 5 fills what a truncated JPEG lacks with grey.
    whole = encoded.startswith(_PNG) or encoded.rfind(b"\xff\xd9") > 0
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), _FLAGS) if whole else None
    if pixels is None:
        raise DataError(f"{name}: its {len(encoded)} bytes do not decode, cut short or damaged; fetch it again")
    return pixels


def encoded_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Width and height, pixels, that a JPEG or PNG states in its header; DataError naming `name` for anything else."""
    if encoded.startswith(_PNG) and encoded[12:16] == b"IHDR" and len(encoded) >= 24:
        return int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")
    size = _jpeg_size(encoded) if encoded.startswith(_JPEG) else None
    if size is None:
        problem = f"starts with {encoded[:8].hex(' ')}" if encoded else "is empty (0 bytes)"
        raise DataError(f"{name}: {problem}, expected a JPEG or PNG with a whole header; fetch it again, or convert it")
    return size


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker == _END_OF_IMAGE:
            return None
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER:
            return int.from_bytes(encoded[at + 7:at + 9], "big"), int.from_bytes(encoded[at + 5:at + 7], "big")
        else:
            at += 2 + int.from_bytes(encoded[at + 2:at + 4], "big")
    return None
