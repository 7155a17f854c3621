"""A photograph, of any size and however the camera was held -> upright RGB pixels."""
from __future__ import annotations

import os
import stat
from pathlib import Path

import cv2
import numpy as np

from askd.data.decode import encoded_size
from askd.data.folder import read_file
from askd.errors import DataError

MOST_PIXELS = 100_000_000  # 300 MB decoded; what claims more is a decompression bomb, or no portrait
MOST_BYTES = 1 << 28


def read_photograph(path: Path | str) -> np.ndarray:
    """Read a JPEG or PNG as upright uint8 (H, W, 3) RGB; DataError naming the file where `decode_photograph` raises one.

    A file that is no plain file (a pipe, say) or larger than MOST_BYTES is a DataError too, before it is opened.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); remove it, or put the photograph there") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
        given = f"has {status.st_size:,} bytes" if stat.S_ISREG(status.st_mode) else "is no plain file"
        raise DataError(f"{path}: {given}, expected a photograph of at most {MOST_BYTES:,} bytes; remove it")
    return decode_photograph(read_file(path), str(path))


def decode_photograph(encoded: bytes, name: str) -> np.ndarray:
    """Decode a JPEG or PNG to uint8 (H, W, 3) RGB, turned upright as its EXIF orientation says.

    Grey becomes RGB, alpha is dropped, 16 bits become the upper 8. The header is read first: more than MOST_PIXELS are
    refused, not decoded. Raises DataError naming `name`: empty, truncated, undecodable, another format, too large.
    """
    width, height = encoded_size(encoded, name)
    if width * height > MOST_PIXELS:
        raise DataError(f"{name}: says it is {width}x{height} pixels, expected at most {MOST_PIXELS:,} in all; "
                        f"shrink it, or remove it")
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise DataError(f"{name}: its {len(encoded)} bytes do not decode, cut short or damaged; fetch it again")
    return pixels
