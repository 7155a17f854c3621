"""Attention similarity against a loop over samples, blocks and parts, and its invariants."""
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.losses.attention import attention_similarity
from askd.models.features import AttentionMaps


def maps(seed, blocks=24, batch=3, channels=6, size=4, scale=2.0):
    draw = torch.Generator().manual_seed(seed)
    return [
        AttentionMaps(
            scale * torch.randn(batch, channels, 1, 1, generator=draw),
            scale * torch.randn(batch, 1, size, size, generator=draw),
        )
        for _ in range(blocks)
    ]


def one_minus_cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def naive(student, teacher, space, reduction, channel=1.0, spatial=1.0):
    """mean over samples of 1 - cos, weighted, summed over blocks and parts; `mean` divides by the weights' total."""
    squash = (lambda v: 1 / (1 + math.exp(-v))) if space == "maps" else (lambda v: v)
    total = weights = 0.0
    for ours, theirs in zip(student, teacher):
        for part, weight in (("channel", channel), ("spatial", spatial)):
            terms = []
            for pair in zip(getattr(ours, part), getattr(theirs, part)):
                terms.append(one_minus_cosine(*([squash(v) for v in side.flatten().tolist()] for side in pair)))
            total += weight * sum(terms) / len(terms)
            weights += weight
    return total / weights if reduction == "mean" else total


@pytest.mark.parametrize("space", ["logits", "maps"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("channel, spatial", [(1.0, 1.0), (1.0, 0.0), (0.0, 2.0), (0.5, 3.0)])
def test_equals_the_loop(space, reduction, channel, spatial):
    student, teacher = maps(0, blocks=3), maps(1, blocks=3)
    ours = attention_similarity(student, teacher, space, reduction, channel, spatial)
    assert ours.item() == pytest.approx(naive(student, teacher, space, reduction, channel, spatial), rel=1e-5)


@pytest.mark.parametrize("space", ["logits", "maps"])
def test_over_24_blocks_the_sum_is_48_times_the_mean(space):
    student, teacher = maps(0), maps(1)
    total, mean = (attention_similarity(student, teacher, space, reduction).item() for reduction in ("sum", "mean"))
    assert total == pytest.approx(48 * mean, rel=1e-5)


def test_a_hand_computed_case():
    student = [AttentionMaps(torch.tensor([3.0, 4]).view(1, 2, 1, 1), torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2))]
    teacher = [AttentionMaps(torch.tensor([4.0, 3]).view(1, 2, 1, 1), torch.tensor([0, 1.0, 0, 0]).view(1, 1, 2, 2))]
    # channel: cos = 24 / 25; spatial: orthogonal
    assert attention_similarity(student, teacher, "logits", "sum").item() == pytest.approx(0.04 + 1, abs=1e-6)
    assert attention_similarity(student, teacher, "logits", "mean").item() == pytest.approx(0.52, abs=1e-6)


def test_the_gradient_reaches_the_student_alone():
    student, teacher = maps(0, blocks=2), maps(1, blocks=2)
    for m in (m for pair in student + teacher for m in pair):
        m.requires_grad_()
    attention_similarity(student, teacher).backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for pair in student for m in pair)
    assert all(m.grad is None for pair in teacher for m in pair)


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(1e-2, 1e2), seed=st.integers(0, 99))
def test_logits_are_compared_by_direction_alone(factor, seed):
    student, teacher = maps(seed, blocks=2), maps(seed + 1, blocks=2)
    scaled = [AttentionMaps(*(factor * m for m in pair)) for pair in student]
    one, other = (attention_similarity(s, teacher, "logits").item() for s in (student, scaled))
    assert one == pytest.approx(other, abs=1e-5) and 0 <= one <= 2
    if abs(factor - 1) > 0.5:
        one, other = (attention_similarity(s, teacher, "maps").item() for s in (student, scaled))
        assert one != pytest.approx(other, abs=1e-5), "after the sigmoid scale does matter"


@pytest.mark.parametrize("space", ["logits", "maps"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equal_maps_cost_nothing(space, reduction):
    assert attention_similarity(maps(3), maps(3), space, reduction).item() == pytest.approx(0, abs=1e-5)


def test_opposite_logits_cost_two():
    opposite = [AttentionMaps(-pair.channel, -pair.spatial) for pair in maps(3)]
    assert attention_similarity(maps(3), opposite, "logits").item() == pytest.approx(2, abs=1e-6)


def test_low_precision_maps_are_compared_in_float32():
    student, teacher = ([AttentionMaps(*(m.bfloat16() for m in pair)) for pair in maps(seed)] for seed in (0, 1))
    exact = attention_similarity(
        *([AttentionMaps(*(m.float() for m in pair)) for pair in side] for side in (student, teacher))
    )
    with torch.autocast("cpu", torch.bfloat16):
        ours = attention_similarity(student, teacher)
    assert ours.dtype == torch.float32 and torch.equal(ours, exact)


def test_silent_maps_stay_finite():
    zero = [AttentionMaps(torch.zeros(2, 4, 1, 1, requires_grad=True), torch.zeros(2, 1, 3, 3, requires_grad=True))]
    loss = attention_similarity(zero, maps(0, blocks=1, batch=2, channels=4, size=3), "logits")
    loss.backward()
    assert loss.item() == 1 and all(m.grad.isfinite().all() for m in zero[0])


def test_errors_name_what_does_not_fit():
    with pytest.raises(ValueError, match="unknown space 'sigmoid'; choose maps"):
        attention_similarity(maps(0), maps(1), space="sigmoid")
    with pytest.raises(ValueError, match="unknown reduction 'none'; choose mean or sum"):
        attention_similarity(maps(0), maps(1), reduction="none")
    with pytest.raises(ValueError, match="got 3 and 4"):
        attention_similarity(maps(0, blocks=3), maps(1, blocks=4))
    with pytest.raises(ValueError, match="got 0 and 0"):
        attention_similarity([], [])
    with pytest.raises(ValueError, match=r"block 0: spatial .* student \(3, 1, 4, 4\) and teacher \(3, 1, 5, 5\)"):
        attention_similarity(maps(0), maps(1, size=5))
    with pytest.raises(ValueError, match="block 0: spatial attention of student .* and teacher None"):
        attention_similarity(maps(0), [AttentionMaps(pair.channel, None) for pair in maps(1)])
    with pytest.raises(ValueError, match="compares nothing"):
        attention_similarity(maps(0), maps(1), channel=0, spatial=0)


def test_without_a_spatial_weight_channel_maps_suffice():
    student, teacher = ([AttentionMaps(pair.channel, None) for pair in maps(seed)] for seed in (0, 1))
    ours = attention_similarity(student, teacher, "logits", spatial=0)
    assert ours.item() == pytest.approx(naive(maps(0), maps(1), "logits", "mean", 1, 0), rel=1e-5)


@pytest.mark.parametrize("space", ["logits", "maps"])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_gradcheck(space, distance):
    """Gradients of the whole term against finite differences, float64."""
    ours, theirs = (
        [torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + i)) for i, shape in enumerate(
            [(2, 3, 1, 1), (2, 1, 2, 2), (2, 4, 1, 1), (2, 1, 1, 2)])] for seed in (0, 10))

    def loss(*maps):
        return attention_similarity(
            [AttentionMaps(*maps[:2]), AttentionMaps(*maps[2:])], [AttentionMaps(*theirs[:2]), AttentionMaps(*theirs[2:])],
            space, "mean", 1.0, 0.5, distance,
        )

    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in ours])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), space=st.sampled_from(["maps", "logits"]), distance=st.sampled_from(["cosine", "l2"]))
def test_blind_to_an_order_of_channels_positions_and_samples_that_both_sides_share(seed, space, distance):
    generator = torch.Generator().manual_seed(seed)
    sides = [AttentionMaps(torch.randn(3, 5, 1, 1, generator=generator), torch.randn(3, 1, 2, 3, generator=generator)) for _ in range(2)]
    channels, places, samples = (torch.randperm(count, generator=generator) for count in (5, 6, 3))
    moved = [AttentionMaps(one.channel[samples][:, channels], one.spatial[samples].flatten(2)[:, :, places].view(3, 1, 2, 3)) for one in sides]
    torch.testing.assert_close(*(attention_similarity([a], [b], space, distance=distance) for a, b in (sides, moved)))


@pytest.mark.parametrize("space", ["logits", "maps"])
def test_l2_is_the_mean_squared_difference(space):
    student, teacher = maps(0, blocks=2), maps(1, blocks=2)
    squares = []
    for ours, theirs in zip(student, teacher):
        for a, b in zip(ours, theirs):
            a, b = (a.sigmoid(), b.sigmoid()) if space == "maps" else (a, b)
            squares.append(((a - b).double() ** 2).mean().item())
    value = attention_similarity(student, teacher, space, distance="l2").item()
    assert value == pytest.approx(sum(squares) / len(squares), rel=1e-5)
    assert attention_similarity(student, teacher, space, "sum", distance="l2").item() == pytest.approx(sum(squares), rel=1e-5)
    with pytest.raises(ValueError, match="unknown distance 'l1'; choose cosine or l2"):
        attention_similarity(student, teacher, distance="l1")
