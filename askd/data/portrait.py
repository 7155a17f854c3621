"""One photograph -> one aligned face: which of several faces is meant, and its crop, encoded."""
from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import cv2
import numpy as np

from askd.data.detector import Detector, Faces
from askd.data.landmarks import crop, similarity, template_distance
from askd.photo import read_photo
from askd.errors import DataError

Choose = Enum("Choose", "prominent largest central only")
Format = Enum("Format", "jpg png")


@dataclass(frozen=True)
class Portrait:
    """What decides which face is taken from a photograph, and what its file holds."""

    choose: Choose = Choose.prominent
    """Of several faces: prominent (largest product of box area and closeness of its centre to the photograph's, 1 there,
    0 in a corner), largest (box area), central, or only (photographs of several people are left out)."""
    min_face: int = 20
    """Pixels: faces whose box is narrower or lower count as none."""
    threshold: float = 0.5
    """Least score, 0..1, at which the detector's finds are faces."""
    detector_sizes: list[int] = field(default_factory=lambda: [128, 640])
    """Pixels: the photograph is fitted into squares of these sides for the detector; one small square is fast, a large
    one finds small faces."""
    format: Format = Format.jpg
    """jpg, or png: without loss, six times the size."""
    quality: int = 95
    """JPEG quality, 1..100."""


@dataclass(frozen=True)
class Outcome:
    """What became of a photograph: an aligned face in `encoded`, or a `reason` why there is none (`bad`: its file is at fault).

    faces: how many were found; landmarks (5, 2) in pixels of the upright photograph; distance: theirs to the template once aligned, pixels.
    """

    encoded: bytes = b""
    reason: str = ""
    bad: bool = False
    faces: int = 0
    score: float = 0.0
    distance: float = 0.0
    landmarks: np.ndarray | None = None


def take_portrait(path: Path | str, detector: Detector, settings: Portrait) -> Outcome:
    """Read a photograph, find the face that is meant and align it; raises nothing for a file that is at fault, see Outcome."""
    try:
        rgb = read_photo(path)
    except DataError as error:
        return Outcome(reason=str(error), bad=True)
    faces = _large_enough(detector.find(rgb), settings.min_face)
    count = len(faces.score)
    if count == 0:
        return Outcome(reason="no face")
    if count > 1 and settings.choose is Choose.only:
        return Outcome(reason=f"{count} faces", faces=count)
    one = choose_face(faces.boxes, rgb.shape[1], rgb.shape[0], settings.choose)
    matrix = similarity(faces.landmarks[one])
    distance = template_distance(faces.landmarks[one], matrix)
    encoded = _encode(crop(rgb, matrix), settings)
    return Outcome(encoded, faces=count, score=float(faces.score[one]), distance=distance, landmarks=faces.landmarks[one])


def choose_face(boxes: np.ndarray, width: int, height: int, choose: Choose) -> int:
    """The index of the face that is meant among boxes (N, 4), N > 0, x1 y1 x2 y2 in a photograph of width x height pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides.prod(1)
    offset = (boxes[:, :2] + boxes[:, 2:]) / 2 - (width / 2, height / 2)
    closeness = 1 - np.linalg.norm(offset, axis=1) / (np.hypot(width, height) / 2)
    worth = {Choose.prominent: area * closeness, Choose.largest: area, Choose.central: closeness, Choose.only: area}
    return int(worth[choose].argmax())


def _large_enough(faces: Faces, least: int) -> Faces:
    large = (faces.boxes[:, 2:] - faces.boxes[:, :2]).min(1, initial=np.inf) >= least
    return Faces(*(part[large] for part in faces))


def _encode(rgb: np.ndarray, settings: Portrait) -> bytes:
    parameters = [cv2.IMWRITE_JPEG_QUALITY, settings.quality] if settings.format is Format.jpg else []
    return cv2.imencode(f".{settings.format.name}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), parameters)[1].tobytes()
