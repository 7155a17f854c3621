"""What the sets of a benchmark ask for: which images are embedded together, once for all sets that show them, at which sizes.

Images of 112x112 are degraded to each size asked for. A set with images of any other size is scored once, at NATIVE size:
they are what a camera left, and another degradation on top would be of nothing that exists.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from askd.data.gallery import IdentificationSet, Images
from askd.data.loose_crops import LooseCrops
from askd.data.native import native_size
from askd.data.pairs import PairSet
from askd.data.sets import EvaluationSet
from askd.errors import DataError
from askd.evaluation.report import FULL_SIZE, NATIVE, Size

READERS = 16  # threads: files are waited for more than worked on


@dataclass(frozen=True)
class Lot:
    """Images that are embedded together.

    sizes: to embed them at, pixels or NATIVE alone; sets: each with the places (indices) of its images among these;
    note: what was done to them, for the report; hashes: uint8 (N, 32), the sha256 of each.
    """

    images: Images
    sizes: tuple[Size, ...]
    sets: list[tuple[EvaluationSet, np.ndarray]]
    note: str
    hashes: np.ndarray

    @property
    def sha256(self) -> str:
        """Of all images, in their order."""
        return hashlib.sha256(self.hashes.tobytes()).hexdigest()

    @property
    def keeps_both(self) -> bool:
        """Whether plain and mirrored embeddings are both needed, as pairs do, or their sum alone."""
        return isinstance(self.sets[0][0], PairSet)


@dataclass(frozen=True)
class Encoded:
    """Images in memory (an `Images`)."""

    images: list[bytes]
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def encoded(self, index: int) -> bytes:
        """An image as stored."""
        return self.images[index]

    def name(self, index: int) -> str:
        """Where it came from, for messages."""
        return self.names[index]


def gather(sets: Sequence[EvaluationSet], sizes: Sequence[int], progress: Callable[[int], None] | None = None) -> list[Lot]:
    """The lots of `sets`: one each, but for pairs whose images are all among those of other pairs. Reads every image, decodes none.

    progress(n): that many more were read. Raises DataError for an image that cannot be read or is no crop of a face.
    """
    seen = [_headers(images_of(one), progress) for one in sets]
    held = _held_by_others(sets, seen)
    lots: list[Lot] = []
    for number, one in enumerate(sets):
        if number not in held:
            shapes, hashes = seen[number]
            together = [(sets[other], places) for other, (holder, places) in sorted(held.items()) if holder == number]
            sizes_here = (NATIVE,) if _is_native(shapes) else tuple(sizes)
            lots.append(Lot(images_of(one), sizes_here, [(one, np.arange(len(hashes))), *together], _note(shapes), hashes))
    return lots


def _held_by_others(sets: Sequence[EvaluationSet], seen: list[tuple[np.ndarray, np.ndarray]]) -> dict[int, tuple[int, np.ndarray]]:
    """Number of each set of pairs whose images are all in a larger one -> the number of that one, and where they are in it."""
    held: dict[int, tuple[int, np.ndarray]] = {}
    holders: list[int] = []
    for number in sorted(range(len(sets)), key=lambda number: -len(seen[number][1])):
        if isinstance(sets[number], PairSet):
            for holder in holders:
                places = _places(seen[number][1], seen[holder][1])
                if places is not None and _is_native(seen[number][0]) == _is_native(seen[holder][0]):
                    held[number] = holder, places
                    break
            else:
                holders.append(number)
    return held


def fingerprint(one: EvaluationSet, hashes: np.ndarray) -> str:
    """sha256 of a set: of its images' hashes, uint8 (N, 32), and of every number that says how they are compared."""
    digest = hashlib.sha256(hashes.tobytes())
    for field in fields(one):
        value = getattr(one, field.name)
        for array in value if field.name == "galleries" else [value]:
            if isinstance(array, np.ndarray):
                digest.update(f"{field.name} {array.shape}".encode() + array.astype(np.int64).tobytes())
    return digest.hexdigest()


def _is_native(shapes: np.ndarray) -> bool:
    return bool((shapes != FULL_SIZE).any())


def _places(hashes: np.ndarray, among: np.ndarray) -> np.ndarray | None:
    """Where each of some images is among others; None if one is not there."""
    index = {digest.tobytes(): place for place, digest in enumerate(among)}
    found = [index.get(digest.tobytes(), -1) for digest in hashes]
    return None if -1 in found else np.array(found)


def images_of(one: EvaluationSet) -> Images:
    """The images of a set of any kind."""
    return Encoded(one.images, one.image_names) if isinstance(one, PairSet) else one.images


def _headers(images: Images, progress: Callable[[int], None] | None) -> tuple[np.ndarray, np.ndarray]:
    """int64 (N, 2): width and height of every image, from its header; uint8 (N, 32): the sha256 of its content."""
    shapes, hashes = np.empty((len(images), 2), np.int64), np.empty((len(images), 32), np.uint8)

    def read(index: int) -> None:
        if isinstance(images, LooseCrops):  # aligned when they are read, which is not to be done twice
            content, shapes[index] = images.stored(index), FULL_SIZE
        else:
            content = images.encoded(index)
            shapes[index] = native_size(content, images.name(index))
        hashes[index] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)

    with ThreadPoolExecutor(READERS) as threads:
        for start in range(0, len(images), 1024):
            part = range(start, min(start + 1024, len(images)))
            for _ in threads.map(read, part):
                pass
            if progress:
                progress(len(part))
    return shapes, hashes


def _note(shapes: np.ndarray) -> str:
    if (shapes == FULL_SIZE).all():
        return ""
    wide, high = (f"{least}" if least == most else f"{least} to {most}" for least, most in zip(shapes.min(0), shapes.max(0)))
    return f"images {wide} px wide (median {np.median(shapes[:, 0]):.0f}) and {high} px high, resized to {FULL_SIZE}x{FULL_SIZE}"


def check(sets: Sequence[EvaluationSet]) -> None:
    """DataError for two sets of one name, and for one with nothing to score."""
    for index, one in enumerate(sets):
        if one.name in (other.name for other in sets[:index]):
            raise DataError(f"two sets are called {one.name}, and their figures could not be told apart; rename a file, or leave one out")
        _check(one)


def _check(one: EvaluationSet) -> None:
    if isinstance(one, PairSet):
        sides = {"pairs": len(one)}
    elif isinstance(one, IdentificationSet):
        sides = {"probes": len(one.probe), "gallery images": len(one.gallery)}
    else:
        images = np.bincount(one.template, minlength=len(one.subject))
        sides = {"pairs and no probes": len(one.left) + len(one.probe), f"images of template {images.argmin()}": images.min()}
        if len(one.probe):
            sides |= {"galleries": len(one.galleries), "templates in one of its galleries": min(map(len, one.galleries), default=1)}
    for what, count in sides.items():
        if not count:
            raise DataError(f"{one.name} has no {what}, so there is nothing to score; check its lists")
