"""The feature distances against loops in float64, gradients checked; what each does and does not see."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.losses.feature import DISTANCES, feature_similarity


def stages(seed, batch=3, shapes=((2, 4), (5, 2)), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, channels, size, size, generator=generator, dtype=dtype) + 0.2 for channels, size in shapes]


def unit(vector):
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector]


def naive(student, teacher, distance):
    per_stage = []
    for ours, theirs in zip(student, teacher, strict=True):
        rows = []
        for a, b in zip(ours.tolist(), theirs.tolist(), strict=True):
            if distance == "at":
                side = range(len(a[0]))
                a, b = (unit([sum(m[i][j] ** 2 for m in maps) for i in side for j in side]) for maps in (a, b))
            else:
                a, b = ([x for channel in maps for row in channel for x in row] for maps in (a, b))
            if distance == "cosine":
                rows.append(1 - sum(x * y for x, y in zip(unit(a), unit(b))))
            else:
                rows.append(sum((x - y) ** 2 for x, y in zip(a, b)) / len(a))
        per_stage.append(sum(rows) / len(rows))
    return sum(per_stage) / len(per_stage)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), batch=st.integers(1, 3), distance=st.sampled_from(sorted(DISTANCES)))
def test_equals_its_equation(seed, batch, distance):
    student, teacher = stages(seed, batch), stages(seed + 1000, batch)
    assert feature_similarity(student, teacher, distance).item() == pytest.approx(naive(student, teacher, distance), rel=1e-9)


@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_gradcheck(distance):
    student, teacher = stages(0, 2, ((2, 2),)), stages(1, 2, ((2, 2),))
    student[0].requires_grad_()
    teacher[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda s: feature_similarity([s], [teacher[0].detach()], distance), (student[0],))
    feature_similarity(student, teacher, distance).backward()
    assert student[0].grad.abs().sum() > 0 and teacher[0].grad is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), factor=st.floats(0.1, 10))
def test_scale_rotation_and_order(seed, factor):
    student, teacher = stages(seed), stages(seed + 1)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    for distance in DISTANCES:
        value = feature_similarity(student, teacher, distance).item()
        scaled = feature_similarity([factor * s for s in student], teacher, distance).item()
        if distance == "mse":
            assert factor == pytest.approx(1, abs=0.1) or scaled != pytest.approx(value)
        else:
            assert scaled == pytest.approx(value)
        assert feature_similarity([s[order] for s in student], [t[order] for t in teacher], distance).item() == pytest.approx(value)
        shuffled = [s[:, torch.randperm(s.shape[1], generator=torch.Generator().manual_seed(seed))] for s in student]
        if distance == "at":  # attention transfer asks where, not in which channel
            assert feature_similarity(shuffled, teacher, distance).item() == pytest.approx(value)


def test_attention_transfer_takes_other_channels_and_the_others_do_not():
    student, teacher = stages(0, shapes=((2, 4),)), stages(1, shapes=((7, 4),))
    assert feature_similarity(student, teacher, "at").item() > 0
    for distance in ("cosine", "mse"):
        with pytest.raises(ValueError, match=r"stage 1: features of student \(3, 2, 4, 4\) and teacher \(3, 7, 4, 4\)"):
            feature_similarity(student, teacher, distance)
    with pytest.raises(ValueError, match="cannot be compared"):
        feature_similarity(student, stages(1, shapes=((2, 3),)), "at")


def test_silent_features_stay_finite_and_low_precision_is_compared_in_float32():
    for distance in DISTANCES:
        zero = [torch.zeros(2, 2, 3, 3, requires_grad=True)]
        feature_similarity(zero, stages(0, 2, ((2, 3),), torch.float32), distance).backward()
        assert zero[0].grad.isfinite().all()
        student, teacher = ([x.bfloat16() for x in stages(seed)] for seed in (0, 1))
        with torch.autocast("cpu", torch.bfloat16):
            ours = feature_similarity(student, teacher, distance)
        exact = feature_similarity([x.float() for x in student], [x.float() for x in teacher], distance)
        assert ours.dtype == torch.float32 and torch.equal(ours, exact)


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="unknown distance 'l1'; choose from cosine, mse, at"):
        feature_similarity(stages(0), stages(1), "l1")
    with pytest.raises(ValueError, match="same number of stages, got 2 and 1"):
        feature_similarity(stages(0), stages(1)[:1])
