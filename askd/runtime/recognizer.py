"""An exported student as a service runs it: faces in, embeddings out; numpy, OpenCV and ONNX Runtime, no torch."""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from askd.errors import CheckpointError, DataError

SIDE = 112  # pixels: the side of every face the network itself sees
LEAST_SIDE = 7  # pixels: sixteen times fewer than SIDE; less is no face
MODEL, META = "student.onnx", "meta.json"
MOST_BYTES = 1 << 31  # protobuf's own limit
MOST_META_BYTES = 1 << 24


class Recognizer:
    """The student in an export folder (`python -m askd.export`): `embed(images) -> (N, D)`.

    threads: of one call, None for all cores. batch: images per run of the network. One Recognizer may serve many threads at once.
    `input`: "aligned" or "native", see `embed`; `width`: D; `sizes`: pixels it was trained at; `sha256`: of the model file, which
    galleries are tied to; `folder`, `meta`: where it lies and all of meta.json. CheckpointError where the folder is no whole export.
    """

    def __init__(self, path: str | Path, threads: int | None = None, batch: int = 32):
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.folder = folder = Path(path).parent if Path(path).name == MODEL else Path(path)
        model, self.meta, export = _read_export(folder)
        self.sha256, self.input, self.width, self.sizes = export["sha256"], export["input"], export["width"], tuple(self.meta["sizes"])
        self._batch = batch
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of its own for every kind of damage, all plain Exceptions
            raise CheckpointError(f"{folder / MODEL} is no model ONNX Runtime can load ({_first_line(error)}); export it again") from None
        given = [(entry.type, entry.shape[1:]) for entry in (*self._session.get_inputs(), *self._session.get_outputs())]
        image = ("tensor(uint8)", [3, "height", "width"]) if self.input == "native" else ("tensor(float)", [3, SIDE, SIDE])
        if given != [image, ("tensor(float)", [self.width])]:
            raise CheckpointError(f"{folder / MODEL} takes and gives {given}, which is not what {META} beside it says; export it again")
        self._input = self._session.get_inputs()[0].name

    def embed(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings, float32 (N, D), not normalised, of N faces: uint8 RGB, an array (N, H, W, 3) or a list of (H, W, 3).

        input "aligned": faces of 112 x 112 pixels, aligned to the ArcFace template. "native": the same template at any size and mix
        of sizes from 7 pixels on, as the camera had them; the model enlarges them as training did, and what is larger than 112 is
        shrunk to it here. DataError names the image that does not fit; CheckpointError: embeddings that are not finite.
        """
        faces = [self._checked(image, number) for number, image in enumerate(images)]
        embeddings = np.empty((len(faces), self.width), np.float32)
        by_shape: dict[tuple, list[int]] = {}
        for number, face in enumerate(faces):
            by_shape.setdefault(face.shape, []).append(number)
        for numbers in by_shape.values():
            for start in range(0, len(numbers), self._batch):
                some = numbers[start:start + self._batch]
                pixels = np.ascontiguousarray(np.stack([faces[number] for number in some]).transpose(0, 3, 1, 2))
                if self.input == "aligned":
                    pixels = (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
                embeddings[some] = self._run(pixels)
        if not np.isfinite(embeddings).all():
            bad = int(np.flatnonzero(~np.isfinite(embeddings).all(1))[0])
            raise CheckpointError(f"the model gives an embedding that is not finite for image {bad}; its weights are damaged: export it again")
        return embeddings

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            found = self._session.run(None, {self._input: pixels})[0]
        except Exception as error:  # a graph that loads can still fail at its work
            raise CheckpointError(f"{self.folder / MODEL} fails at {len(pixels)} faces ({_first_line(error)}); export it again") from None
        if found.shape != (len(pixels), self.width):
            raise CheckpointError(f"{self.folder / MODEL} gives {found.shape} for {len(pixels)} faces of {self.width} numbers; export it again")
        return found

    def threshold(self, far: float, size: int) -> float:
        """The cosine from which two faces of about `size` pixels count as one person at that FAR, as measured at export.

        Of the sizes measured the nearest in ratio. DataError, with the choices, where that FAR could not be measured there.
        """
        measured = self.meta["export"]["thresholds"]
        if not measured:
            raise DataError("this export has no measured thresholds; export it with a verification set (eval.sets)")
        nearest = min({entry["size"] for entry in measured}, key=lambda known: abs(math.log(known / size)))
        there = {entry["far"]: entry["threshold"] for entry in measured if entry["size"] == nearest}
        if there.get(far) is None:
            known = ", ".join(f"{key:g}" for key, value in there.items() if value is not None) or "none"
            raise DataError(f"no threshold was measured for FAR {far:g} at {nearest} pixels; measured there: {known}")
        return there[far]

    def _checked(self, image: np.ndarray, number: int) -> np.ndarray:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            given = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise DataError(f"image {number} is {given}, expected uint8 (H, W, 3) RGB; decode it with askd.photo.read_photo")
        height, width = image.shape[:2]
        if self.input == "aligned" and (height, width) != (SIDE, SIDE):
            raise DataError(f"image {number} is {width}x{height} pixels, and this export takes aligned faces of {SIDE}x{SIDE}; align it, "
                            "or export with input=native for small crops")
        if min(height, width) < LEAST_SIDE:
            raise DataError(f"image {number} is {width}x{height} pixels, too small to hold a face; {LEAST_SIDE} on each side is the least")
        if max(height, width) > SIDE:
            return cv2.resize(image, (min(width, SIDE), min(height, SIDE)), interpolation=cv2.INTER_AREA)
        return image


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine similarity (N,) float64, -1 to 1, of the rows of two arrays (N, D)."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return (left * right).sum(1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))


def _read_export(folder: Path) -> tuple[bytes, dict, dict]:
    """The model's bytes, meta.json and its `export` part, found whole and belonging together."""
    for file in (folder / MODEL, folder / META):
        if not file.is_file():
            raise CheckpointError(f"no {file.name} in {folder}; give a folder that `python -m askd.export RUN out=FOLDER` wrote")
    try:
        for name, most in ((MODEL, MOST_BYTES), (META, MOST_META_BYTES)):
            if (folder / name).stat().st_size > most:
                raise CheckpointError(f"{folder / name} has more than {most:,} bytes, which no export has; export it again")
        model = (folder / MODEL).read_bytes()
        meta = json.loads((folder / META).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / META} or the model beside it cannot be read ({_first_line(error)}); export it again") from None
    export = meta.get("export") if isinstance(meta, dict) else None
    sizes = meta.get("sizes") if isinstance(meta, dict) else None
    whole = isinstance(sizes, list) and sizes and all(isinstance(size, int) for size in sizes)
    if not whole or not isinstance(export, dict) or not {"sha256", "input", "width", "thresholds"} <= export.keys():
        raise CheckpointError(f"{folder / META} does not describe an export; give the out= folder of askd.export, not a run folder")
    found = hashlib.sha256(model).hexdigest()
    if found != export["sha256"]:
        raise CheckpointError(f"{folder / MODEL} is not the file that {META} beside it describes (sha256 {found[:12]}, expected "
                              f"{str(export['sha256'])[:12]}): cut short, damaged or exchanged; export it again")
    return model, meta, export


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
