"""Relations against triple loops in float64; they see how samples lie to one another, and nothing else."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.losses.relation import cross_sample_affinity, relational_angle, relational_distance

RELATIONS = (relational_distance, relational_angle)


def draw(seed, batch=4, width=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, width, generator=generator, dtype=torch.float64)


def maps(seed, batch=3, channels=4, size=2):
    return draw(seed, batch, channels * size * size).view(batch, channels, size, size)


def smooth_l1(values):
    return sum(0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in values) / len(values)


def distances(x):
    n, rows = len(x), x.tolist()
    found = [[math.dist(rows[i], rows[j]) for j in range(n)] for i in range(n)]
    mean = sum(found[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return [found[i][j] / mean for i in range(n) for j in range(n)]


def angles(x):
    found = []
    for i in range(len(x)):
        towards = [(row - x[i]).tolist() for row in x]
        lengths = [math.hypot(*v) or 1 for v in towards]
        found += [sum(a * b for a, b in zip(towards[j], towards[k])) / lengths[j] / lengths[k]
                  for j in range(len(x)) for k in range(len(x))]
    return found


def affinity_by_hand(low, high):
    """R_XY of sample i and the next, position by position, and the three comparisons."""
    def relation(x, y):
        x, y = x / x.norm(), y / y.norm()
        return [float(x[:, a, b] @ y[:, c, d]) for a in range(2) for b in range(2) for c in range(2) for d in range(2)]

    def apart(a, b):
        return 1 - sum(p * q for p, q in zip(a, b)) / math.hypot(*a) / math.hypot(*b)

    total = 0.0
    for i in range(len(low)):
        j = (i + 1) % len(low)
        hh, hl, lh, ll = (relation(x[i], y[j]) for x, y in ((high, high), (high, low), (low, high), (low, low)))
        total += (apart(hh, hl) + apart(hh, lh)) / 2 + apart(hh, ll)
    return total / len(low)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), batch=st.integers(3, 5), ours=st.integers(1, 4), theirs=st.integers(1, 6))
def test_rkd_equals_its_equations(seed, batch, ours, theirs):
    student, teacher = draw(seed, batch, ours), draw(seed + 1000, batch, theirs)
    for loss, relation in zip(RELATIONS, (distances, angles)):
        expected = smooth_l1([a - b for a, b in zip(relation(student), relation(teacher), strict=True)])
        assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), batch=st.integers(2, 4))
def test_cross_sample_equals_its_equation(seed, batch):
    student, teacher = maps(seed, batch), maps(seed + 1000, batch)
    assert cross_sample_affinity(student, teacher).item() == pytest.approx(affinity_by_hand(student, teacher), rel=1e-9)


@pytest.mark.parametrize("loss", [*RELATIONS, cross_sample_affinity])
def test_gradcheck_and_no_gradient_for_the_teacher(loss):
    make = maps if loss is cross_sample_affinity else draw
    student, teacher = make(0).requires_grad_(), make(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))
    loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), factor=st.floats(0.1, 10), shift=st.floats(-3, 3))
def test_rkd_is_blind_to_scale_rotation_shift_and_order(seed, factor, shift):
    student, teacher = draw(seed), draw(seed + 1)
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator))
    order = torch.randperm(4, generator=generator)
    for loss in RELATIONS:
        value = loss(student, teacher).item()
        assert loss(factor * student @ turn + shift, teacher).item() == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert loss(student[order], teacher[order]).item() == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert loss(factor * student @ turn + shift, student).item() == pytest.approx(0, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), factor=st.floats(0.1, 10))
def test_affinities_are_blind_to_scale_and_to_turning_all_channels_alike(seed, factor):
    student, teacher = maps(seed), maps(seed + 1)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    turned = [torch.einsum("bchw,cd->bdhw", x, turn) for x in (student, teacher)]
    value = cross_sample_affinity(student, teacher).item()
    assert cross_sample_affinity(factor * student, teacher).item() == pytest.approx(value)
    assert cross_sample_affinity(*turned).item() == pytest.approx(value)
    assert cross_sample_affinity(student, student).item() == pytest.approx(0, abs=1e-12) and 0 <= value <= 4


def test_samples_that_coincide_stay_finite():
    same = torch.ones(4, 3, requires_grad=True)
    for loss in RELATIONS:
        loss(same, draw(0, 4).float()).backward()
        assert same.grad.isfinite().all()
    zero = torch.zeros(3, 4, 2, 2, requires_grad=True)
    cross_sample_affinity(zero, maps(0).float()).backward()
    assert zero.grad.isfinite().all()


def test_low_precision_is_compared_in_float32():
    for loss, make in (*((loss, draw) for loss in RELATIONS), (cross_sample_affinity, maps)):
        student, teacher = make(0).bfloat16(), make(1).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            ours = loss(student, teacher)
        assert ours.dtype == torch.float32 and torch.equal(ours, loss(student.float(), teacher.float()))


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="2 or more samples, .* got 1 and 1"):
        relational_distance(draw(0, 1), draw(1, 1))
    with pytest.raises(ValueError, match="3 or more samples, .* got 4 and 3"):
        relational_angle(draw(0, 4), draw(1, 3))
    with pytest.raises(ValueError, match=r"student \(3, 4, 2, 2\) and teacher \(3, 5, 2, 2\) have no common"):
        cross_sample_affinity(maps(0), maps(1, channels=5))
