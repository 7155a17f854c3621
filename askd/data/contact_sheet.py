"""A sample of a set's faces on one PNG, each beside its degraded versions: what numbers do not say, the eye sees at once."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from askd.data.decode import SIZE
from askd.data.degrade import degrade
from askd.data.faces import FaceSet
from askd.data.inspect import BinImages
from askd.photo import decode_photo
from askd.errors import DataError

FACES = 40
_ROWS = 10
_GAP, _TEXT = 8, 14  # pixels
_INK, _PAPER = (60, 60, 60), 255


def contact_sheet(images: FaceSet | BinImages, whole: Sequence[int], sizes: Sequence[int], seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3) RGB: FACES images drawn from the indices `whole`, of different identities as far as there are.

    Left in each group the image as it is, then bicubic degradations to each of `sizes` pixels and back; below it identity
    and file. An image that is not 112x112 is shown shrunk to fit, on grey, and is not degraded.
    """
    labels = None if isinstance(images, BinImages) else images.labels
    chosen = _draw(np.asarray(whole, np.int64), labels, seed)
    groups = [_group(decode_photo(images.encoded(index), images.name(index)), sizes) for index in chosen]
    across = -(-len(groups) // _ROWS)
    height, width = SIZE + _TEXT + _GAP, groups[0].shape[1] + _GAP
    sheet = np.full((_TEXT + _GAP + height * min(len(groups), _ROWS), _GAP + width * across, 3), _PAPER, np.uint8)
    for number, (index, group) in enumerate(zip(chosen, groups)):
        top, left = _TEXT + _GAP + number // across * height, _GAP + number % across * width
        sheet[top:top + SIZE, left:left + group.shape[1]] = group
        identity = "" if labels is None else f"{images.class_names[labels[index]]}: "
        _write(sheet, identity + Path(images.name(index)).name, left, top + SIZE + _TEXT - 4, group.shape[1])
    for column in range(across):
        for place, size in enumerate((SIZE, *sizes)):
            _write(sheet, f"{size} px", _GAP + column * width + place * SIZE, _TEXT - 2, SIZE)
    return sheet


def write_png(path: Path, rgb: np.ndarray) -> None:
    """Write an RGB image as a PNG, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}); choose another out=") from None


def _draw(whole: np.ndarray, labels: np.ndarray | None, seed: int) -> list[int]:
    shuffled = np.random.default_rng(seed).permutation(whole)
    if labels is not None:  # every identity's first, then every identity's second, and so on
        of = labels[shuffled]
        order = np.argsort(of, kind="stable")
        starts = np.flatnonzero(np.append(True, of[order][1:] != of[order][:-1]))
        turn = np.empty(len(of), np.int64)
        turn[order] = np.arange(len(of)) - np.repeat(starts, np.diff(np.append(starts, len(of))))
        shuffled = shuffled[np.argsort(turn, kind="stable")]
    return sorted(shuffled[:FACES].tolist())


def _group(rgb: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    if rgb.shape[:2] != (SIZE, SIZE):
        scale = SIZE / max(rgb.shape[:2])
        height, width = (max(round(side * scale), 1) for side in rgb.shape[:2])
        group = np.full((SIZE, SIZE * (1 + len(sizes)), 3), 200, np.uint8)
        group[:height, :width] = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        return group
    hr = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    seen = [degrade(hr, size, "bicubic")[0].round().to(torch.uint8).permute(1, 2, 0).numpy() for size in sizes]
    return np.concatenate([rgb, *seen], 1)


def _write(sheet: np.ndarray, text: str, left: int, bottom: int, width: int) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(sheet, plain[:width // 6], (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.34, _INK, 1, cv2.LINE_AA)
