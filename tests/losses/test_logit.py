"""KD against its definition in float64."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.losses.logit import softened_divergence


def softmax(row, temperature):
    top = max(row)
    weights = [math.exp((x - top) / temperature) for x in row]
    return [w / sum(weights) for w in weights]


def naive(student, teacher, temperature):
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(softmax(theirs, temperature), softmax(ours, temperature)))
    return temperature**2 * total / len(student)


def draw(seed, batch=3, classes=6):
    generator = torch.Generator().manual_seed(seed)
    return [4 * torch.randn(batch, classes, generator=generator, dtype=torch.float64) for _ in range(2)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), batch=st.integers(1, 4), classes=st.integers(2, 7), temperature=st.floats(0.5, 20))
def test_equals_its_definition(seed, batch, classes, temperature):
    student, teacher = draw(seed, batch, classes)
    expected = naive(student, teacher, temperature)
    assert softened_divergence(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-7, abs=1e-10)


def test_gradient_is_the_hand_derived_one():
    student, teacher = (x.requires_grad_() for x in draw(0))
    assert torch.autograd.gradcheck(lambda s: softened_divergence(s, teacher, 3.0), (student,))
    softened_divergence(student, teacher, 3.0).backward()
    torch.testing.assert_close(student.grad, 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)).detach() / len(student))
    assert teacher.grad is None


def test_the_gradient_keeps_its_size_as_the_temperature_grows():
    """Hinton et al.: with T^2, at high T, the gradient nears (z - v) / C for logits of zero mean, whatever T."""
    student, teacher = (x - x.mean(1, keepdim=True) for x in draw(1))
    student.requires_grad_()
    softened_divergence(student, teacher, 1e4).backward()
    torch.testing.assert_close(student.grad, ((student - teacher) / 6 / 3).detach(), rtol=1e-2, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), shift=st.floats(-50, 50))
def test_blind_to_shifts_and_to_the_order_of_samples_and_classes(seed, shift):
    student, teacher = draw(seed)
    value = softened_divergence(student, teacher).item()
    rows, columns = (torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for n in (3, 6))
    assert value >= 0 and softened_divergence(student, student + shift).item() == pytest.approx(0, abs=1e-9)
    assert softened_divergence(student + shift, teacher).item() == pytest.approx(value)
    assert softened_divergence(student[rows][:, columns], teacher[rows][:, columns]).item() == pytest.approx(value)


def test_low_precision_logits_are_compared_in_float32():
    student, teacher = (x.bfloat16() for x in draw(2))
    with torch.autocast("cpu", torch.bfloat16):
        ours = softened_divergence(student, teacher)
    assert ours.dtype == torch.float32 and torch.equal(ours, softened_divergence(student.float(), teacher.float()))


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="above 0, got 0"):
        softened_divergence(*draw(0), temperature=0)
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher \(2, 4\) are not of the same classes"):
        softened_divergence(torch.ones(2, 3), torch.ones(2, 4))
