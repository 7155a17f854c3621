"""What the sets of a benchmark ask for: which images are embedded together, once for all sets that show them, at which sizes.

Images of 112x112 are degraded to each size asked for. A set with images of any other size is scored once, at NATIVE size:
they are what a camera left, and another degradation on top would be of nothing that exists.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
    note: what was done to them, for the report.
    """

    images: Images
    sizes: tuple[Size, ...]
    sets: list[tuple[EvaluationSet, np.ndarray]]
    note: str = ""

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
    """The lots of `sets`. Reads the header of every image; progress(n): that many more were read.

    Raises DataError for an image that cannot be read or is no crop of a face.
    """
    lots: list[Lot] = []
    shared: dict[bool, list[tuple[PairSet, np.ndarray]]] = {True: [], False: []}
    for one in sets:
        images = images_of(one)
        shapes = _sizes(images, progress)
        native = bool((shapes != FULL_SIZE).any())
        if isinstance(one, PairSet):
            shared[native].append((one, shapes))
        else:
            lots.append(Lot(images, _sizes_at(native, sizes), [(one, np.arange(len(images)))], _note(shapes)))
    pairs = [_pooled(found, _sizes_at(native, sizes)) for native, found in ((False, shared[False]), (True, shared[True])) if found]
    return pairs + lots


def images_of(one: EvaluationSet) -> Images:
    """The images of a set of any kind."""
    return Encoded(one.images, one.image_names) if isinstance(one, PairSet) else one.images


def _pooled(sets: list[tuple[PairSet, np.ndarray]], sizes: tuple[Size, ...]) -> Lot:
    """Every distinct image of all sets once."""
    index: dict[bytes, int] = {}
    names, placed = [], []
    for pairs, _ in sets:
        for encoded, name in zip(pairs.images, pairs.image_names):
            if encoded not in index:
                index[encoded] = len(names)
                names.append(name)
        placed.append((pairs, np.array([index[encoded] for encoded in pairs.images])))
    return Lot(Encoded(list(index), names), sizes, placed, _note(np.concatenate([shapes for _, shapes in sets])))


def _sizes(images: Images, progress: Callable[[int], None] | None) -> np.ndarray:
    """int64 (N, 2): width and height of every image, from the headers."""
    if isinstance(images, LooseCrops):  # aligned when they are read, which is not to be done twice
        return np.full((len(images), 2), FULL_SIZE)
    shapes = np.empty((len(images), 2), np.int64)

    def read(index: int) -> None:
        shapes[index] = native_size(images.encoded(index), images.name(index))

    with ThreadPoolExecutor(READERS) as threads:
        for start in range(0, len(images), 1024):
            part = range(start, min(start + 1024, len(images)))
            for _ in threads.map(read, part):
                pass
            if progress:
                progress(len(part))
    return shapes


def _sizes_at(native: bool, sizes: Sequence[int]) -> tuple[Size, ...]:
    return (NATIVE,) if native else tuple(sizes)


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
