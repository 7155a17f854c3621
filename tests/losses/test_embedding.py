"""The distance of embeddings against a transcription in float64; what it does and does not see."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.losses.embedding import embedding_similarity


def naive(student, teacher, distance):
    rows = []
    for a, b in zip(student.tolist(), teacher.tolist(), strict=True):
        if distance == "l2":
            rows.append(sum((x - y) ** 2 for x, y in zip(a, b)) / len(a))
        else:
            dot, norms = sum(x * y for x, y in zip(a, b)), [math.sqrt(sum(x * x for x in v)) for v in (a, b)]
            rows.append(1 - dot / norms[0] / norms[1])
    return sum(rows) / len(rows)


def draw(seed, batch=5, width=7):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, width, generator=generator, dtype=torch.float64) + 0.3 for _ in range(2)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), batch=st.integers(1, 5), width=st.integers(2, 8), distance=st.sampled_from(["cosine", "l2"]))
def test_equals_its_equation(seed, batch, width, distance):
    student, teacher = draw(seed, batch, width)
    assert embedding_similarity(student, teacher, distance).item() == pytest.approx(naive(student, teacher, distance), rel=1e-9, abs=1e-12)


def test_gradient_of_the_cosine_is_the_hand_derived_one():
    student, teacher = (tensor.float() for tensor in draw(0))
    student.requires_grad_()
    embedding_similarity(student, teacher).backward()
    norm = student.detach().norm(dim=1, keepdim=True)
    a, b = student.detach() / norm, teacher / teacher.norm(dim=1, keepdim=True)
    expected = -(b - (a * b).sum(1, keepdim=True) * a) / norm / len(a)  # d(1 - a.b)/da, tangent to the sphere
    torch.testing.assert_close(student.grad, expected)
    student.grad = None
    embedding_similarity(student, teacher, "l2").backward()
    torch.testing.assert_close(student.grad, 2 * (student.detach() - teacher) / student.numel())


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_gradcheck(distance):
    student, teacher = draw(4, 3, 4)
    assert torch.autograd.gradcheck(lambda s: embedding_similarity(s, teacher, distance), (student.requires_grad_(),))


def test_teacher_gets_no_gradient():
    student, teacher = (tensor.requires_grad_() for tensor in draw(1))
    embedding_similarity(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), factor=st.floats(1e-2, 1e2))
def test_cosine_sees_directions_and_both_turn_with_the_space(seed, factor):
    student, teacher = draw(seed)
    turn, _ = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    scaled = embedding_similarity(factor * student, teacher / factor).item()
    assert scaled == pytest.approx(embedding_similarity(student, teacher).item(), abs=1e-5)
    for distance in ("cosine", "l2"):
        value = embedding_similarity(student, teacher, distance).item()
        assert embedding_similarity(student @ turn, teacher @ turn, distance).item() == pytest.approx(value, rel=1e-4, abs=1e-5)
        order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
        assert embedding_similarity(student[order], teacher[order], distance).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_equal_embeddings_cost_nothing_and_silent_ones_stay_finite(distance):
    student, _ = draw(2)
    assert embedding_similarity(student, student, distance).item() == pytest.approx(0, abs=1e-6)
    zero = torch.zeros(2, 3, requires_grad=True)
    embedding_similarity(zero, torch.ones(2, 3), distance).backward()
    assert zero.grad.isfinite().all()


def test_low_precision_embeddings_are_compared_in_float32():
    student, teacher = (tensor.bfloat16() for tensor in draw(3))
    with torch.autocast("cpu", torch.bfloat16):
        ours = embedding_similarity(student, teacher)
    assert ours.dtype == torch.float32 and torch.equal(ours, embedding_similarity(student.float(), teacher.float()))


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="unknown distance 'l1'; choose cosine or l2"):
        embedding_similarity(*draw(0), "l1")
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher \(2, 4\) cannot be compared"):
        embedding_similarity(torch.ones(2, 3), torch.ones(2, 4))
