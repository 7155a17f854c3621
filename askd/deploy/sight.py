"""A photograph as an exported student sees it: found, aligned, at the camera's resolution, never larger than it was trained on."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from askd.data.degrade import BYTE_RANGE, CHAINS, EVALUATION_OF, downsample, round_to_8bit, upsample
from askd.data.detector import Detector
from askd.data.kernels import SIDE
from askd.data.landmarks import similarity
from askd.data.loader import to_unit
from askd.errors import DataError
from askd.evaluation.overlay import gaze
from askd.models.features import Backbone
from askd.photo import read_photo
from askd.runtime.recognizer import LEAST_SIDE, Recognizer


@dataclass(frozen=True)
class Seen:
    """A face of one file. own: pixels that the face had there; size: pixels it was shown at, the smaller side of `crop`.

    crop: uint8 (H, W, 3) RGB of that size; image: uint8 (112, 112, 3), the same enlarged, which is what the network itself gets.
    """

    name: str
    own: int
    size: int
    crop: np.ndarray
    image: np.ndarray


class Sight:
    """How a recogniser sees photographs.

    detector: InsightFace's; None takes aligned crops alone. size: pixels to show faces at most, None for the largest trained on.
    largest: of several faces take the largest; otherwise they are an error.
    """

    def __init__(self, recognizer: Recognizer, detector: Detector | None = None, size: int | None = None, largest: bool = False):
        self.recognizer, self.detector, self.largest = recognizer, detector, largest
        self.most = max(recognizer.sizes) if size is None else size
        degradation = recognizer.meta["degradation"]
        self.chain = CHAINS[EVALUATION_OF.get(degradation, degradation)]

    def see(self, path: str | Path) -> Seen:
        """The face in a file; DataError: no face, several, one of too few pixels, or a photograph where there is no detector."""
        photo = read_photo(path)
        height, width = photo.shape[:2]
        if max(height, width) <= SIDE:
            own, crop = min(height, width), photo
        elif self.detector is None:
            raise DataError(f"{path}: is {width}x{height} pixels, a photograph rather than an aligned face of at most {SIDE}x{SIDE}; give "
                            "detector=FILE.onnx to find the face in it")
        else:
            own, crop = self._aligned(photo, str(path))
        if own < LEAST_SIDE:
            raise DataError(f"{path}: the face is {own} pixels wide, too few to hold one; {LEAST_SIDE} are the least")
        pixels = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None]
        if min(crop.shape[:2]) > self.most:
            pixels = round_to_8bit(downsample(pixels, self.most, self.chain.down), BYTE_RANGE).to(torch.uint8)
        image = upsample(pixels, self.chain.up).round().to(torch.uint8)
        crop, image = (np.ascontiguousarray(tensor[0].permute(1, 2, 0).numpy()) for tensor in (pixels, image))
        return Seen(str(path), own, min(crop.shape[:2]), crop, image)

    def embed(self, faces: Sequence[Seen]) -> np.ndarray:
        """Embeddings (N, D) of the faces, as they are shown."""
        return self.recognizer.embed([face.crop if self.recognizer.input == "native" else face.image for face in faces])

    def _aligned(self, photo: np.ndarray, name: str) -> tuple[int, np.ndarray]:
        """Pixels the face has in the photograph, and the face aligned at that resolution, at most 112 x 112."""
        found = self.detector.find(photo)
        if len(found.score) == 0:
            raise DataError(f"{name}: no face found; give a photograph that shows one, upright")
        if len(found.score) > 1 and not self.largest:
            raise DataError(f"{name}: {len(found.score)} faces found; cut one out, or say face=largest")
        areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
        matrix = similarity(found.landmarks[int(np.argmax(areas))])
        own = int(round(SIDE / np.hypot(*matrix[:, 0])))
        if own < LEAST_SIDE:
            return own, photo[:1, :1]
        if own > 2 * SIDE:  # a bilinear warp would skip pixels
            factor = 2 * SIDE / own
            photo = cv2.resize(photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            matrix = _rescaled(matrix, 1 / factor, before=True)
        side = min(own, SIDE)
        return own, cv2.warpAffine(photo, _rescaled(matrix, side / SIDE), (side, side), borderMode=cv2.BORDER_REPLICATE)


@torch.inference_mode()
def heat_maps(backbone: Backbone, faces: Sequence[Seen]) -> np.ndarray | None:
    """Where the network looks on each face, float32 (N, 112, 112) in [0, 1]; None without spatial attention."""
    images = torch.from_numpy(np.stack([face.image for face in faces])).permute(0, 3, 1, 2)
    heat = gaze(backbone.eval().forward_all(to_unit(images)).attention)
    return None if heat is None else heat.numpy()


def _rescaled(matrix: np.ndarray, factor: float, before: bool = False) -> np.ndarray:
    """A 2x3 pixel-coordinate map followed (or preceded) by a change of scale; pixel centres lie at half-integers of length."""
    change = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    whole = np.vstack([matrix, [0, 0, 1]])
    return (whole @ change if before else change @ whole)[:2]
