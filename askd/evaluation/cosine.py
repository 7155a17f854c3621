"""Cosines in float64, by blocks: of many pairs without walking them one by one, and exact ones where their order decides.

`pair_dots` is fast and right to some 1e-15 of the lengths. `unit_grid` rounds unit vectors so that every product and
every partial sum of a cosine is exact: the same number in any order, block or library, and equal images tie exactly.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from askd.errors import DataError

BLOCK = 256  # images whose float64 rows stay in the cache
STEP = 2.0**-26  # of the grid: 52 bits for a product of two, and no sum of a cosine exceeds 2

Rows = Callable[[np.ndarray | slice], np.ndarray]  # images -> their float64 rows


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) by their lengths."""
    return rows / np.sqrt(np.sum(rows * rows, 1, keepdims=True))


def unit_grid(rows: np.ndarray) -> np.ndarray:
    """Unit vectors (N, D) float64 rounded to multiples of 2^-26, about as fine as float32; their products are exact."""
    return np.rint(unit(rows.astype(np.float64)) / STEP) * STEP


def blocks(images: int, size: int = BLOCK) -> list[slice]:
    """0..images in slices of `size`."""
    return [slice(start, min(start + size, images)) for start in range(0, images, size)]


def squared_norms(rows: Rows, images: int) -> np.ndarray:
    """(N,) float64; DataError for embeddings that are zero or not finite."""
    squares = np.concatenate([np.einsum("nd,nd->n", part, part) for part in map(rows, blocks(images))])
    bad = ~np.isfinite(squares) | (squares == 0)
    if bad.any():
        first = int(np.argmax(bad))
        what = "zero" if squares[first] == 0 else "not finite"
        raise DataError(f"{bad.sum()} of {images} embeddings are {what} (first: image {first}); "
                        "check the model's weights and its input")
    return squares


def pair_dots(rows: Rows, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scalar products (P,) of pairs; where they are a fair part of all possible ones, from blocks of those."""
    dots = np.empty(len(left))
    lefts, left = _numbered(left)
    rights, right = _numbered(right)
    if 16 * len(left) < len(lefts) * len(rights):
        for part in blocks(len(left)):
            dots[part] = np.einsum("pd,pd->p", rows(lefts[left[part]]), rows(rights[right[part]]))
        return dots
    down, across = blocks(len(lefts)), blocks(len(rights))
    tiles = len(down) * len(across)
    tile = (left // BLOCK * len(across) + right // BLOCK).astype(np.min_scalar_type(tiles))  # 16 bits sort in linear time
    order = np.argsort(tile, kind="stable")
    edges = np.append(0, np.cumsum(np.bincount(tile, minlength=tiles)))
    for index in np.flatnonzero(np.diff(edges)):
        part = order[edges[index]:edges[index + 1]]
        gram = rows(lefts[down[index // len(across)]]) @ rows(rights[across[index % len(across)]]).T
        dots[part] = gram[left[part] % BLOCK, right[part] % BLOCK]
    return dots


def _numbered(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct images that occur, rising, and each image's place among them."""
    occurs = np.zeros(images.max() + 1, bool)
    occurs[images] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[images]
