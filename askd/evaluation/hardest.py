"""The hardest errors of a verification: impostors that were accepted and genuine pairs that were rejected, worst first."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from askd.evaluation.roc import roc
from askd.evaluation.verification import Verification


@dataclass(frozen=True)
class Errors:
    """accepts, rejects: int64, places of false accepts (highest score first) and of false rejects (lowest first) among the P pairs.

    all_accepts, all_rejects: how many there are; threshold (P,): the cosine each pair was judged at; said: that threshold in words.
    """

    accepts: np.ndarray
    rejects: np.ndarray
    all_accepts: int
    all_rejects: int
    threshold: np.ndarray
    said: str


def hardest_errors(result: Verification, same: np.ndarray, fold: np.ndarray, left: np.ndarray, right: np.ndarray, most: int = 6) -> Errors:
    """At most `most` of either kind; no image is shown twice among those of a kind, so that one odd photograph leaves room for others.

    same, fold, left, right: (P,) as `verification.score_pairs` took them. Decisions are the protocol's own, each pair at the threshold
    of its fold; without folds, at the threshold where FAR and FRR are closest. Equal scores: the earlier pair first.
    Raises ValueError for pairs of one class, which have no errors of both kinds to show.
    """
    same, fold = np.asarray(same, bool), np.asarray(fold)
    if same.all() or not same.any():
        raise ValueError(f"hardest errors need genuine and impostor pairs, got {same.sum()} genuine of {len(same)}")
    if result.correct is None:
        far, tar, thresholds = roc(result.scores, same)
        at = thresholds[np.argmin(np.abs(far - (1 - tar)))]
        threshold, accepted = np.full(len(same), at), result.scores >= at
        said = f"the threshold of equal error, cosine {at:.3f}"
    else:
        of_folds = np.array(result.thresholds)
        if result.protocol == "insightface":
            of_folds = 1 - of_folds / 2  # |a - b|^2 = 2 - 2 cos
        threshold = of_folds[np.unique(fold, return_inverse=True)[1]]
        accepted = result.correct == same
        low, high = of_folds.min(), of_folds.max()
        said = f"its fold's threshold (protocol {result.protocol}), cosine " + (f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}")
    accepts, rejects = np.flatnonzero(accepted & ~same), np.flatnonzero(~accepted & same)
    return Errors(
        _apart(accepts[np.argsort(-result.scores[accepts], kind="stable")], left, right, most),
        _apart(rejects[np.argsort(result.scores[rejects], kind="stable")], left, right, most),
        len(accepts), len(rejects), threshold, said,
    )


def _apart(pairs: np.ndarray, left: np.ndarray, right: np.ndarray, most: int) -> np.ndarray:
    """The first `most` of the pairs whose images have not come before."""
    chosen, shown = [], set()
    for pair in pairs.tolist():
        images = {int(left[pair]), int(right[pair])}
        if not images & shown:
            chosen.append(pair)
            shown |= images
        if len(chosen) == most:
            break
    return np.array(chosen, np.int64)
