"""Retrieval: every image searches for the others of its person (Recall@K, MAP@R), as deep metric learning reports it."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 1024  # queries at a time


@dataclass(frozen=True)
class Retrieval:
    """recall: {K: fraction of queries with their person among the K nearest}; map_at_r: see `retrieve`; queries: images that count."""

    recall: dict[int, float]
    map_at_r: float
    queries: int


def retrieve(embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 2, 4, 8)) -> Retrieval:
    """Every image against all others by cosine; embeddings (N, D), not zero, labels (N,) whole numbers.

    MAP@R (Musgrave et al., ECCV 2020): with R other images of the query's person, the mean over the R nearest of the precision so far
    where the image is one of them, else 0. Of equally similar images those of others come first: a tie counts against the query.
    Images whose person has no other are candidates and no queries; ValueError where there is no query at all, or a K below 1.
    """
    if min(ks) < 1:
        raise ValueError(f"K counts the nearest images, from 1 on, got {min(ks)}")
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    _, label, count = np.unique(labels, return_inverse=True, return_counts=True)
    others = count[label] - 1
    queries = np.flatnonzero(others)
    if not len(queries):
        raise ValueError("no person has two images, so there is nothing to retrieve")
    deepest = min(max(*ks, others.max()), len(unit) - 1)
    found, precision = np.zeros((len(queries), deepest), bool), np.zeros(len(queries))
    for start in range(0, len(queries), BLOCK):
        part = queries[start : start + BLOCK]
        similarity = unit[part] @ unit.T
        own = label[part][:, None] == label
        similarity[np.arange(len(part)), part] = -np.inf  # itself comes last
        order = np.lexsort((own, -similarity), axis=1)[:, :deepest]
        hits = np.take_along_axis(own, order, 1)
        found[start : start + len(part)] = hits
        within = np.arange(deepest) < others[part][:, None]
        so_far = np.cumsum(hits, 1) / np.arange(1, deepest + 1)
        precision[start : start + len(part)] = (so_far * hits * within).sum(1) / others[part]
    recall = {k: float(found[:, :k].any(1).mean()) for k in ks}
    return Retrieval(recall, float(precision.mean()), len(queries))
