"""The ROC of any scores, higher being more similar, and the figures read from it."""
from __future__ import annotations

import numpy as np

FAR_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


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


def figures(scores: np.ndarray, same: np.ndarray) -> tuple[float | None, float | None, dict[float, float | None]]:
    """(AUC, EER, {FAR: TAR}) of scores (P,) with same (P,) bool; all None where there is one class only."""
    genuine = int(np.count_nonzero(same))
    impostors = len(same) - genuine
    if not genuine or not impostors:
        return None, None, dict.fromkeys(FAR_TARGETS)
    far, tar, _ = roc(scores, same)
    return area(far, tar), equal_error_rate(far, tar), tar_at_far(far, tar, impostors)


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


