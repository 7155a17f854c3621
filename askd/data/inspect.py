"""One pass over every image of a set, whatever it is stored as: what verdicts.py then judges."""
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from askd.data.decode import SIZE, decode_rgb
from askd.data.faces import FaceSet, open_faces
from askd.data.gallery import Images
from askd.data.looks import eyes_in_place, red_minus_blue
from askd.data.pairs import PairSet, read_bin
from askd.photo import decode_photo, encoded_size
from askd.errors import DataError

_CHUNK = 64


class BinImages:
    """The distinct images of a verification set."""

    def __init__(self, pairs: PairSet):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs.images)

    def encoded(self, index: int) -> bytes:
        """See Images."""
        return self.pairs.images[index]

    def name(self, index: int) -> str:
        """See Images."""
        return self.pairs.image_names[index]


def open_images(path: Path) -> FaceSet | BinImages:
    """A training set of any format, or a .bin; DataError as their readers raise it."""
    if path.suffix == ".bin" and path.is_file():
        return BinImages(read_bin(path))
    return open_faces(path)


@dataclass
class Seen:
    """What one pass over N images found; `broken` (index, message) in order; `red` and `eyes` go with `faces`."""

    digests: np.ndarray  # uint64 (N, 2): of the bytes; 0 for a broken image
    sizes: Counter = field(default_factory=Counter)  # (width, height) -> images
    formats: Counter = field(default_factory=Counter)
    broken: list[tuple[int, str]] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)  # indices of the images that decode
    faces: list[int] = field(default_factory=list)  # indices of those of 112x112
    red: list[float] = field(default_factory=list)  # red_minus_blue
    eyes: list[bool] = field(default_factory=list)  # eyes_in_place


def look_through(images: Images, threads: int, progress: Callable[[int, int], None] | None = None) -> Seen:
    """Read and decode every image, with as many threads; nothing that is wrong with an image ends it."""
    seen = Seen(np.zeros((len(images), 2), np.uint64))
    chunks = [range(start, min(start + _CHUNK, len(images))) for start in range(0, len(images), _CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        try:
            for chunk, results in zip(chunks, pool.map(lambda chunk: [_look(images, index) for index in chunk], chunks)):
                for index, (digest, size, kind, red, eyes, fault) in zip(chunk, results):
                    if fault:
                        seen.broken.append((index, fault))
                        continue
                    seen.digests[index] = np.frombuffer(digest, np.uint64)
                    seen.whole.append(index)
                    seen.sizes[size] += 1
                    seen.formats[kind] += 1
                    if size == (SIZE, SIZE):
                        seen.faces.append(index)
                        seen.red.append(red)
                        seen.eyes.append(eyes)
                if progress is not None:
                    progress(chunk.stop, len(images))
        finally:
            pool.shutdown(cancel_futures=True)
    return seen


def _look(images: Images, index: int) -> tuple[bytes, tuple[int, int], str, float, bool, str]:
    digest, size, kind = b"", (0, 0), ""
    try:
        encoded, name = images.encoded(index), images.name(index)
        digest = hashlib.blake2b(encoded, digest_size=16).digest()
        size = encoded_size(encoded, name)
        kind = "PNG" if encoded.startswith(b"\x89PNG") else "JPEG"
        if size != (SIZE, SIZE):
            decode_photo(encoded, name)
            return digest, size, kind, 0.0, False, ""
        rgb = decode_rgb(encoded, name)
    except DataError as error:
        return digest, size, kind, 0.0, False, str(error)
    return digest, size, kind, red_minus_blue(rgb), eyes_in_place(rgb), ""
