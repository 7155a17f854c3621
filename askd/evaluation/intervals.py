"""How sure a figure is: bootstrap over people (or over pairs where people are unknown), paired differences, and seeds.

Pairs that share a person are not independent, so people are resampled, with replacement: a pair between two people who
were drawn w_i and w_j times counts w_i * w_j times, a pair of one person w_i times (copies of one person never meet as
"genuine"). A figure is a function of such weights over fixed pairs. Scores are placed among the genuine ones once; a
resample then costs one weighted count.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Metric = Callable[[np.ndarray], float]  # weights (P,) -> the figure, NaN where these weights do not define it
Metrics = Callable[[np.ndarray], np.ndarray]  # weights (P,) -> several figures (F,) at once


@dataclass(frozen=True)
class Interval:
    """A figure with its interval at `level`.

    value: None where the pairs do not define it; low, high: None where too few resamples do. resamples: how many do.
    unit: what was resampled, "identity" or "pair"; "seed" for `mean_and_t_interval`.
    """

    value: float | None
    low: float | None
    high: float | None
    level: float
    unit: str
    resamples: int


@dataclass(frozen=True)
class Resamples:
    """Weights (P,) of the pairs, an array per resample; every iteration gives the same, so models can be compared."""

    unit: str
    pairs: int
    count: int
    draw: Callable[[], Iterator[np.ndarray]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.draw()


def resample_identities(left: np.ndarray, right: np.ndarray, same: np.ndarray, count: int = 1000,
                        seed: int = 0) -> Resamples:
    """Resamples of the people in P pairs.

    left, right: (P,) the person (not the image) on either side; same: (P,) bool, must agree with them, else ValueError.
    """
    left, right, same = np.asarray(left), np.asarray(right), np.asarray(same, bool)
    if not left.shape == right.shape == same.shape or left.ndim != 1 or len(left) == 0:
        raise ValueError("left, right and same must be (P,) with at least one pair, "
                         f"got {left.shape}, {right.shape}, {same.shape}")
    wrong = int(((left == right) != same).sum())
    if wrong:
        raise ValueError(f"same disagrees with the identities in {wrong} of {len(same)} pairs; "
                         "pass the people, not the images")
    people, index = np.unique(np.concatenate([left, right]), return_inverse=True)
    left, right = index[:len(left)].astype(np.intp), index[len(left):].astype(np.intp)

    def draw() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            drawn = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people)).astype(np.float64)
            weights = drawn[left]
            yield np.multiply(weights, drawn[right], out=weights, where=~same)

    return Resamples("identity", len(left), count, draw)


def resample_pairs(fold: np.ndarray, count: int = 1000, seed: int = 0) -> Resamples:
    """Resamples of the pairs within each fold, for sets whose people are unknown.

    fold: (P,), -1 throughout is one fold. Pairs are taken as independent, which they are not where images
    or people repeat: there these intervals are too narrow.
    """
    folds = [np.flatnonzero(fold == value) for value in np.unique(fold)]
    if not folds:
        raise ValueError("fold must hold at least one pair, got none")

    def draw() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            weights = np.empty(len(fold))
            for members in folds:
                weights[members] = np.bincount(rng.integers(len(members), size=len(members)), minlength=len(members))
            yield weights

    return Resamples("pair", len(fold), count, draw)


def resample_probes(identity: np.ndarray, count: int = 1000, seed: int = 0) -> Resamples:
    """Resamples of the people of P probes, against a gallery that stays as it is.

    identity: (P,), negative for a probe of nobody known, who then is a person of their own.
    """
    identity = np.asarray(identity)
    if identity.ndim != 1 or len(identity) == 0:
        raise ValueError(f"identity must be (P,) with at least one probe, got {identity.shape}")
    strangers = np.flatnonzero(identity < 0)
    person = np.unique(identity, return_inverse=True)[1]
    person[strangers] = len(identity) + np.arange(len(strangers))
    people, person = np.unique(person, return_inverse=True)

    def draw() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people)).astype(np.float64)[person]

    return Resamples("identity", len(identity), count, draw)


def thin_impostors(same: np.ndarray, limit: int = 300_000, seed: int = 0) -> np.ndarray:
    """Indices, rising, of all genuine pairs and of at most `limit` impostors drawn without replacement.

    Millions of impostor pairs among few people say little more than some hundred thousand: the people's spread rules.
    """
    impostors = np.flatnonzero(~np.asarray(same, bool))
    if len(impostors) > limit:
        impostors = np.random.default_rng(seed).choice(impostors, limit, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(same), impostors]))


def pair_metrics(scores: np.ndarray, same: np.ndarray, correct: np.ndarray | None, fars: Sequence[float]) -> Metrics:
    """AUC, accuracy, and TAR at each of F - 2 FARs, of weighted pairs, from one count of the weights; NaN where they define none.

    AUC: the chance that a genuine pair scores above an impostor, ties counting half. correct: as for `accuracy_metric`, or None: NaN.
    TAR: at the largest attained FAR not above the one asked for; NaN where impostors weigh under 1 / FAR.
    """
    place = _impostors_around_genuine(scores, same)
    accuracy = None if correct is None else accuracy_metric(correct)

    def figures(weights: np.ndarray) -> np.ndarray:
        genuine, below, equal, impostors = place(weights)
        whole, found = genuine.sum(), np.full(2 + len(fars), np.nan)
        if accuracy is not None:
            found[1] = accuracy(weights)
        if whole and impostors:
            found[0] = genuine @ (below + equal / 2) / (whole * impostors)
            above, accepted = impostors - below, np.append(0.0, np.cumsum(genuine[::-1]))  # of the impostors; of the best genuine pairs
            for number, far in enumerate(fars, 2):
                if impostors * far >= 1 - 1e-9:  # `above` falls with the level, so the allowed levels are the last ones
                    allowed = len(above) - np.searchsorted(-above, -far * impostors * (1 + 1e-12))
                    found[number] = accepted[allowed] / whole
        return found

    return figures


def accuracy_metric(correct: np.ndarray) -> Metric:
    """Accuracy of weighted pairs. correct: (P,) bool, decided rightly at the fold's threshold, which is held fixed."""
    correct = np.asarray(correct, np.float64)

    def accuracy(weights: np.ndarray) -> float:
        whole = weights.sum()
        return float(weights @ correct / whole) if whole else np.nan

    return accuracy


def bootstrap(metric: Metric, resamples: Resamples, level: float = 0.95) -> Interval:
    """Percentile interval of a figure. The metric's pairs must be those of the resamples, in the same order.

    low and high are None where fewer than half of the resamples define the figure.
    """
    drawn = [metric(weights) for weights in resamples]
    return _percentiles(metric(np.ones(resamples.pairs)), drawn, resamples.unit, level)


def draw(metrics: Metrics, resamples: Resamples) -> np.ndarray:
    """Several figures of every resample, (R, F); those of two models on the same resamples may be subtracted."""
    return np.array([metrics(weights) for weights in resamples])


def percentiles(value: float | None, drawn: np.ndarray, unit: str, level: float = 0.95) -> Interval:
    """Percentile interval of a figure from its values (R,) in every resample; NaN: not defined there. None as for `bootstrap`."""
    return _percentiles(np.nan if value is None else value, drawn, unit, level)


def mean_and_t_interval(values: np.ndarray | list[float], level: float = 0.95) -> Interval:
    """Mean of a figure over independent seeds with Student's t interval; of a single seed there is none (None)."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"values must be one finite figure per seed, got {values.tolist()}")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, None, None, level, "seed", 1)
    half = t_quantile((1 + level) / 2, len(values) - 1) * float(values.std(ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half, level, "seed", len(values))


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, probability in [0.5, 1), freedom >= 1 degrees (Abramowitz & Stegun 26.7.3-4)."""
    def inside(angle: float) -> float:  # P(|t| < tan(angle) * sqrt(freedom))
        odd, cosine = freedom % 2, np.cos(angle)
        term, total = (cosine, 0.0) if odd else (1.0, 0.0)
        for k in range(1 + odd, freedom, 2):
            total, term = total + term, term * cosine**2 * k / (k + 1)
        return float((angle + np.sin(angle) * total) * 2 / np.pi if odd else np.sin(angle) * total)

    low, high = 0.0, np.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < 2 * probability - 1 else (low, middle)
    return float(np.tan(low) * freedom**0.5)


def _percentiles(value: float, drawn: np.ndarray | list[float], unit: str, level: float) -> Interval:
    defined = np.asarray(drawn)[~np.isnan(drawn)]
    if np.isnan(value):
        return Interval(None, None, None, level, unit, 0)
    if 2 * len(defined) < len(drawn) or len(defined) < 2:
        return Interval(value, None, None, level, unit, len(defined))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, unit, len(defined))


def _impostors_around_genuine(scores: np.ndarray, same: np.ndarray) -> Callable[[np.ndarray], tuple]:
    """weights -> at each distinct genuine score the weight of genuine pairs, of impostors below, of impostors at it;
    and of all impostors."""
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(f"scores and same must be (P,) without NaN, got {scores.shape} and {same.shape}")
    levels = np.unique(scores[same])
    count = len(levels)
    under, upto = np.searchsorted(levels, scores, side="left"), np.searchsorted(levels, scores, side="right")
    # Impostors between levels stand at even places, those on a level at odd ones; the genuine pairs behind them all.
    place = np.where(same, 2 * count + 1 + under, under + upto)

    def weigh(weights: np.ndarray) -> tuple:
        at = np.bincount(place, weights, minlength=3 * count + 1)
        cumulative = np.cumsum(at[:2 * count + 1])
        return at[2 * count + 1:], cumulative[:-1:2], at[1:2 * count:2], cumulative[-1]

    return weigh
