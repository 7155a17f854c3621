"""Five landmarks and the ArcFace template: how a face comes to lie where every recogniser expects it."""
from __future__ import annotations

import cv2
import numpy as np

from askd.data.decode import SIZE

# Eyes, nose tip, corners of the mouth, the face's right side first (the image's left); x, y in pixels of a 112x112 face.
TEMPLATE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])


def similarity(landmarks: np.ndarray) -> np.ndarray:
    """The 2x3 matrix that takes landmarks (5, 2), pixels, closest to TEMPLATE (least squares): turn, scale and shift only.

    With points as complex numbers a similarity is z -> a z + b, so least squares has a closed form (what Umeyama's
    algorithm finds in the plane, reflections excluded). ValueError where all landmarks are one point.
    """
    source, target = _complex(landmarks), _complex(TEMPLATE)
    spread = source - source.mean()
    size = np.vdot(spread, spread).real
    if not size > 0:
        raise ValueError("five landmarks in one point have no similarity to the template")
    a = np.vdot(spread, target - target.mean()) / size
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def crop(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The aligned face, (112, 112, 3): bilinear, black beyond the photograph's edge, as InsightFace's `norm_crop` does it."""
    return cv2.warpAffine(image, matrix, (SIZE, SIZE), borderValue=0.0)


def template_distance(landmarks: np.ndarray, matrix: np.ndarray | None = None) -> float:
    """Mean distance of landmarks (5, 2) to TEMPLATE, in pixels of the aligned face; `matrix` takes them there first."""
    placed = landmarks if matrix is None else landmarks @ matrix[:, :2].T + matrix[:, 2]
    return float(np.linalg.norm(placed - TEMPLATE, axis=1).mean())


def _complex(points: np.ndarray) -> np.ndarray:
    return np.asarray(points, np.float64) @ np.array([1, 1j])
