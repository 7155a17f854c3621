"""Who is this? Probes searched for in a gallery: closed-set rank-k and CMC, open-set TPIR at FPIR.

Definitions (NISTIR 8271, whose FNIR is 1 - TPIR; IJB-C's paper, ICB 2018, uses the same):
- A candidate is a gallery identity with the best score of its images; each distractor (NOBODY) is a candidate by itself.
- A probe has a mate if an image of its identity is in the gallery; a probe of NOBODY has none.
- rank: 1 + the other candidates that score at least what the mate scores. Ties count against the probe.
- rank-k: share of the mated probes with rank <= k; the CMC is rank-k for all k. Probes without mate do not enter.
- FPIR at a threshold: share of the probes without mate that have a candidate at or above it.
- TPIR at FPIR f: share of the mated probes with rank <= R and score at or above the lowest threshold whose FPIR is
  not above f. R = 1 is also called DIR; QMUL-SurvFace publishes R = 20. Fewer than 1/f such probes: not measured.

Scores are cosines of `unit_grid` vectors, which are exact: blocks and their order change no rank.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from askd.data.gallery import NOBODY
from askd.errors import DataError
from askd.evaluation.cosine import blocks, squared_norms, unit_grid
from askd.evaluation.intervals import Metric

RANKS = (1, 5, 10, 20)
FPIR_TARGETS = (0.01, 0.1)
TPIR_RANKS = (1, 20)
TILE = 2048  # probes x gallery images whose scores are held at a time


@dataclass(frozen=True)
class Search:
    """What P probes found in one gallery.

    rank int64 (P,), 0 for a probe without mate; score float64 (P,), the mate's, or the best candidate's where there is
    no mate; candidates: gallery identities and distractors; gallery: images.
    """

    rank: np.ndarray
    score: np.ndarray
    candidates: int
    gallery: int

    @property
    def mated(self) -> np.ndarray:
        """bool (P,)"""
        return self.rank > 0


def search(embeddings: np.ndarray, probe: np.ndarray, gallery: np.ndarray, identity: np.ndarray, tile: int = TILE,
           enrolled: np.ndarray | None = None) -> Search:
    """Search every probe in the gallery.

    embeddings (N, D), of any length; probe (P,) and gallery (G,) index them; identity (N,), NOBODY for a distractor.
    enrolled (N, D): what the gallery is taken from instead, the same images at another size, say. Arrays may be mapped from disk.
    Memory beyond the arguments: `tile` x max(D, tile) numbers, a few times.
    Raises DataError for an empty side, and for embeddings that are zero or not finite; ValueError for arrays that do not fit.
    """
    embeddings, probe, gallery, identity = map(np.asarray, (embeddings, probe, gallery, identity))
    enrolled = embeddings if enrolled is None else np.asarray(enrolled)
    if embeddings.ndim != 2 or identity.shape != (len(embeddings),) or enrolled.shape != embeddings.shape:
        raise ValueError("expected embeddings (N, D), enrolled ones alike and an identity for each, "
                         f"got {embeddings.shape}, {enrolled.shape} and {identity.shape}")
    for name, side in (("probe", probe), ("gallery", gallery)):
        if side.ndim != 1 or not len(side):
            raise DataError(f"the {name} side of an identification set is empty; check its lists")
        if side.min() < 0 or side.max() >= len(embeddings):
            raise ValueError(f"{name} must index {len(embeddings)} images, got {side.min()} to {side.max()}")
    for rows in [embeddings] if enrolled is embeddings else [embeddings, enrolled]:
        squared_norms(lambda images: rows[images].astype(np.float64), len(rows))

    gallery = gallery[np.argsort(identity[gallery], kind="stable")]
    owner = identity[gallery]
    starts = np.append(True, (owner[1:] != owner[:-1]) | (owner[1:] == NOBODY))
    mated = np.isin(identity[probe], owner[owner != NOBODY])
    score, rank = np.full(len(probe), -np.inf), np.zeros(len(probe), np.int64)
    for ours in blocks(len(probe), tile):
        seen, has_mate = unit_grid(embeddings[probe[ours]]), mated[ours]
        score[ours] = _mates(enrolled, seen, identity[probe[ours]], gallery, owner)
        ahead, beaten = rank[ours], np.zeros(len(seen), bool)  # `ahead` is a view: what is added is the result
        for theirs in blocks(len(gallery), tile):
            found = seen @ unit_grid(enrolled[gallery[theirs]]).T
            np.copyto(score[ours], np.maximum(score[ours], found.max(1)), where=~has_mate)
            # A candidate counts once, however many of its images score so high, even where a block ends amid them.
            goes_on = not starts[theirs.start]
            reaches = np.logical_or.reduceat(found >= score[ours, None], np.flatnonzero(np.append(True, starts[theirs][1:])), axis=1)
            if goes_on:
                reaches[:, 0] |= beaten
            ahead += has_mate * (reaches.sum(1) - (beaten if goes_on else 0))
            beaten = reaches[:, -1]
    return Search(rank, score, int(starts.sum()), len(gallery))


def cmc(searches: list[Search]) -> np.ndarray:
    """Rank-k for k = 1, 2 .. (candidates,), mean over the galleries; empty where no probe has a mate."""
    length = min(one.candidates for one in searches)
    if not all(one.mated.any() for one in searches):
        return np.empty(0)
    found = [np.cumsum(np.bincount(one.rank[one.mated] - 1, minlength=length)[:length]) / one.mated.sum() for one in searches]
    return np.mean(found, axis=0)


def metrics(searches: list[Search]) -> dict[str, Metric]:
    """Figure -> function of the probes' weights (all one: the figure itself), mean over the galleries.

    NaN: rank-k of a gallery with no more than k candidates, which cannot fail; no mated probe; fewer than 1/f without mate.
    """
    each = {f"rank-{k}": [rank_metric(one, k) for one in searches] for k in RANKS}
    each |= {
        f"TPIR{'' if rank == 1 else rank} @ FPIR {fpir:g}": [tpir_metric(one, fpir, rank) for one in searches]
        for rank in TPIR_RANKS for fpir in FPIR_TARGETS
    }
    return {name: _mean_of(several) for name, several in each.items()}


def rank_metric(found: Search, k: int) -> Metric:
    """Rank-k of weighted probes."""
    mated, hit = found.mated, (found.rank > 0) & (found.rank <= k)

    def rank_k(weights: np.ndarray) -> float:
        whole = weights[mated].sum()
        return float(weights[hit].sum() / whole) if whole and k < found.candidates else np.nan

    return rank_k


def tpir_metric(found: Search, fpir: float, rank: int = 1) -> Metric:
    """TPIR of weighted probes at an FPIR not above `fpir`, with the mate among the first `rank` candidates."""
    mated = found.mated
    false = np.flatnonzero(~mated)
    false = false[np.argsort(-found.score[false], kind="stable")]
    hit = np.flatnonzero(mated & (found.rank <= rank))
    at_or_above = np.searchsorted(-found.score[false], -found.score[hit], side="right")  # of the probes without mate

    def tpir(weights: np.ndarray) -> float:
        whole, alarms = weights[mated].sum(), np.append(0.0, np.cumsum(weights[false]))
        if not whole or alarms[-1] * fpir < 1 - 1e-9:
            return np.nan
        return float(weights[hit][alarms[at_or_above] <= fpir * alarms[-1] * (1 + 1e-12)].sum() / whole)

    return tpir


def _mean_of(several: list[Metric]) -> Metric:
    return lambda weights: float(np.mean([one(weights) for one in several]))


def _mates(enrolled, seen, identity, gallery, owner) -> np.ndarray:
    """Best score among the gallery images of each probe's own identity, -inf where there are none."""
    best = np.full(len(seen), -np.inf)
    first, after = np.searchsorted(owner, identity, "left"), np.searchsorted(owner, identity, "right")
    after = np.where(identity == NOBODY, first, after)
    for nth in range(int((after - first).max())):
        has = np.flatnonzero(first + nth < after)
        mate = unit_grid(enrolled[gallery[first[has] + nth]])
        best[has] = np.maximum(best[has], np.einsum("nd,nd->n", seen[has], mate))
    return best
