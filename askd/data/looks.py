"""Whether an image looks like an upright, aligned face in RGB order: two measurements that need neither labels nor a detector.

Measured on all of aligned LFW, on its copy with red and blue swapped, and on copies that were shifted, turned and scaled; tests repeat it.
"""
from __future__ import annotations

import cv2
import numpy as np

from askd.data.decode import SIZE

_MIDDLE = slice(28, 84)  # skin, nearly all of it, in an aligned face
COLOURED = 2.0  # of 255, the least difference of red and blue at which an image counts as coloured

_SPOT = 9  # pixels, the side of the spots that are compared
_EYES = [(38, 52), (74, 52)]
_SKIN = [(56, 52), (38, 66), (74, 66), (56, 36)]  # between the eyes, below them, the forehead
_CENTRE = np.array([56.0, 72.0])


def red_minus_blue(rgb: np.ndarray) -> float:
    """Mean of red minus mean of blue, -255..255, over the middle of a face (112, 112, 3).

    Skin of every tone reflects more red than blue, so this is positive for RGB, and negative where red and blue were swapped.
    """
    red, _, blue = rgb[_MIDDLE, _MIDDLE].reshape(-1, 3).mean(0)
    return float(red - blue)


def eyes_in_place(rgb: np.ndarray) -> bool:
    """Whether dark eyes in lighter skin stand out most at the template's place in a face (112, 112, 3), among nine places.

    The others: 12 pixels to each side, 0.7 and 1.4 times the size, 25 degrees either way. By chance it is true once in nine.
    """
    spots = cv2.blur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (_SPOT, _SPOT)).astype(np.float32)
    seen = spots[_PLACES[..., 1], _PLACES[..., 0]]  # (9, 6)
    contrast = seen[:, len(_EYES):].mean(1) - seen[:, :len(_EYES)].mean(1)
    return bool(contrast[0] > contrast[1:].max())


def _places() -> np.ndarray:
    """Where eyes and skin would be, int (9, 6, 2) x and y: as in the template first."""
    spots = np.array(_EYES + _SKIN) - _CENTRE
    shifted = [spots + shift for shift in ((0, 0), (12, 0), (-12, 0), (0, 12), (0, -12))]
    turns = [np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) for angle in np.deg2rad((-25, 25))]
    moved = np.stack(shifted + [spots * scale for scale in (0.7, 1.4)] + [spots @ turn.T for turn in turns])
    return np.clip(np.rint(moved + _CENTRE), 0, SIZE - 1).astype(int)


_PLACES = _places()
