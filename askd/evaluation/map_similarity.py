"""What the attention does: how far a network's maps are from its teacher's, block by block, on the same face and on another one.

A-SKD pulls the two together on the same face (Shin et al., ECCV 2022). Maps of different faces are alike as well, all faces having
their eyes in one place; only what the distance to another face has beyond the distance to the same face is particular to the face.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from askd.evaluation.intervals import mean_and_t_interval

PARTS = ("channel", "spatial")


@dataclass(frozen=True)
class MapDistance:
    """Mean 1 - cos, in [0, 2], of one network's maps of one block at `size` pixels to its teacher's at 112.

    space: of maps after the sigmoid, or of logits before it. block: from 0, downwards through the network. same, other: to the teacher's map of the same face, and of another face. low, high:
    95 % interval of other - same over the faces (Student's t; None for a single face).
    """

    model: str
    teacher: str
    size: int | str
    space: str
    part: str
    block: int
    same: float
    other: float
    low: float | None
    high: float | None
    faces: int


@dataclass(frozen=True)
class Maps:
    """Attention of N faces as unit vectors. space: `maps`, after the sigmoid, or `logits`, before it; of: {(part, block): (N, K) float32}."""

    space: str
    of: dict[tuple[str, int], np.ndarray]


def gather_maps(network: Callable, batches: Iterable, space: str = "maps") -> Maps:
    """The maps of all faces of `batches`, each (B, 3, 112, 112) as the network takes it; network(image) -> Features.

    Parts that a block does not have are left out; a network without attention has none.
    """
    if space not in ("maps", "logits"):
        raise ValueError(f"unknown space {space!r}; choose maps (after the sigmoid) or logits (before it)")
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for batch in batches:
        for block, maps in enumerate(network(batch).attention):
            for part in PARTS:
                if (logits := getattr(maps, part)) is not None:
                    logits = logits.detach().float()
                    flat = (logits.sigmoid() if space == "maps" else logits).flatten(1).cpu().numpy()
                    found.setdefault((part, block), []).append(flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-12))
    return Maps(space, {key: np.concatenate(parts) for key, parts in found.items()})


def compare_maps(model: str, teacher: str, size: int | str, ours: Maps, theirs: Maps, seed: int = 0) -> list[MapDistance]:
    """A row per part and block that both networks have in one shape, of the same N faces; empty where they have none.

    The other face of each is drawn by `seed`, no face drawn for itself. Raises ValueError for a single face, which has no other, for other
    numbers of faces, and for maps of two spaces.
    """
    if ours.space != theirs.space:
        raise ValueError(f"{ours.space} and {theirs.space} cannot be compared; gather both alike")
    found = []
    for part, block in sorted(ours.of.keys() & theirs.of.keys(), key=lambda key: (PARTS.index(key[0]), key[1])):
        a, b = ours.of[part, block], theirs.of[part, block]
        if len(a) != len(b):
            raise ValueError(f"maps of {len(a)} and of {len(b)} faces cannot be compared face by face")
        if len(a) < 2:
            raise ValueError("comparing maps with another face's needs at least two faces, got one")
        if a.shape != b.shape:
            continue
        same, other = 1 - (a * b).sum(1), 1 - (a * b[others(len(a), seed)]).sum(1)
        particular = mean_and_t_interval(other.astype(np.float64) - same)
        found.append(MapDistance(
            model, teacher, size, ours.space, part, block, float(same.mean(dtype=np.float64)), float(other.mean(dtype=np.float64)),
            particular.low, particular.high, len(a),
        ))
    return found


def others(count: int, seed: int = 0) -> np.ndarray:
    """For each of `count` faces another one: a random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(count)
    result = np.empty(count, np.int64)
    result[order] = np.roll(order, -1)
    return result
