"""Faces as a camera left them: of any size, brought to 112x112 the way a deployed recogniser would.

A smaller face is enlarged by the kernel on the degradation's way up, the one that the network met in training; a larger
one shrinks by the antialiased cubic. Each axis for itself, so the whole image fills the square, whatever its shape.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np

from askd.data.decode import decode_sized
from askd.photo import encoded_size
from askd.data.degrade import BYTE_RANGE, CHAINS, EVALUATION_OF
from askd.data.kernels import HORIZONTAL, KERNELS, SIDE
from askd.errors import DataError

SHRINK = "bicubic_antialiased"
LARGEST = 4096  # pixels, either side: no crop of a face is larger


def native_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Width and height of an encoded face, from its header; DataError where they are 0 or above LARGEST."""
    width, height = encoded_size(encoded, name)
    if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
        raise DataError(f"{name}: is {width}x{height} pixels (width x height), expected the crop of a face, 1 to {LARGEST} on "
                        "either side; crop the faces first")
    return width, height


def decode_native(encoded: bytes, name: str, degradation: str) -> np.ndarray:
    """Decode a JPEG or PNG face of any size and bring it to float32 (112, 112, 3) RGB, 0..255.

    One of 112x112 stays as it is. degradation: any of DEGRADATIONS; only its kernel on the way up matters.
    Raises DataError naming `name`: an image too large to be a crop, empty, truncated, undecodable, of another format.
    """
    width, height = native_size(encoded, name)
    pixels = decode_sized(encoded, name).astype(np.float32)
    enlarge = CHAINS[EVALUATION_OF.get(degradation, degradation)].up
    if height != SIDE:
        pixels = np.tensordot(_matrix(enlarge, height), pixels, 1)
    if width != SIDE:
        pixels = np.einsum("tw,hwc->htc", _matrix(HORIZONTAL.get(enlarge, enlarge), width), pixels, optimize=True)
    return np.clip(pixels, *BYTE_RANGE, dtype=np.float32)


@lru_cache(maxsize=512)
def _matrix(enlarge: str, source: int) -> np.ndarray:
    """(112, source) float32."""
    return KERNELS[enlarge if source < SIDE else SHRINK](source, SIDE).astype(np.float32)
