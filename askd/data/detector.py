"""InsightFace's face detectors (SCRFD and RetinaFace as ONNX files): where faces and their five landmarks are."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from askd.errors import DataError


class Faces(NamedTuple):
    """N faces in one photograph: boxes (N, 4) x1 y1 x2 y2 and landmarks (N, 5, 2), pixels; score (N,) in 0..1."""

    boxes: np.ndarray
    score: np.ndarray
    landmarks: np.ndarray


class Detector:
    """A detector with five landmarks, on the CPU with `threads` threads.

    threshold: the least score. sizes: the sides, in pixels, of the squares into which a photograph is fitted; what is
    found at any of them counts. Small squares find faces that fill the photograph, large ones those that are far away.
    A model of fixed input size uses its own. DataError where `path` is no such model.
    """

    def __init__(self, path: Path | str, threshold: float = 0.5, sizes: Sequence[int] = (128, 640), threads: int = 1):
        if not Path(path).is_file():
            raise DataError(f"{path}: no such detector; give detector=FILE, an InsightFace detector with landmarks such "
                            f"as scrfd_2.5g_bnkps.onnx, or det_10g.onnx of its packs")
        import onnxruntime  # slow to import, and only aligning needs them
        from insightface.model_zoo.scrfd import SCRFD

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._sizes = [(size, size) for size in sizes]
        self._threshold = threshold
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self._model = SCRFD(str(path), session)
            works = self._model.use_kps and len(self.find(np.zeros((64, 64, 3), np.uint8)).score) >= 0
        except Exception as error:  # ONNX Runtime raises many kinds; all mean that this is no model, or not such a one
            raise DataError(f"{path}: does not work as a face detector ({_first_line(error)}); give an InsightFace "
                            f"detector such as scrfd_2.5g_bnkps.onnx") from None
        if not works:
            raise DataError(f"{path}: finds no landmarks; give a detector that does, such as scrfd_2.5g_bnkps.onnx")

    def find(self, rgb: np.ndarray) -> Faces:
        """The faces in an upright photograph, uint8 (H, W, 3) RGB, the surest first."""
        height, width = rgb.shape[:2]
        if min(height, width) * self._sizes[0][0] < max(height, width):  # its short side would shrink to nothing
            return Faces(np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2)))
        boxes, landmarks = self._model.detect(rgb[..., ::-1], input_size=self._sizes, det_thresh=self._threshold)
        landmarks = landmarks.astype(np.float64)
        real = np.isfinite(landmarks).all((1, 2)) & (np.ptp(landmarks, axis=1).max(1, initial=0) > 1)
        return Faces(boxes[real, :4].astype(np.float64), boxes[real, 4].astype(np.float64), landmarks[real])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
