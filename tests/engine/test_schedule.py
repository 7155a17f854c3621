"""Schedules against torch's own, hand-computed values, and their invariants."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from askd.engine.schedule import make_schedule
from askd.errors import RecipeError

STEPS = 40


def torch_factors(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(STEPS):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            dict(kind="multistep", milestones=(7, 20, 33), gamma=0.3),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [7, 20, 33], gamma=0.3),
        ),
        (
            dict(kind="polynomial", power=2.0),
            lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=STEPS, power=2.0),
        ),
        (
            dict(kind="polynomial", power=0.9),
            lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=STEPS, power=0.9),
        ),
        (dict(kind="cosine"), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=STEPS)),
        (
            dict(kind="cosine", floor=0.05),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.05),
        ),
        (dict(kind="constant"), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
)
def test_equals_torch(ours, theirs):
    schedule = make_schedule(steps=STEPS, **ours)
    assert [schedule(step) for step in range(STEPS)] == pytest.approx(torch_factors(theirs), abs=1e-12)


@pytest.mark.parametrize("kind", ["polynomial", "cosine"])
def test_after_the_warmup_the_shape_is_that_of_a_run_without_it(kind):
    warm, cold = make_schedule(kind, steps=50, warmup=10), make_schedule(kind, steps=40)
    assert [warm(step) for step in range(10)] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert [warm(step) for step in range(10, 50)] == pytest.approx([cold(step) for step in range(40)])


def test_by_hand():
    polynomial = make_schedule("polynomial", steps=10, warmup=2, power=2.0, floor=0.2)
    assert polynomial(0) == 0.5 and polynomial(1) == 1.0 and polynomial(2) == 1.0
    assert polynomial(6) == pytest.approx(0.2 + 0.8 * 0.25)
    assert polynomial(10) == polynomial(1000) == pytest.approx(0.2)
    multistep = make_schedule("multistep", steps=10, warmup=2, milestones=(4, 6, 8), floor=0.005)
    assert [multistep(step) for step in (3, 4, 5, 6, 7, 8, 9)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.005, 0.005])


@given(
    kind=st.sampled_from(["constant", "multistep", "polynomial", "cosine"]),
    steps=st.integers(2, 300),
    share=st.floats(0, 0.9),
    floor=st.floats(0, 1),
    power=st.floats(0.5, 3),
)
def test_rises_to_one_then_never_rises_again(kind, steps, share, floor, power):
    warmup = int(share * steps)
    schedule = make_schedule(kind, steps=steps, warmup=warmup, milestones=(warmup + 1,), floor=floor, power=power)
    factors = [schedule(step) for step in range(steps + 5)]
    assert max(factors) == pytest.approx(1.0) and min(factors) >= 0.0 and factors[0] > 0.0
    assert all(a < b for a, b in zip(factors[:warmup], factors[1:warmup]))
    assert all(a >= b - 1e-12 for a, b in zip(factors[warmup:], factors[warmup + 1 :]))
    assert all(factor >= floor - 1e-12 for factor in factors[warmup:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kind="cosin", steps=10), "'cosin'; choose from constant, multistep, polynomial, cosine"),
        (dict(kind="cosine", steps=10, warmup=10), "shorter than the run of 10 steps, got 10"),
        (dict(kind="multistep", steps=10), r"needs milestones .* got \[\]"),
        (dict(kind="multistep", steps=10, milestones=(5, 3)), r"got \[5, 3\]"),
        (dict(kind="cosine", steps=10, floor=1.5), "floor .* got 1.5"),
    ],
)
def test_what_makes_no_schedule_is_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        make_schedule(**arguments)
