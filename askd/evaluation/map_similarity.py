"""What the attention does: how far a network's maps are from its teacher's, block by block, on the same face and on another one.

A-SKD pulls the two together on the same face (Shin et al., ECCV 2022). Maps of different faces are alike as well, all faces having
their eyes in one place; only what the distance to another face has beyond the distance to the same face is particular to the face.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from askd.evaluation.intervals import mean_and_t_interval

PARTS = ("channel", "spatial")


@dataclass(frozen=True)
class MapDistance:
    """Mean 1 - cos, in [0, 2], of one network's maps of one block at `size` pixels to its teacher's at 112.

    block: from 0, downwards through the network. same, other: to the teacher's map of the same face, and of another face. low, high:
    95 % interval of other - same over the faces (Student's t; None for a single face).
    """

    model: str
    teacher: str
    size: int | str
    part: str
    block: int
    same: float
    other: float
    low: float | None
    high: float | None
    faces: int


class Maps:
    """Attention of N faces as unit vectors: {(part, block): (N, K) float32}, gathered batch by batch.

    space: `maps`, after the sigmoid, or `logits`, before it.
    """

    def __init__(self, space: str = "maps"):
        if space not in ("maps", "logits"):
            raise ValueError(f"unknown space {space!r}; choose maps (after the sigmoid) or logits (before it)")
        self.space = space
        self._parts: dict[tuple[str, int], list[np.ndarray]] = {}

    def add(self, attention: Sequence) -> None:
        """Another batch: one AttentionMaps per block, before the sigmoid; parts that a block does not have are left out."""
        for block, maps in enumerate(attention):
            for part in PARTS:
                if (logits := getattr(maps, part)) is not None:
                    logits = logits.detach().float()
                    flat = (logits.sigmoid() if self.space == "maps" else logits).flatten(1).cpu().numpy()
                    length = np.linalg.norm(flat, axis=1, keepdims=True)
                    self._parts.setdefault((part, block), []).append(flat / np.maximum(length, 1e-12))

    def unit(self) -> dict[tuple[str, int], np.ndarray]:
        """All faces so far; empty for a network without attention."""
        return {key: np.concatenate(batches) for key, batches in self._parts.items()}


def compare_maps(
    model: str, teacher: str, size: int | str, ours: dict[tuple[str, int], np.ndarray], theirs: dict[tuple[str, int], np.ndarray], seed: int = 0,
) -> list[MapDistance]:
    """A row per part and block that both networks have in one shape, of the same N faces; empty where they have none.

    The other face of each is drawn by `seed`, no face drawn for itself; with a single face there is none, ValueError.
    """
    found = []
    for part, block in sorted(ours.keys() & theirs.keys(), key=lambda key: (PARTS.index(key[0]), key[1])):
        a, b = ours[part, block], theirs[part, block]
        if len(a) != len(b):
            raise ValueError(f"maps of {len(a)} and of {len(b)} faces cannot be compared face by face")
        if len(a) < 2:
            raise ValueError("comparing maps with another face's needs at least two faces, got one")
        if a.shape != b.shape:
            continue
        same, other = 1 - (a * b).sum(1), 1 - (a * b[others(len(a), seed)]).sum(1)
        particular = mean_and_t_interval(other.astype(np.float64) - same)
        found.append(MapDistance(
            model, teacher, size, part, block, float(same.mean(dtype=np.float64)), float(other.mean(dtype=np.float64)),
            particular.low, particular.high, len(a),
        ))
    return found


def others(count: int, seed: int = 0) -> np.ndarray:
    """For each of `count` faces another one: a random cycle through all of them."""
    order = np.random.default_rng(seed).permutation(count)
    result = np.empty(count, np.int64)
    result[order] = np.roll(order, -1)
    return result


def gather_maps(network: Callable, batches: Sequence, space: str = "maps") -> dict[tuple[str, int], np.ndarray]:
    """The unit maps of all faces of `batches`, each (B, 3, 112, 112) as the network takes it; network(image) -> Features."""
    maps = Maps(space)
    for batch in batches:
        maps.add(network(batch).attention)
    return maps.unit()
