"""Are two faces the same person? Pairs scored under the field's two protocols, and the ROC figures of any scores.

Both protocols choose a threshold on a grid for every fold. The grid is counted, not walked: every score falls between
two neighbouring thresholds, and cumulative counts of these places give the accuracy at all thresholds at once.

Precision. Everything is float64, whatever the embeddings were. The cosines come from a few matrix products, so they
differ from the formula written down by some 1e-15; those that close to a threshold are computed again by the formula.
Hence thresholds and fold accuracies equal the naive float64 transcription to the last bit, and scores to about 1e-13
(fewer digits where the embeddings differ little from their mean).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from askd.errors import DataError

FAR_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
INSIGHTFACE_GRID = np.arange(0, 4, 0.01)  # squared L2 distances
ASKD_GRID = np.arange(-10000, 10001) / 10000  # cosines
ROUNDING = 1e-11  # far above what two orders of summation differ by, far below a grid step
COLLAPSED = 1e-6  # of the largest norm: float32 embeddings no further than this from their mean are rounding noise
BLOCK = 256  # images whose float64 rows stay in the cache

Scored = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # scores (P,), correct (P,) if there are folds, thresholds
Rows = Callable[[np.ndarray | slice], np.ndarray]  # images -> their float64 rows


@dataclass(frozen=True)
class Verification:
    """Figures of one model on one set of pairs. A figure that the pairs cannot give is None, and `note` says why.

    accuracy, accuracy_std: mean and population standard deviation over the folds, fractions in [0, 1].
    fold_accuracies, thresholds: one per fold, in fold order (`insightface`: squared distances, `askd`: cosines), or ().
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
    auc = equal = None
    tars: dict[float, float | None] = dict.fromkeys(FAR_TARGETS)
    if genuine and impostors:
        far, tar, _ = roc(scores, same)
        auc, equal, tars = area(far, tar), equal_error_rate(far, tar), tar_at_far(far, tar, impostors)
    if note:
        correct, by_fold, thresholds = None, np.empty(0), np.empty(0)
    else:
        by_fold = np.bincount(folds[correct], minlength=len(thresholds)) / np.bincount(folds)
    return Verification(
        protocol=protocol, accuracy=None if note else float(by_fold.mean()),
        accuracy_std=None if note else float(by_fold.std()), fold_accuracies=tuple(by_fold.tolist()),
        thresholds=tuple(thresholds.tolist()), scores=scores, correct=correct, auc=auc, eer=equal, tar_at_far=tars,
        pairs=len(same), genuine=genuine, impostors=impostors, note=note)


def roc(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every point of the ROC: (far, tar, thresholds), all float64, from (0, 0) at threshold inf up to (1, 1).

    scores: (P,), higher is more similar; same: (P,) bool; accepted where score >= threshold; equal scores: one point.
    Equals scikit-learn's roc_curve(same, scores, drop_intermediate=False). Raises ValueError for NaN or a single class.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN; a ROC needs numbers")
    if same.all() or not same.any():
        raise ValueError(f"a ROC needs genuine and impostor pairs, got {same.sum()} genuine of {len(same)}")
    rising = np.sort(scores)  # of values, several times faster than an argsort
    thresholds_at = np.flatnonzero(np.append(True, rising[1:] != rising[:-1]))[::-1]  # where each distinct score begins
    genuine_at = np.bincount(np.searchsorted(rising, np.sort(scores[same])), minlength=len(rising))
    accepted_genuine = np.cumsum(genuine_at[thresholds_at])
    accepted_impostors = len(rising) - thresholds_at - accepted_genuine
    far = np.append(0.0, accepted_impostors / accepted_impostors[-1])
    tar = np.append(0.0, accepted_genuine / accepted_genuine[-1])
    return far, tar, np.append(np.inf, rising[thresholds_at])


def area(far: np.ndarray, tar: np.ndarray) -> float:
    """Area under a ROC given from (0, 0) to (1, 1), by trapezoids (ties count half)."""
    return float(np.trapezoid(tar, far))


def equal_error_rate(far: np.ndarray, tar: np.ndarray) -> float:
    """The error where FAR = FRR on the ROC's straight segments."""
    excess = far - (1 - tar)  # rises from -1 to 1
    after = int(np.argmax(excess >= 0))
    before = after - 1
    way = -excess[before] / (excess[after] - excess[before])
    return float(far[before] + way * (far[after] - far[before]))


def tar_at_far(far: np.ndarray, tar: np.ndarray, impostors: int,
               targets: tuple[float, ...] = FAR_TARGETS) -> dict[float, float | None]:
    """TAR at the largest attained FAR not above each target: no interpolation, so the operating point exists.

    None where there are fewer than 1 / target impostors: such a FAR is met only by accepting none: not measured.
    """
    at = {target: float(tar[np.searchsorted(far, target, side="right") - 1]) for target in targets}
    return {target: value if impostors * target > 1 - 1e-9 else None for target, value in at.items()}


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

    norm = np.sqrt(_squared_norms(embedding, len(plain)))
    scores = _dots(embedding, left, right, len(plain)) / (norm[left] * norm[right])
    if folds is None:
        return scores, None, np.empty(0)
    distance = 2 - 2 * scores
    doubtful = np.flatnonzero(np.abs(distance * 100 - np.rint(distance * 100)) < 100 * ROUNDING)
    if len(doubtful):
        ours, theirs = _unit(embedding(left[doubtful])), _unit(embedding(right[doubtful]))
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


def _askd(plain, flipped, left, right, same, folds) -> Scored:
    def feature(images) -> np.ndarray:
        return np.concatenate([plain[images], flipped[images]], axis=1, dtype=np.float64)

    size = np.sqrt(_squared_norms(feature, len(plain)).max())
    near_the_mean = feature(slice(0, BLOCK)).mean(0)

    def centred(images) -> np.ndarray:
        # Once some common mean is gone the folds' means are small, and the expanded squares below lose no digits.
        rows = feature(images)
        rows -= near_the_mean
        return rows

    groups = np.zeros(len(left), np.int64) if folds is None else folds
    means = _means_of_other_folds(centred, left, right, groups, len(plain))
    squares, along = np.empty(len(plain)), np.empty((len(plain), len(means)))
    for block in _blocks(len(plain)):
        rows = centred(block)
        squares[block], along[block] = np.einsum("nd,nd->n", rows, rows), rows @ means.T
    dots = _dots(centred, left, right, len(plain))
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
    return sum(outside[:, block] @ rows(block) for block in _blocks(images)) / outside.sum(1, keepdims=True)


def _settle(cosine, threshold, slack, feature: Rows, left, right, others) -> None:
    """Recomputes, by the protocol's own formula, the cosines that rounding may put on the wrong side of a threshold."""
    doubtful = np.flatnonzero(np.abs(cosine - threshold) < slack)
    if len(doubtful):
        mean = np.mean(np.concatenate([feature(left[others]), feature(right[others])]), 0)
        ours, theirs = _unit(feature(left[doubtful]) - mean), _unit(feature(right[doubtful]) - mean)
        cosine[doubtful] = np.sum(ours * theirs, 1)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt(np.sum(rows * rows, 1, keepdims=True))


def _blocks(images: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, images)) for start in range(0, images, BLOCK)]


def _squared_norms(rows: Rows, images: int) -> np.ndarray:
    squares = np.concatenate([np.einsum("nd,nd->n", part, part) for part in map(rows, _blocks(images))])
    bad = ~np.isfinite(squares) | (squares == 0)
    if bad.any():
        first = int(np.argmax(bad))
        what = "zero" if squares[first] == 0 else "not finite"
        raise DataError(f"{bad.sum()} of {images} embeddings are {what} (first: image {first}); "
                        "check the model's weights and its input")
    return squares


def _dots(rows: Rows, left: np.ndarray, right: np.ndarray, images: int) -> np.ndarray:
    """Scalar products of the pairs; where these are a fair part of all possible ones, from blocks of their Gram."""
    dots = np.empty(len(left))
    if 16 * len(left) < images ** 2:
        for part in _blocks(len(left)):
            dots[part] = np.einsum("pd,pd->p", rows(left[part]), rows(right[part]))
        return dots
    blocks = _blocks(images)
    tile = left // BLOCK * len(blocks) + right // BLOCK
    order = np.argsort(tile, kind="stable")
    edges = np.searchsorted(tile[order], np.arange(len(blocks) ** 2 + 1))
    for index in np.flatnonzero(np.diff(edges)):
        part = order[edges[index]:edges[index + 1]]
        gram = rows(blocks[index // len(blocks)]) @ rows(blocks[index % len(blocks)]).T
        dots[part] = gram[left[part] % BLOCK, right[part] % BLOCK]
    return dots


PROTOCOLS: dict[str, Callable[..., Scored]] = {"insightface": _insightface, "askd": _askd}
