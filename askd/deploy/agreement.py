"""Do two networks decide alike? Verification accuracy of both at the first one's thresholds, so that only the network makes the difference."""
from __future__ import annotations

import numpy as np

from askd.data.pairs import FOLDS, PairSet, stratify

STEPS = 20_000  # thresholds between -1 and 1


def accuracies(expected: np.ndarray, found: np.ndarray, pairs: PairSet) -> tuple[float, float] | tuple[None, None]:
    """Accuracy, a fraction, of two sets of embeddings (N, D) of the same images: the mean of genuine pairs accepted and impostors refused.

    By ten folds (fewer of fewer pairs), each at the threshold that is best for `expected` on the other nine, which holds for `found`, too: a threshold of its own
    would move by chance and the accuracy with it, by more than a faithful export's. Where the people are known every two of the images are
    compared, else the set's own pairs. None where there are fewer than two genuine or two impostor pairs.
    """
    if pairs.identity is None:
        left, right, same = pairs.left, pairs.right, pairs.same
    else:
        left, right = np.triu_indices(len(expected), 1)
        same = pairs.identity[left] == pairs.identity[right]
    folds = min(FOLDS, np.count_nonzero(same), np.count_nonzero(~same))
    if folds < 2:
        return None, None
    fold = stratify(same, folds).astype(np.int64)
    accepted = [_accepted(embeddings, left, right, same, fold) for embeddings in (expected, found)]  # (2, folds, STEPS + 1) each
    held = np.stack([np.bincount(fold[same == kind]) for kind in (True, False)])[:, :, None]
    other = _balanced(accepted[0].sum(1, keepdims=True) - accepted[0], held.sum(1, keepdims=True) - held)  # (folds, STEPS + 1)
    best = np.array([round(float(np.flatnonzero(row == row.max()).mean())) for row in other])  # the middle of equally good ones
    return tuple(float(_balanced(each, held)[np.arange(len(best)), best].mean()) for each in accepted)


def _accepted(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray, same: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Genuine and impostor pairs of each fold with a cosine at or above each of the thresholds, rising from -1: (2, folds, STEPS + 1)."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = (unit @ unit.T)[left, right] if len(left) > len(unit) else (unit[left] * unit[right]).sum(1)
    step = np.clip((cosine + 1) * (STEPS / 2), 0, STEPS).astype(np.int64)
    folds = int(fold.max()) + 1
    place = ((~same) * folds + fold) * (STEPS + 1) + step
    at = np.bincount(place, minlength=2 * folds * (STEPS + 1)).reshape(2, folds, STEPS + 1)
    return at[:, :, ::-1].cumsum(2)[:, :, ::-1]


def _balanced(accepted: np.ndarray, of: np.ndarray) -> np.ndarray:
    genuine, impostors = accepted / of
    return (genuine + 1 - impostors) / 2
