"""ArcFace geometrically: embeddings in the plane swept over 0 to 180 degrees, logits recomputed from the angle."""
from __future__ import annotations

import math

import pytest
import torch

from askd.heads.classifier import MarginHead
from askd.heads.margin import arcface

CENTRES = [0.0, 90.0, 200.0]  # degrees
SCALE = 32.0


def with_margin(theta: float, margin: float) -> float:
    """cos(theta + m), and cos(theta) - m sin(pi - m) where theta + m passes pi."""
    if theta + margin > math.pi:
        return math.cos(theta) - margin * math.sin(math.pi - margin)
    return math.cos(theta + margin)


def true_slope(theta: float, margin: float) -> float:
    """d cos(theta + m) / d cos(theta) = sin(theta + m) / sin(theta); 1 under the fallback."""
    return math.sin(theta + margin) / math.sin(theta) if theta + margin <= math.pi else 1.0


def planar_head(margin=0.5):
    head = MarginHead(2, len(CENTRES), margin, SCALE)
    with torch.no_grad():
        head.centres.copy_(torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in CENTRES]))
        head.centres.mul_(torch.tensor([[3.0], [0.5], [1.0]]))
    return head


def sweep(dtype=torch.float32):
    degrees = torch.arange(181, dtype=torch.float64)
    radius = 0.2 + degrees / 20
    return (radius[:, None] * torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], 1)).to(dtype)


def angle(a, b) -> float:
    return abs(math.remainder(math.atan2(a[1], a[0]) - math.atan2(b[1], b[0]), 2 * math.pi))


@pytest.mark.parametrize("dtype, autocast", [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)])
@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0])
def test_sweep_over_half_a_turn(dtype, autocast, margin):
    head, embeddings, label = planar_head(margin), sweep(dtype), torch.zeros(181, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        cosine = head.cosine(embeddings)
        logits = arcface(cosine, label, margin)
    assert logits.dtype == torch.float32
    previous, fallbacks = 2.0, 0
    for row, embedding in zip(logits.tolist(), embeddings.double().tolist()):
        theta = angle(embedding, (1.0, 0.0))
        fallbacks += theta + margin > math.pi
        pole = min(theta, math.pi - theta) < 0.1  # there one float32 step of the cosine is many of the angle
        assert row[0] == pytest.approx(with_margin(theta, margin), abs=4e-4 if pole else 5e-6)
        for centre in (1, 2):
            other = (math.cos(math.radians(CENTRES[centre])), math.sin(math.radians(CENTRES[centre])))
            assert row[centre] == pytest.approx(math.cos(angle(embedding, other)), abs=5e-6)
        if dtype == torch.float32:
            assert row[0] < previous + 4e-4, "the target falls all the way, the fallback included"
        previous = row[0]
    assert fallbacks > 0


def test_the_head_is_scaled_cross_entropy_of_those_logits():
    head, label = planar_head(), torch.arange(181) % 3
    losses = []
    for embedding, true in zip(sweep().double().tolist(), label.tolist()):
        logits = []
        for centre, degrees in enumerate(CENTRES):
            theta = angle(embedding, (math.cos(math.radians(degrees)), math.sin(math.radians(degrees))))
            logits.append(SCALE * (with_margin(theta, head.margin) if centre == true else math.cos(theta)))
        top = max(logits)
        losses.append(top + math.log(sum(math.exp(x - top) for x in logits)) - logits[true])
    expected = sum(losses) / len(losses)
    assert head(sweep(), label).item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(sweep(), label).item() == pytest.approx(expected, rel=1e-5)
        low = head(sweep(torch.bfloat16), label)
    assert low.dtype == torch.float32 and low.item() == pytest.approx(expected, rel=2e-2)


def test_only_the_true_class_moves():
    cosine = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    label = torch.tensor([0, 6, 3, 3, 1])
    moved = arcface(cosine, label)
    true = torch.zeros(5, 7, dtype=torch.bool).scatter_(1, label[:, None], True)
    assert torch.equal(moved[~true], cosine[~true]) and (moved[true] < cosine[true]).all()


def test_a_margin_of_zero_changes_nothing():
    cosine = torch.linspace(-1, 1, 21).view(-1, 1)
    torch.testing.assert_close(arcface(cosine, torch.zeros(21, dtype=torch.long), 0.0), cosine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_the_true_one(dtype):
    degrees = torch.arange(2, 179, dtype=torch.float64)
    cosine = degrees.deg2rad().cos().to(dtype)[:, None].requires_grad_()
    arcface(cosine, torch.zeros(len(degrees), dtype=torch.long)).sum().backward()
    for theta, slope in zip(degrees.deg2rad().tolist(), cosine.grad[:, 0].tolist()):
        assert slope == pytest.approx(true_slope(theta, 0.5), rel=1e-3 if dtype == torch.float32 else 1e-9)
        step = 1e-6  # and the slope of the hand-written function, by central difference
        up, down = (with_margin(math.acos(math.cos(theta) + d), 0.5) for d in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(true_slope(theta, 0.5), rel=1e-3)


def test_gradcheck():
    cosine = torch.tensor([[0.9, 0.1], [0.2, -0.8], [-0.6, 0.3], [-0.95, 0.5]], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 1, 0, 0])  # the last is beyond pi
    assert torch.autograd.gradcheck(lambda c: arcface(c, label), (cosine,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_poles_are_finite(dtype):
    cosine = torch.tensor([[1.0, 0], [-1.0, 0], [1 - 6e-8, 0], [-1 + 6e-8, 0]], dtype=dtype, requires_grad=True)
    logits = arcface(cosine, torch.zeros(4, dtype=torch.long))
    logits.sum().backward()
    assert logits.isfinite().all() and cosine.grad.isfinite().all()
    assert logits[0, 0].item() == pytest.approx(math.cos(0.5), abs=1e-5)
    assert logits[1, 0].item() == pytest.approx(-1 - 0.5 * math.sin(math.pi - 0.5), abs=1e-5)


@pytest.mark.parametrize("dtype, autocast", [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_embedding_on_its_centre_or_opposite_trains_on(dtype, autocast, sign):
    torch.manual_seed(0)
    head = MarginHead(512, 10, logit_scale=64.0)
    embedding = (sign * 7 * head.centres.detach()).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = head(embedding, torch.arange(10))
    loss.backward()
    assert loss.isfinite() and embedding.grad.isfinite().all() and head.centres.grad.isfinite().all()


def test_cosines_stay_within_one_whatever_the_rounding():
    torch.manual_seed(0)
    head = MarginHead(512, 2000)
    cosine = head.cosine(1e3 * head.centres.detach())
    assert cosine.abs().max() <= 1 and torch.allclose(cosine.diagonal(), torch.ones(2000), atol=1e-6)


def test_descending_the_loss_turns_an_embedding_towards_its_centre():
    head, embedding = planar_head(), torch.tensor([[0.1, 1.0]], requires_grad=True)
    head(embedding, torch.tensor([0])).backward()
    stepped = embedding.detach() - 0.01 * embedding.grad
    assert head.cosine(stepped)[0, 0] > head.cosine(embedding.detach())[0, 0]
