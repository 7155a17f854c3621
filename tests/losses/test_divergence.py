"""ABE's divergence loss against its triple loop, and where it must vanish."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.losses.divergence import divergence


def naive(embeddings, margin):
    """Sum over images and pairs p < q of max(0, margin - |B_p - B_q|^2), embeddings normalised; and how many terms."""
    total, terms = 0.0, 0
    for image in embeddings.tolist():
        unit = [[x / math.sqrt(sum(y * y for y in learner)) for x in learner] for learner in image]
        for p in range(len(unit)):
            for q in range(p + 1, len(unit)):
                total += max(0.0, margin - sum((a - b) ** 2 for a, b in zip(unit[p], unit[q])))
                terms += 1
    return total, terms


def draw(seed, batch, learners, width):
    return torch.randn(batch, learners, width, generator=torch.Generator().manual_seed(seed)) + 0.7


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999), batch=st.integers(1, 4), learners=st.integers(2, 5), width=st.integers(2, 6),
    margin=st.sampled_from([0.2, 1.0, 2.5]),
)
def test_equals_the_loop(seed, batch, learners, width, margin):
    embeddings = draw(seed, batch, learners, width)
    total, terms = naive(embeddings, margin)
    assert terms == batch * learners * (learners - 1) // 2
    assert divergence(embeddings, margin, "sum").item() == pytest.approx(total / batch, rel=1e-4, abs=1e-5)
    assert divergence(embeddings, margin, "mean").item() == pytest.approx(total / terms, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("degrees", range(0, 181, 10))
def test_two_learners_at_an_angle(degrees):
    a = math.radians(degrees)
    pair = torch.tensor([[[2.0, 0.0], [5 * math.cos(a), 5 * math.sin(a)]]])
    assert divergence(pair).item() == pytest.approx(max(0, 2 * math.cos(a) - 1), abs=1e-6)


def test_vanishes_with_its_gradient_once_the_cosine_is_below_a_half():
    for degrees, pushed in ((59, True), (61, False)):
        a = math.radians(degrees)
        pair = torch.tensor([[[1.0, 0.0], [math.cos(a), math.sin(a)]]], requires_grad=True)
        loss = divergence(pair)
        loss.backward()
        assert (loss.item() > 0) is pushed and bool(pair.grad.abs().sum() > 0) is pushed


def test_the_gradient_drives_two_learners_apart():
    pair = torch.tensor([[[1.0, 0.0], [1.0, 0.2]]], requires_grad=True)
    loss = divergence(pair)
    loss.backward()
    assert divergence(pair.detach() - 0.1 * pair.grad) < loss


def test_scale_alone_meets_no_margin():
    embeddings = draw(0, 3, 4, 5)
    factors = torch.tensor([0.01, 1.0, 10.0, 100.0]).view(1, 4, 1)
    torch.testing.assert_close(divergence(embeddings * factors), divergence(embeddings))


def test_identical_learners_pay_the_whole_margin():
    same = draw(0, 3, 1, 5).expand(3, 4, 5)
    assert divergence(same, margin=0.8).item() == pytest.approx(0.8)
    assert divergence(same, margin=0.8, reduction="sum").item() == pytest.approx(0.8 * 6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_parts_of_a_batch_weigh_as_the_whole(reduction):
    """Micro-batches and processes average their gradients; a sum over images would shrink with their number."""
    embeddings = draw(1, 6, 4, 5)
    parts = torch.stack([divergence(part, reduction=reduction) for part in embeddings.chunk(3)])
    torch.testing.assert_close(parts.mean(), divergence(embeddings, reduction=reduction))


def test_low_precision_embeddings_are_compared_in_float32():
    embeddings = draw(0, 3, 4, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours = divergence(embeddings)
    assert ours.dtype == torch.float32 and torch.equal(ours, divergence(embeddings.float()))


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match=r"at least two learners, got \(3, 1, 5\)"):
        divergence(torch.ones(3, 1, 5))
    with pytest.raises(ValueError, match=r"\(B, M, D\) of at least two learners, got \(3, 5\)"):
        divergence(torch.ones(3, 5))
    with pytest.raises(ValueError, match="unknown reduction 'max'; choose mean or sum"):
        divergence(torch.ones(3, 2, 5), reduction="max")
