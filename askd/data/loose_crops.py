"""Loose crops of faces with five landmarks each, aligned when they are asked for (how IJB-B and IJB-C are shared)."""
from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from askd.data.imagefiles import ImageFiles
from askd.data.landmarks import crop, similarity
from askd.photo import decode_photo


class LooseCrops(ImageFiles):
    """Images of any size, handed out as aligned 112x112 PNGs; `landmarks` float32 (N, 5, 2), pixels of the loose crop."""

    def __init__(self, paths: Sequence[str], landmarks: np.ndarray):
        super().__init__(paths)
        self.landmarks = landmarks

    def encoded(self, index: int) -> bytes:
        """The aligned face, losslessly encoded; DataError for an image that is damaged or far too large."""
        loose = decode_photo(super().encoded(index), self.name(index))
        aligned = crop(loose, similarity(self.landmarks[index]))
        return cv2.imencode(".png", aligned[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()

    def stored(self, index: int) -> bytes:
        """All that the aligned face is made of: the file, then the landmarks."""
        return super().encoded(index) + self.landmarks[index].tobytes()
