"""CFP, Celebrities in Frontal-Profile: pairs of two frontal images (FF), or of a frontal one and a profile (FP)."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from askd.data.folder import found, protocol_rows
from askd.data.pairs import FOLDS, PairSet, find_image, pairs_of_files
from askd.errors import DataError

SPLITS = ("FF", "FP")


def read_cfp(protocol: Path | str, images_root: Path | str, split: str) -> PairSet:
    """Read the `Protocol` folder as it is distributed; `split` is FF or FP.

    `Pair_list_F.txt` and `Pair_list_P.txt` number the images, `index path` a line; `Split/<split>/01..10/{same,diff}.txt`
    hold `i,j` lines: in FF both of the frontal list, in FP the second one of the profiles. A fold's genuine pairs come
    first. Whatever the lists put before `<identity>/frontal|profile/<NN>.jpg`, that is looked for under `images_root`
    (.jpg or .png), so that it can be a folder of aligned copies. Identities are the names in the paths. Raises
    DataError with file and line.
    """
    protocol, root = Path(protocol), Path(images_root)
    if split not in SPLITS:
        raise ValueError(f"CFP's splits are {' and '.join(SPLITS)}, got {split!r}")
    frontal = _image_list(protocol / "Pair_list_F.txt")
    second = frontal if split == "FF" else _image_list(protocol / "Pair_list_P.txt")
    pairs, lines, same, fold = [], [], [], []
    for number in range(FOLDS):
        for genuine, name in ((True, "same.txt"), (False, "diff.txt")):
            path = protocol / "Split" / split / f"{number + 1:02d}" / name
            read = _pairs(path, frontal, second, genuine)
            pairs += [pair for pair, _ in read]
            lines += [f"{path}:{line}" for _, line in read]
            same += [genuine] * len(read)
            fold += [number] * len(read)
    return pairs_of_files(
        f"cfp_{split.lower()}", pairs, np.array(same), np.array(fold, np.int16),
        find=lambda image, row: find_image(root.joinpath(*image), lines[row], root), person=lambda image: image[0])


_Image = tuple[str, str, str]  # identity, frontal or profile, file name without suffix


def _image_list(path: Path) -> dict[int, _Image]:
    images: dict[int, _Image] = {}
    rows = protocol_rows(path)
    for row, fields in enumerate(rows):
        parts = Path(fields[1]).with_suffix("").parts[-3:] if len(fields) == 2 else ()
        if len(parts) != 3 or ".." in parts or not fields[0].isdecimal():
            raise DataError(f"{path}:{row + 1}: expected an index and a path that ends with <identity>/frontal|profile/<NN>.jpg, "
                            f"got {found(rows, row)}")
        if int(fields[0]) in images:
            raise DataError(f"{path}:{row + 1}: index {fields[0]} stands there twice; fetch the list again")
        images[int(fields[0])] = parts
    return images


def _pairs(path: Path, left: dict[int, _Image], right: dict[int, _Image], genuine: bool) -> list[tuple[tuple[_Image, _Image], int]]:
    rows = protocol_rows(path)
    pairs = []
    for row, fields in enumerate(rows):
        indices = "".join(fields).split(",")
        if len(indices) != 2 or not all(index.isdecimal() for index in indices):
            raise DataError(f"{path}:{row + 1}: expected a pair of indices, i,j; got {found(rows, row)}")
        for index, images, which in zip(map(int, indices), (left, right), ("first", "second")):
            if index not in images:
                raise DataError(f"{path}:{row + 1}: the {which} index, {index}, is not in its list of {len(images)} images")
        a, b = left[int(indices[0])], right[int(indices[1])]
        if a == b or genuine != (a[0] == b[0]):
            expected = "two images of one person" if genuine else "images of two persons"
            raise DataError(f"{path}:{row + 1}: pairs {'/'.join(a)} with {'/'.join(b)}, expected {expected}; fetch the protocol again")
        pairs.append(((a, b), row + 1))
    if not pairs:
        raise DataError(f"{path}: holds no pairs; fetch the protocol again")
    return pairs
