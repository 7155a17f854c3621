"""Did one model decide more of the same cases rightly than another? McNemar's exact test, and Holm's correction for asking often."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class McNemar:
    """Cases that only the first, and only the second model decides rightly; p: two-sided, of a coin that falls so unevenly or more.

    Cases count as independent, which pairs that share people are not: p is then too small, and an interval over people decides.
    """

    first_only: int
    second_only: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """The exact binomial test (McNemar 1947) of two bool arrays (P,): each model's right decisions on the same P cases."""
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"two models must have decided the same cases, got {first.shape} and {second.shape} decisions")
    mine, other = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(mine, other, binomial_two_sided(min(mine, other), mine + other))


def binomial_two_sided(fewer: int, tosses: int) -> float:
    """Probability that a fair coin shows one side at most `fewer` times in `tosses`, whichever the side."""
    term = total = 1
    for k in range(1, fewer + 1):
        term = term * (tosses - k + 1) // k
        total += term
    return min(1.0, float(Fraction(2 * total, 2**tosses)))  # exact integers: no float holds 2^1100


def holm(p: Sequence[float]) -> list[float]:
    """p values so adjusted that the chance of any false alarm among them stays below each (Holm 1979)."""
    order, adjusted, highest = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = highest
    return adjusted
