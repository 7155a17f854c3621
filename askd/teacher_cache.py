"""What a frozen teacher says of every training image and of its mirror image, kept on disk: for terms that need its embedding alone.

Where training does nothing to the HR image but mirror it, the teacher gives the same two embeddings of an image in every epoch.
"""
from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from askd.data.decode import decode_rgb
from askd.data.faces import FaceSet
from askd.data.loader import to_unit
from askd.engine import dist
from askd.engine.precision import Precision
from askd.errors import CheckpointError, DataError
from askd.models.features import Features

LAYOUT = 1  # of the file; part of its name
HASHED_TOGETHER = 1024  # images


class CachedTeacher:
    """Rows (B,) of a table -> Features of the embedding alone, on `device`: stands where a Frozen teacher stands in a Distiller.

    Row 2i is the embedding of image i, row 2i + 1 that of its mirror image, float32; the table (2N, width) stays on disk, memory-mapped.
    CheckpointError where the file does not hold that many.
    """

    def __init__(self, path: Path, images: int, width: int, device: torch.device):
        expected, found = 8 * images * width, path.stat().st_size
        if found != expected:
            raise CheckpointError(f"{path}: has {found:,} bytes, expected {expected:,} for {images:,} images; remove it to embed them again")
        self.table, self.device = np.memmap(path, "<f4", "r", shape=(2 * images, width)), device

    def __call__(self, rows: Tensor) -> Features:
        return Features(torch.from_numpy(self.table[rows.cpu().numpy()]).to(self.device), (), ())


def cached_teacher(
    teacher: Callable[[Tensor], Features], teacher_hash: str, width: int, faces: FaceSet, folder: Path, precision: Precision,
    device: torch.device, batch: int, skip_bad: bool = False,
) -> CachedTeacher:
    """The teacher's embeddings of all faces from `folder`, or, where it has none of this teacher and of these very images, made now.

    All ranks call it and share the work and the file, which appears whole or not at all. Embeddings are made in `precision`, `batch` at
    a time, as training would. The file's name has the hash of teacher, of every image's bytes (read each time) and the precision.
    skip_bad: images that cannot be read stay out of it, for training will not show them; otherwise they are a DataError.
    """
    number_format = str(precision.dtype or torch.float32).removeprefix("torch.")
    key = hashlib.sha256(f"{LAYOUT} {teacher_hash} {images_hash(faces)} {width} {number_format}".encode()).hexdigest()
    path = folder / f"{key[:32]}.f32"
    if dist.any_rank(not path.is_file()):
        partial = folder / f".{path.name}.{dist.all_gather(os.getpid())[0]}.tmp"
        try:
            if dist.is_main():
                folder.mkdir(parents=True, exist_ok=True)
                with open(partial, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, 8 * len(faces) * width)  # now, rather than when the disk is full
            dist.barrier()
            with open(partial, "r+b") as file:
                for first, embeddings in _embedded(teacher, faces, precision, device, batch, skip_bad):
                    file.seek(8 * first * width)
                    file.write(embeddings.astype("<f4"))
                file.flush()
                os.fsync(file.fileno())
            dist.barrier()
            if dist.is_main():
                os.replace(partial, path)
                print(f"teacher: its embeddings of {len(faces)} images, both ways round, are kept in {path}", file=sys.stderr)
            dist.barrier()
        except OSError as error:
            raise CheckpointError(f"cannot write {path} ({error.strerror or error}); choose another out=, or leave teacher.cache out") from None
        finally:
            if dist.is_main() and partial.parent.is_dir():
                partial.unlink(missing_ok=True)
    return CachedTeacher(path, len(faces), width, device)


def images_hash(faces: FaceSet) -> str:
    """SHA-256 over the encoded bytes of all images, in order; the ranks share the work, and it does not depend on how many they are."""
    mine = {}
    for first in range(dist.rank() * HASHED_TOGETHER, len(faces), dist.world_size() * HASHED_TOGETHER):
        together = hashlib.sha256()
        for index in range(first, min(first + HASHED_TOGETHER, len(faces))):
            together.update(hashlib.sha256(faces.encoded(index)).digest())
        mine[first] = together.digest()
    everyone_s = {first: digest for some in dist.all_gather(mine) for first, digest in some.items()}
    return hashlib.sha256(b"".join(everyone_s[first] for first in sorted(everyone_s))).hexdigest()


def _embedded(
    teacher: Callable[[Tensor], Features], faces: FaceSet, precision: Precision, device: torch.device, batch: int, skip_bad: bool,
) -> Iterator[tuple[int, np.ndarray]]:
    """This rank's part: the first image's index, and the embeddings of it and those after it, each before its mirror image's."""
    def both_ways(index: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            face = decode_rgb(faces.encoded(index), faces.name(index))
        except DataError:
            if not skip_bad:
                raise
            face = np.zeros((112, 112, 3), np.uint8)
        return face, cv2.flip(face, 1)

    step = max(batch // 2, 1)
    with ThreadPoolExecutor() as readers:
        for first in range(dist.rank() * step, len(faces), dist.world_size() * step):
            shown = [face for pair in readers.map(both_ways, range(first, min(first + step, len(faces)))) for face in pair]
            image = to_unit(torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).to(device))
            with precision.autocast():
                yield first, teacher(image).embedding.float().cpu().numpy()
