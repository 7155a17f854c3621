"""One encoded face -> the RGB pixels that everything else sees."""
from __future__ import annotations

import cv2
import numpy as np

from askd.errors import DataError
from askd.photo import PNG, encoded_size

SIZE = 112
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
    whole = encoded.startswith(PNG) or encoded.rfind(b"\xff\xd9") > 0
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), _FLAGS) if whole else None
    if pixels is None:
        raise DataError(f"{name}: its {len(encoded)} bytes do not decode, cut short or damaged; fetch it again")
    return pixels
