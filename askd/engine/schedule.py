"""Learning-rate schedules in optimiser steps: one factor per step, for each parameter group's own base rate."""
from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from askd.errors import RecipeError


def make_schedule(
    kind: str,
    *,
    steps: int,
    warmup: int = 0,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    power: float = 2.0,
    floor: float = 0.0,
) -> Callable[[int], float]:
    """The learning-rate factor in [0, 1] as a function of the step (0-based).

    kind: `constant`; `multistep`, times `gamma` at each milestone; `polynomial`, (1 - t)^power; `cosine`,
    (1 + cos(pi t)) / 2; t runs from 0 at the end of the warm-up to 1 at `steps` and stays there.
    steps, warmup, milestones: optimiser steps, milestones from step 0; the warm-up is (step + 1) / warmup, never 0.
    floor: polynomial and cosine end there (their range is squeezed into [floor, 1]); multistep never falls below it.
    Raises RecipeError on an unknown kind or on numbers that make no schedule. With warmup=0 and floor=0 these are
    torch's MultiStepLR, PolynomialLR and CosineAnnealingLR; arcface_torch's polynomial has power=2.
    """
    if not 0 <= warmup < max(steps, 1):
        raise RecipeError(f"schedule warm-up must be shorter than the run of {steps} steps, got {warmup}")
    if kind == "multistep" and (
        not milestones or list(milestones) != sorted(set(milestones)) or milestones[0] < max(warmup, 1)
    ):
        raise RecipeError(
            f"schedule multistep needs milestones in steps that ascend, after the warm-up of {warmup}; "
            f"got {list(milestones)}"
        )
    if not 0.0 <= floor <= 1.0:
        raise RecipeError(f"schedule floor is a factor in 0..1, got {floor}")

    def progress(step: int) -> float:
        return min((step - warmup) / (steps - warmup), 1.0)

    def above_floor(factor: float) -> float:
        return floor + (1.0 - floor) * factor

    kinds: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "multistep": lambda step: max(gamma ** bisect_right(milestones, step), floor),
        "polynomial": lambda step: above_floor((1.0 - progress(step)) ** power),
        "cosine": lambda step: above_floor((1.0 + math.cos(math.pi * progress(step))) / 2.0),
    }
    if kind not in kinds:
        raise RecipeError(f"unknown schedule {kind!r}; choose from {', '.join(kinds)}")
    decay = kinds[kind]
    return lambda step: (step + 1) / warmup if step < warmup else decay(step)
