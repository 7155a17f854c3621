"""Verification pairs: what they are, InsightFace's .bin, LFW's protocol files, or every pair of a set."""
from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from askd.data.faces import FaceSet
from askd.data.folder import READ, counted, found, protocol_rows, read_file, read_image
from askd.data.unpickle import PickledArray, read_plain_pickle
from askd.errors import DataError

FOLDS = 10
NO_FOLD = -1
_MOST_PAIRS = 100_000_000


@dataclass(frozen=True)
class PairSet:
    """N images and P pairs of them.

    `images` encoded, each once; `image_names` for messages; `left`, `right` int32 (P,) indices into them; `same` bool
    (P,), True for a genuine pair; `fold` int16 (P,), 0..9, or -1 throughout where there are no folds; `identity` int32
    (N,), or None where the source does not say who is who.
    """

    name: str
    images: list[bytes]
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    identity: np.ndarray | None
    image_names: list[str]

    def __len__(self) -> int:
        return len(self.same)


def read_bin(path: Path | str) -> PairSet:
    """Read an InsightFace `.bin` (lfw, agedb_30, cfp_fp, ...): a pickle of (2P encoded images, P booleans).

    The pickle is read without running anything it names. Images with identical bytes are kept once. Ten contiguous
    folds, as InsightFace has them, unless one of them would hold genuine pairs or impostors only: then `stratify`, or none where there
    are fewer than ten of either.
    `identity` is None: images that genuine pairs link are one person, but two such groups may be the same person too.
    Raises DataError naming file, item and remedy.
    """
    path = Path(path)
    content = read_plain_pickle(read_file(path), str(path))
    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise DataError(f"{path}: expected a pickle of (images, issame); it is not an InsightFace .bin")
    encoded, same = content[0], _booleans(content[1], path)
    if not isinstance(encoded, (list, tuple)) or len(encoded) != 2 * len(same) or not len(same):
        given = len(encoded) if isinstance(encoded, (list, tuple)) else f"a {type(encoded).__name__} of"
        raise DataError(f"{path}: {given} images for {len(same)} pairs, expected two images per pair; fetch it again")
    positions: dict[bytes, int] = {}
    first_seen: list[int] = []
    indices = np.empty(len(encoded), np.int32)
    for number, item in enumerate(encoded):
        image = _image(item, number, path)
        indices[number] = positions.setdefault(image, len(positions))
        if len(first_seen) < len(positions):
            first_seen.append(number)
    names = [f"{path}: image {number}" for number in first_seen]
    return PairSet(path.stem, list(positions), indices[0::2], indices[1::2], same, default_folds(same), None, names)


def write_bin(path: Path | str, pairs: Sequence[tuple[bytes, bytes, bool]]) -> None:
    """Write (encoded, encoded, same) pairs as an InsightFace `.bin` that any Python 3 unpickles, atomically."""
    path = Path(path)
    if not pairs:
        raise DataError(f"{path}: no pairs to write")
    images = [bytes(image) for left, right, _ in pairs for image in (left, right)]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            pickle.dump((images, [bool(same) for *_, same in pairs]), file, protocol=4)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_lfw_pairs(images_root: Path | str, pairs_file: Path | str) -> PairSet:
    """Read LFW's `pairs.txt` (View 2: its own ten folds) or `pairsDev*.txt` (View 1: `stratify`, it has no folds).

    Images are `<images_root>/<name>/<name>_%04d.jpg` (or .png); `identity` numbers the sorted names. Raises DataError
    with file and line for anything else than `name i j` and `nameA i nameB j` as often as the first line promises.
    """
    root, path = Path(images_root), Path(pairs_file)
    rows = protocol_rows(path)
    has_folds = bool(rows) and len(rows[0]) == 2
    if has_folds and not all(field.isdecimal() for field in rows[0]):
        raise DataError(f"{path}:1: expected folds<TAB>pairs, got {found(rows, 0)}")
    folds, count = map(int, rows[0]) if has_folds else (1, counted(path, rows, 0))
    if not folds * count or len(rows) != 1 + 2 * folds * count:
        raise DataError(f"{path}:1: promises {folds} x {count} genuine and as many impostor pairs, "
                        f"but {max(len(rows) - 1, 0)} lines follow; fetch it again")
    same = np.arange(len(rows) - 1) // count % 2 == 0
    pairs = [_lfw_pair(rows, row, genuine, path) for row, genuine in enumerate(same.tolist(), 1)]
    fold = np.repeat(np.arange(folds, dtype=np.int16), 2 * count) if has_folds else default_folds(same)
    return pairs_of_files(
        path.stem, pairs, same, fold, find=lambda image, row: find_image(
            root / image[0] / f"{image[0]}_{image[1]:04d}", f"{path}:{row + 2}", root),
        person=lambda image: image[0])


def pairs_of_files(
    name: str, pairs: Sequence[tuple[Hashable, Hashable]], same: np.ndarray, fold: np.ndarray,
    find: Callable[[Hashable, int], Path], person: Callable[[Hashable], str] | None = None,
) -> PairSet:
    """The PairSet of P pairs of images, however these are named; each is read once, in the order they first come.

    `find(image, row)`: its file, `row` being the pair that first names it; `person(image)`: who it is, if that is known
    (identities are numbered in the names' sorted order).
    """
    positions: dict[Hashable, int] = {}
    files, indices = [], np.empty((len(pairs), 2), np.int32)
    for row, pair in enumerate(pairs):
        for side, image in enumerate(pair):
            if image not in positions:
                positions[image] = len(positions)
                files.append(find(image, row))
            indices[row, side] = positions[image]
    identity = None if person is None else np.unique([person(image) for image in positions], return_inverse=True)[1].astype(np.int32)
    return PairSet(name, [read_image(file) for file in files], *indices.T.copy(), same, fold, identity, list(map(str, files)))


def find_image(stem: Path, line: str, root: Path) -> Path:
    """The image of that name, whichever its suffix; DataError where `line` (file:line) names one that is not there."""
    for suffix in READ:
        file = stem.with_name(stem.name + suffix)
        if file.is_file():
            return file
    raise DataError(f"{line}: names {stem}.jpg, which is not there (nor as {' or '.join(READ[1:])}); "
                    f"is {root} the folder of the identities?")


def all_pairs(faces: FaceSet, name: str) -> PairSet:
    """Every pair of a set's images, (0,1), (0,2) ... (1,2) ...: P = N(N-1)/2, no folds, identities from the labels."""
    count = len(faces)
    pairs = count * (count - 1) // 2
    if not 1 <= pairs <= _MOST_PAIRS:
        raise DataError(f"{name}: {count} images make {pairs} pairs, expected 1 to {_MOST_PAIRS}; use other people")
    rights = np.arange(count - 1, 0, -1)
    left = np.repeat(np.arange(count - 1, dtype=np.int32), rights)
    first_pair = np.cumsum(rights, dtype=np.int32) - rights.astype(np.int32)
    right = np.arange(pairs, dtype=np.int32) - first_pair[left] + left + 1
    identity = faces.labels.astype(np.int32)
    return PairSet(name, [faces.encoded(i) for i in range(count)], left, right, identity[left] == identity[right],
                   np.full(pairs, NO_FOLD, np.int16), identity, [faces.name(i) for i in range(count)])


def contiguous(pairs: int, folds: int = FOLDS) -> np.ndarray:
    """Fold of each pair, int16 (P,): blocks in order, the first P % folds one longer (scikit-learn's KFold)."""
    sizes = pairs // folds + (np.arange(folds) < pairs % folds)
    return np.repeat(np.arange(folds, dtype=np.int16), sizes)


def stratify(same: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """Fold of each pair, int16 (P,): genuine pairs in contiguous blocks, and impostors in contiguous blocks."""
    fold = np.empty(len(same), np.int16)
    for kind in (True, False):
        fold[same == kind] = contiguous(np.count_nonzero(same == kind), folds)
    return fold


def default_folds(same: np.ndarray) -> np.ndarray:
    """Fold of each pair of a list without folds: ten contiguous ones, or stratified where one would be of one kind.

    NO_FOLD throughout for fewer genuine pairs or impostors than folds: a mean over fewer folds would be another figure.
    """
    if min(np.count_nonzero(same), np.count_nonzero(~same)) < FOLDS:
        return np.full(len(same), NO_FOLD, np.int16)
    fold = contiguous(len(same))
    genuine = np.bincount(fold, weights=same, minlength=FOLDS)
    mixed = (genuine > 0) & (genuine < np.bincount(fold, minlength=FOLDS))
    return fold if mixed.all() else stratify(same)


def _image(item: object, number: int, path: Path) -> bytes:
    if isinstance(item, PickledArray) and item.value is not None and item.value.dtype == np.uint8:
        return item.value.tobytes()
    if not isinstance(item, bytes):
        raise DataError(f"{path}: image {number} is a {type(item).__name__}, expected encoded bytes or a uint8 array; "
                        f"fetch it again")
    return item


def _booleans(values: object, path: Path) -> np.ndarray:
    if isinstance(values, PickledArray) and values.value is not None:
        values = values.value.tolist()
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, int) and value in (0, 1) for value in values):
        raise DataError(f"{path}: the second part, issame, must be a list of booleans; it is not an InsightFace .bin")
    return np.array(values, bool)


def _lfw_pair(rows: list[list[str]], row: int, genuine: bool, path: Path) -> tuple[tuple[str, int], tuple[str, int]]:
    fields = rows[row]
    if len(fields) != (3 if genuine else 4) or not (fields[1].isdecimal() and fields[-1].isdecimal()):
        shape = "name i j (a genuine pair)" if genuine else "nameA i nameB j (an impostor pair)"
        raise DataError(f"{path}:{row + 1}: expected {shape}, got {found(rows, row)}")
    left, right = (fields[0], int(fields[1])), (fields[0 if genuine else 2], int(fields[-1]))
    if left == right or genuine != (left[0] == right[0]):
        raise DataError(f"{path}:{row + 1}: {found(rows, row)} pairs {left[0]} with themselves; expected two images "
                        f"of a person, or two persons")
    return left, right
