"""Are two faces the same person? Pairs scored under three protocols: the field's two, and one without a grid.

The field's protocols choose a threshold on a grid for every fold. The grid is counted, not walked: every score falls
between two neighbouring thresholds, and cumulative counts of these places give the accuracy at all of them at once.
`exact` does the same on the training folds' own scores.

Precision. Everything is float64, whatever the embeddings were. The cosines come from a few matrix products, so they
differ from the formula written down by some 1e-15; those that close to a threshold are computed again by the formula,
and with `exact`, where each is close to some threshold, all of them are.
Hence thresholds and fold accuracies equal the naive float64 transcription to the last bit, and scores to about 1e-13
(fewer digits where the embeddings differ little from their mean).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from askd.errors import DataError
from askd.evaluation.cosine import BLOCK, Rows, blocks, pair_dots, squared_norms, unit
from askd.evaluation.roc import figures

INSIGHTFACE_GRID = np.arange(0, 4, 0.01)  # squared L2 distances
ASKD_GRID = np.arange(-10000, 10001) / 10000  # cosines
ROUNDING = 1e-11  # far above what two orders of summation differ by, far below a grid step
COLLAPSED = 1e-6  # of the largest norm: float32 embeddings no further than this from their mean are rounding noise

Scored = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # scores (P,), correct (P,) if there are folds, thresholds


@dataclass(frozen=True)
class Verification:
    """Figures of one model on one set of pairs. A figure that the pairs cannot give is None, and `note` says why.

    accuracy, accuracy_std: mean and population standard deviation over the folds, fractions in [0, 1].
    fold_accuracies, thresholds: one per fold, in fold order (`insightface`: squared distances, else cosines), or ().
    scores: (P,) float64 cosines, higher is more similar; with `askd` centred by the mean of the other folds.
    correct: (P,) bool, decided rightly at the threshold of the pair's own fold.
    auc, eer: fractions; tar_at_far: {FAR: TAR}, see `tar_at_far`.
    """

    protocol: str
    accuracy: float | None
    accuracy_std: float | None
    fold_accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    scores: np.ndarray
    correct: np.ndarray | None
    auc: float | None
    eer: float | None
    tar_at_far: dict[float, float | None]
    pairs: int
    genuine: int
    impostors: int
    note: str = ""


def score_pairs(plain: np.ndarray, flipped: np.ndarray, left: np.ndarray, right: np.ndarray, same: np.ndarray,
                fold: np.ndarray, protocol: str) -> Verification:
    """Verification accuracy and ROC figures of P pairs among N images.

    plain, flipped: (N, D) embeddings of the images and of their mirror images, not normalised.
    left, right: (P,) indices of images; same: (P,) bool; fold: (P,) int >= 0, or -1 throughout for a set without folds.
    protocol `insightface`: cosine of e(x) + e(flip x), accepted where the squared L2 distance of the unit vectors is
    below the threshold; first best threshold of the other folds on 0, 0.01 .. 3.99 (InsightFace's verification).
    protocol `askd`: concatenated e(x), e(flip x), minus the mean over both sides of the other folds' pairs, cosine;
    mean of all best thresholds on -1, -0.9999 .. 1, a score on it is wrong for either class (A-SKD's released code).
    Without folds the mean is that of all pairs, which uses no labels, and accuracy is None.
    protocol `exact`: the cosine of `insightface`, accepted from the threshold on; the threshold is the one among the
    other folds' own scores that decides most of their pairs rightly, the highest such.
    Raises DataError for embeddings that are not finite or have no direction, ValueError for arrays that do not fit.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    plain, flipped, left, right, same, fold = _fitting(plain, flipped, left, right, same, fold)
    folds = np.unique(fold[fold >= 0], return_inverse=True)[1] if (fold >= 0).all() else None
    scores, correct, thresholds = PROTOCOLS[protocol](plain, flipped, left, right, same, folds)

    genuine = int(same.sum())
    impostors = len(same) - genuine
    note = _why_no_accuracy(same, folds)
    auc, equal, tars = figures(scores, same)
    if note:
        correct, by_fold, thresholds = None, np.empty(0), np.empty(0)
    else:
        by_fold = np.bincount(folds[correct], minlength=len(thresholds)) / np.bincount(folds)
    return Verification(
        protocol=protocol, accuracy=None if note else float(by_fold.mean()),
        accuracy_std=None if note else float(by_fold.std()), fold_accuracies=tuple(by_fold.tolist()),
        thresholds=tuple(thresholds.tolist()), scores=scores, correct=correct, auc=auc, eer=equal, tar_at_far=tars,
        pairs=len(same), genuine=genuine, impostors=impostors, note=note)


def _fitting(plain, flipped, left, right, same, fold) -> tuple[np.ndarray, ...]:
    plain, flipped = np.asarray(plain), np.asarray(flipped)
    left, right = np.asarray(left), np.asarray(right)
    same, fold = np.asarray(same).astype(bool), np.asarray(fold).astype(np.int64)
    if plain.ndim != 2 or plain.shape != flipped.shape:
        raise ValueError(f"plain and flipped embeddings must both be (N, D), got {plain.shape} and {flipped.shape}")
    if len(left) == 0 or not left.shape == right.shape == same.shape == fold.shape == (len(left),):
        raise ValueError("left, right, same and fold must be (P,) with at least one pair, "
                         f"got {left.shape}, {right.shape}, {same.shape}, {fold.shape}")
    if min(left.min(), right.min()) < 0 or max(left.max(), right.max()) >= len(plain):
        raise ValueError(f"left and right must index {len(plain)} images, got {min(left.min(), right.min())} "
                         f"to {max(left.max(), right.max())}")
    if (fold < 0).any() and not (fold == -1).all():
        raise ValueError("fold must be >= 0 for every pair, or -1 for every pair of a set without folds; got a mixture")
    return plain, flipped, left, right, same, fold


def _why_no_accuracy(same: np.ndarray, folds: np.ndarray | None) -> str:
    if same.all() or not same.any():
        return f"all {len(same)} pairs are {'genuine' if same.all() else 'impostors'}: no accuracy, no ROC"
    if folds is None:
        return "no folds: no accuracy"
    size, genuine = np.bincount(folds), np.bincount(folds[same], minlength=folds.max() + 1)
    if len(size) < 2:
        return "a single fold: no others to choose a threshold on, no accuracy"
    single = np.flatnonzero((genuine == 0) | (genuine == size))
    if len(single):
        return f"{len(single)} of {len(size)} folds hold one class only: no accuracy; stratify the folds"
    return ""


def _insightface(plain, flipped, left, right, same, folds) -> Scored:
    def embedding(images) -> np.ndarray:
        return np.add(plain[images], flipped[images], dtype=np.float64)

    norm = np.sqrt(squared_norms(embedding, len(plain)))
    scores = pair_dots(embedding, left, right) / (norm[left] * norm[right])
    if folds is None:
        return scores, None, np.empty(0)
    distance = 2 - 2 * scores
    doubtful = np.flatnonzero(np.abs(distance * 100 - np.rint(distance * 100)) < 100 * ROUNDING)
    if len(doubtful):
        ours, theirs = unit(embedding(left[doubtful])), unit(embedding(right[doubtful]))
        distance[doubtful] = np.sum(np.square(ours - theirs), 1)
    correct = insightface_correct(distance, same, folds)
    thresholds = INSIGHTFACE_GRID[np.argmax(correct.sum(0) - correct, axis=1)]
    return scores, (distance < thresholds[folds]) == same, thresholds


def insightface_correct(distance: np.ndarray, same: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Pairs of each fold decided rightly at every threshold of the grid (distance < threshold: same), (folds, 400)."""
    width, rows = len(INSIGHTFACE_GRID) + 1, int(folds.max()) + 1
    first_to_accept = np.searchsorted(INSIGHTFACE_GRID, distance, side="right")
    place = folds * width + first_to_accept

    def accepted(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(place[chosen], minlength=rows * width).reshape(rows, width).cumsum(1)[:, :-1]

    return accepted(same) + np.bincount(folds[~same], minlength=rows)[:, None] - accepted(~same)


def _exact(plain, flipped, left, right, same, folds) -> Scored:
    if folds is None:
        return _insightface(plain, flipped, left, right, same, None)

    def embedding(images) -> np.ndarray:
        return np.add(plain[images], flipped[images], dtype=np.float64)

    squared_norms(embedding, len(plain))
    scores = np.concatenate([
        np.sum(unit(embedding(left[part])) * unit(embedding(right[part])), 1) for part in blocks(len(left))
    ])
    others = [folds != k for k in range(int(folds.max()) + 1)]
    thresholds = np.array([exact_threshold(scores[train], same[train]) if train.any() else np.nan for train in others])
    return scores, (scores >= thresholds[folds]) == same, thresholds


def exact_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The highest of the scores that, taken as threshold, decide most pairs rightly (genuine: score >= threshold)."""
    levels = np.unique(scores)
    missed = np.searchsorted(np.sort(scores[same]), levels, side="left")
    refused = np.searchsorted(np.sort(scores[~same]), levels, side="left")
    correct = refused - missed
    return float(levels[np.flatnonzero(correct == correct.max())[-1]])


def _askd(plain, flipped, left, right, same, folds) -> Scored:
    def feature(images) -> np.ndarray:
        return np.concatenate([plain[images], flipped[images]], axis=1, dtype=np.float64)

    size = np.sqrt(squared_norms(feature, len(plain)).max())
    near_the_mean = feature(slice(0, BLOCK)).mean(0)

    def centred(images) -> np.ndarray:
        # Once some common mean is gone the folds' means are small, and the expanded squares below lose no digits.
        rows = feature(images)
        rows -= near_the_mean
        return rows

    groups = np.zeros(len(left), np.int64) if folds is None else folds
    means = _means_of_other_folds(centred, left, right, groups, len(plain))
    squares, along = np.empty(len(plain)), np.empty((len(plain), len(means)))
    for block in blocks(len(plain)):
        rows = centred(block)
        squares[block], along[block] = np.einsum("nd,nd->n", rows, rows), rows @ means.T
    dots = pair_dots(centred, left, right)
    scores, correct, thresholds = np.empty(len(left)), np.zeros(len(left), bool), np.empty(len(means))
    for k, mean in enumerate(means):
        norm = np.sqrt(np.maximum(squares - 2 * along[:, k] + mean @ mean, 0))
        smaller = np.minimum(norm[left], norm[right])
        if smaller.min() <= COLLAPSED * size:
            lost = int((smaller <= COLLAPSED * size).sum())
            raise DataError(f"in {lost} of {len(left)} pairs an embedding equals the mean, so protocol askd gives it "
                            "no direction; has the model collapsed to one point?")
        own, others = groups == k, groups != k
        cosine = (dots - along[left, k] - along[right, k] + mean @ mean) / (norm[left] * norm[right])
        if len(means) > 1:
            slack = ROUNDING * size / smaller + 1e-14 * (size / smaller) ** 2  # of the mean, of the expanded squares
            _settle(cosine, np.rint(cosine * 10000) / 10000, slack, feature, left, right, others)
            thresholds[k] = askd_threshold(cosine[others], same[others])
            _settle(cosine, thresholds[k], slack, feature, left, right, others)
            correct[own] = np.where(same, cosine > thresholds[k], cosine < thresholds[k])[own]
        scores[own] = cosine[own]
    return scores, correct, thresholds


def askd_threshold(cosine: np.ndarray, same: np.ndarray) -> float:
    """Mean of all thresholds on the grid with the most genuine scores strictly above plus impostors strictly below."""
    below = np.searchsorted(ASKD_GRID, cosine[same], side="left")  # thresholds under a genuine score accept it
    above = np.searchsorted(ASKD_GRID, cosine[~same], side="right")  # the first threshold over an impostor score
    width = len(ASKD_GRID) + 1
    correct = len(below) - np.bincount(below, minlength=width).cumsum() + np.bincount(above, minlength=width).cumsum()
    return float(np.mean(ASKD_GRID[correct[:-1] == correct[:-1].max()]))


def _means_of_other_folds(rows: Rows, left, right, groups, images: int) -> np.ndarray:
    """(folds, K) mean of the rows of both sides of all pairs outside each fold; of all pairs if there is one fold."""
    folds = int(groups.max()) + 1
    seen = sum(np.bincount(groups * images + side, minlength=folds * images) for side in (left, right))
    seen = seen.reshape(folds, images)
    outside = (seen.sum(0) - seen if folds > 1 else seen).astype(np.float64)
    return sum(outside[:, block] @ rows(block) for block in blocks(images)) / outside.sum(1, keepdims=True)


def _settle(cosine, threshold, slack, feature: Rows, left, right, others) -> None:
    """Recomputes, by the protocol's own formula, the cosines that rounding may put on the wrong side of a threshold."""
    doubtful = np.flatnonzero(np.abs(cosine - threshold) < slack)
    if len(doubtful):
        mean = np.mean(np.concatenate([feature(left[others]), feature(right[others])]), 0)
        ours, theirs = unit(feature(left[doubtful]) - mean), unit(feature(right[doubtful]) - mean)
        cosine[doubtful] = np.sum(ours * theirs, 1)


PROTOCOLS: dict[str, Callable[..., Scored]] = {"insightface": _insightface, "askd": _askd, "exact": _exact}
