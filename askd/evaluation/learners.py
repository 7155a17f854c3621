"""How alike an ensemble's learners see: cosines of self pairs, genuine and impostor pairs, for every pair of learners (ABE's figure 5)."""
from __future__ import annotations

import numpy as np

BINS = 50  # of cosines, -1 to 1
KINDS = ("self", "positive", "negative")


def similarities(embeddings: np.ndarray, learners: int, left: np.ndarray, right: np.ndarray, same: np.ndarray) -> list[dict]:
    """One entry per pair of learners p <= q, counted from 1: {"learners": [p, q], KIND: {"mean", "std", "counts"}}.

    embeddings (N, E): of `learners` parts of equal width, as an Ensemble gives them; each part is normalised here. left, right, same: the
    pairs of images. self: one image through p and q; positive and negative: genuine and impostor pairs, an image through each, in both
    orders. counts: of BINS equal bins from -1 to 1. Left out: `self` for p = q, which is 1, and what there are no pairs for.
    """
    if embeddings.shape[1] % learners:
        raise ValueError(f"embeddings of {embeddings.shape[1]} do not divide among {learners} learners")
    parts = embeddings.reshape(len(embeddings), learners, -1).astype(np.float64)
    parts = parts / np.linalg.norm(parts, axis=2, keepdims=True).clip(1e-12)
    entries = []
    for p in range(learners):
        for q in range(p, learners):
            a, b = parts[:, p], parts[:, q]
            across = np.concatenate([_cosines(a, b, left, right), _cosines(a, b, right, left)] if p != q else [_cosines(a, a, left, right)])
            genuine = np.concatenate([same, same]) if p != q else same
            cosines = {"positive": across[genuine], "negative": across[~genuine]}
            if p != q:
                cosines["self"] = _cosines(a, b, np.arange(len(a)), np.arange(len(b)))
            entries.append({"learners": [p + 1, q + 1], **{kind: _summary(found) for kind, found in cosines.items() if len(found)}})
    return entries


def overall(entries: list[dict]) -> dict[str, float]:
    """Mean cosines: of self pairs over all pairs of learners; of genuine and impostor pairs within each learner, over learners."""
    means = {}
    for kind in KINDS:
        chosen = [entry[kind]["mean"] for entry in entries if kind in entry and (len(set(entry["learners"])) == 2) == (kind == "self")]
        if chosen:
            means[kind] = float(np.mean(chosen))
    return means


def pooled(entries: list[dict], kind: str) -> np.ndarray | None:
    """Counts (BINS,) of what `overall` takes the mean of; None where there is nothing."""
    chosen = [entry[kind]["counts"] for entry in entries if kind in entry and (len(set(entry["learners"])) == 2) == (kind == "self")]
    return np.sum(chosen, axis=0) if chosen else None


def _cosines(a: np.ndarray, b: np.ndarray, left: np.ndarray, right: np.ndarray, block: int = 1 << 16) -> np.ndarray:
    """Of rows `left` of a with rows `right` of b, in blocks: all pairs of a set's people are millions."""
    found = [np.einsum("nd,nd->n", a[left[start:start + block]], b[right[start:start + block]]) for start in range(0, len(left), block)]
    return np.concatenate(found or [np.empty(0)]).clip(-1, 1)


def _summary(cosines: np.ndarray) -> dict:
    counts, _ = np.histogram(cosines, BINS, (-1, 1))
    return {"mean": float(cosines.mean()), "std": float(cosines.std()), "counts": counts.tolist()}
