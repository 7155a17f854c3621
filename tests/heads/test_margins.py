"""CosFace, AdaFace and combined margins by hand and against pytorch-metric-learning; sub-centres, smoothing, warm-up."""
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses

from askd.heads.classifier import MARGINS, MarginHead
from askd.heads.margin import adaface, arcface, combined, cosface

DEGREES = torch.arange(1, 180, dtype=torch.float64)
COSINES = torch.stack([DEGREES.deg2rad().cos(), torch.full_like(DEGREES, 0.3)], 1)
FIRST = torch.zeros(len(DEGREES), dtype=torch.long)


def batch(seed=0, images=6, width=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(images, width, generator=generator), torch.randint(classes, (images,), generator=generator)


def test_cosface_by_hand():
    moved = cosface(torch.tensor([[0.9, 0.1], [0.2, -0.8]]), torch.tensor([0, 1]), 0.35)
    torch.testing.assert_close(moved, torch.tensor([[0.55, 0.1], [0.2, -1.15]]))


@pytest.mark.parametrize("m1, m2, m3", [(1.0, 0.5, 0.0), (1.0, 0.3, 0.2), (1.35, 0.0, 0.0), (4.0, 0.0, 0.1), (1.0, 0.0, 0.35)])
def test_combined_over_half_a_turn(m1, m2, m3):
    target = combined(COSINES, FIRST, m1, m2, m3)
    previous = 2.0
    for degrees, (true, other) in zip(DEGREES.tolist(), target.tolist()):
        theta = math.radians(degrees)
        if m1 * theta + m2 <= math.pi:
            assert true == pytest.approx(math.cos(m1 * theta + m2) - m3, abs=1e-9)
        else:
            assert true == pytest.approx(-1 + math.cos(theta) - math.cos((math.pi - m2) / m1) - m3, abs=1e-9)
        assert true < previous and other == 0.3, "it falls all the way"
        previous = true


def test_combined_holds_arcface_and_cosface():
    within = DEGREES.deg2rad() + 0.5 < math.pi
    torch.testing.assert_close(combined(COSINES, FIRST, 1, 0.5, 0)[within], arcface(COSINES, FIRST, 0.5)[within])
    torch.testing.assert_close(combined(COSINES, FIRST, 1, 0, 0.35), cosface(COSINES, FIRST, 0.35))


def adaface_by_hand(cosine, norm, mean, std, m, h):
    """Eqs. of the paper for one image and its true class: z, then both margins."""
    z = max(-1.0, min(1.0, (norm - mean) / (std + 1e-3) * h))
    theta = math.acos(max(-1 + 1e-3, min(1 - 1e-3, cosine))) - m * z
    return math.cos(max(1e-3, min(math.pi - 1e-3, theta))) - (m + m * z)


@pytest.mark.parametrize("norm", [1.0, 8.0, 12.0, 30.0, 500.0])
def test_adaface_by_hand(norm):
    norms = torch.full((len(DEGREES),), norm, dtype=torch.float64)
    target = adaface(COSINES, FIRST, norms, torch.tensor(10.0), torch.tensor(2.0), 0.4, 0.333)
    for cosine, (true, other) in zip(COSINES[:, 0].tolist(), target.tolist()):
        assert true == pytest.approx(adaface_by_hand(cosine, min(norm, 100), 10, 2, 0.4, 0.333), abs=1e-6) and other == 0.3


def test_adaface_is_arcface_with_a_negative_margin_for_the_best_and_cosface_for_the_average():
    def at(norm):
        return adaface(COSINES, FIRST, torch.full((179,), norm).double(), torch.tensor(10.0), torch.tensor(1.0), 0.4, 0.333)[:, 0]

    middle = slice(60, 110)
    torch.testing.assert_close(at(10.0)[middle], COSINES[middle, 0] - 0.4)
    torch.testing.assert_close(at(0.0)[middle], (DEGREES.deg2rad() + 0.4).cos()[middle])
    torch.testing.assert_close(at(99.0)[middle], (DEGREES.deg2rad() - 0.4).cos()[middle] - 0.8)


@pytest.mark.parametrize("margin", [
    lambda c: cosface(c, torch.tensor([0, 1, 0])), lambda c: combined(c, torch.tensor([0, 1, 0]), 1.3, 0.2, 0.1),
    lambda c: adaface(c, torch.tensor([0, 1, 0]), torch.tensor([5.0, 10, 20]), torch.tensor(10.0), torch.tensor(4.0)),
])
def test_gradcheck(margin):
    cosine = torch.tensor([[0.9, 0.1], [0.2, -0.3], [-0.8, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(margin, (cosine,))


@pytest.mark.parametrize("kind", MARGINS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_embedding_on_its_centre_or_opposite_trains_on(kind, sign):
    torch.manual_seed(0)
    head = MarginHead(64, 10, kind=kind, margins=(1.2, 0.3, 0.1))
    embedding = (sign * 7 * head.centres.detach()).requires_grad_()
    loss = head(embedding, torch.arange(10))
    loss.backward()
    assert loss.isfinite() and embedding.grad.isfinite().all() and head.centres.grad.isfinite().all()


def reference(loss, head, embedding, label):
    """pytorch-metric-learning's value with our centres; it keeps them as (E, C)."""
    with torch.no_grad():
        loss.W.copy_(head.centres.T)
    return loss(embedding, label).item()


def test_losses_are_those_of_pytorch_metric_learning():
    torch.manual_seed(0)
    embedding, label = batch()
    for kind, margin, loss in (
        ("cosface", 0.35, losses.CosFaceLoss(4, 5, margin=0.35, scale=16)),
        ("arcface", 0.3, losses.ArcFaceLoss(4, 5, margin=math.degrees(0.3), scale=16)),
    ):
        head = MarginHead(5, 4, margin, 16.0, kind=kind)
        assert head(embedding, label).item() == pytest.approx(reference(loss, head, embedding, label), rel=1e-4)


def test_subcentres_are_those_of_pytorch_metric_learning():
    torch.manual_seed(0)
    embedding, label = batch(1)
    head = MarginHead(5, 4, 0.3, 16.0, subcentres=3)
    assert head.centres.shape == (12, 5) and head.cosine(embedding).shape == (6, 4)
    loss = losses.SubCenterArcFaceLoss(num_classes=4, embedding_size=5, margin=math.degrees(0.3), scale=16, sub_centers=3)
    assert head(embedding, label).item() == pytest.approx(reference(loss, head, embedding, label), rel=1e-4)


def test_the_nearest_subcentre_counts_and_alone_gets_a_gradient():
    head = MarginHead(2, 2, logit_scale=1.0, subcentres=2)
    with torch.no_grad():
        head.centres.copy_(torch.tensor([[1.0, 0], [0, 1.0], [-1, 0], [0, -1]]))
    embedding = torch.tensor([[2.0, 1.0]])
    torch.testing.assert_close(head.cosine(embedding), torch.tensor([[2 / 5**0.5, -1 / 5**0.5]]))
    head(embedding, torch.tensor([0])).backward()
    assert (head.centres.grad.abs().sum(1) > 0).tolist() == [True, False, False, True]


def test_label_smoothing_by_hand():
    embedding, label = batch(2)
    torch.manual_seed(0)
    head = MarginHead(5, 4, 0.3, 8.0, label_smoothing=0.2)
    target = torch.full((6, 4), 0.05).scatter_(1, label[:, None], 0.85)
    expected = -(target * F.log_softmax(head.logits(embedding, label), 1)).sum(1).mean()
    torch.testing.assert_close(head(embedding, label), expected)


@pytest.mark.parametrize("kind", MARGINS)
def test_warm_up_counts_training_steps_and_goes_on_where_it_stopped(kind):
    torch.manual_seed(0)
    options = dict(embedding=5, classes=4, margin=0.4, logit_scale=8.0, kind=kind, margins=(1.2, 0.4, 0.1))
    head, (embedding, label) = MarginHead(**options), batch(3)
    full = head.eval()(embedding, label).item()
    head.warm_up(4)
    plain = F.cross_entropy(8 * head.cosine(embedding), label).item()
    assert head(embedding, label).item() == pytest.approx(plain, abs=1e-5)  # not a training step: it does not count
    head.train()
    if head.norms is not None:
        head.norms.momentum = 0.0
    seen = [head(embedding, label).item() for _ in range(6)]
    assert seen[0] == pytest.approx(plain, abs=1e-5) and seen[4] == seen[5] == pytest.approx(full)
    assert seen[:5] == sorted(seen[:5]) and len(set(seen[:5])) == 5
    resumed = MarginHead(**options)
    resumed.warm_up(4)
    head.warmup.done = 2
    resumed.load_state_dict(head.state_dict(), strict=True)
    assert resumed.warmup.part() == 0.25 and resumed.eval()(embedding, label).item() == pytest.approx(seen[1])  # the step that was the last
    if kind != "adaface":  # whose momentum is its own again
        assert resumed.train()(embedding, label).item() == pytest.approx(seen[2])


def test_adaface_follows_the_norms_of_training_batches_alone():
    head, (embedding, label) = MarginHead(5, 4, kind="adaface"), batch(4)
    norm = embedding.norm(dim=1)
    head.eval()(embedding, label)
    assert (head.norms.mean.item(), head.norms.std.item()) == (20, 100)
    head.train()(embedding, label)
    assert head.norms.mean.item() == pytest.approx(0.99 * 20 + 0.01 * norm.mean().item())
    assert head.norms.std.item() == pytest.approx(0.99 * 100 + 0.01 * norm.std().item())
    assert set(head.state_dict()) == {"centres", "norms.mean", "norms.std"} and set(MarginHead(5, 4).state_dict()) == {"centres"}


def test_unknown_margin_lists_the_choices():
    with pytest.raises(ValueError, match="unknown margin 'sphereface'; choose from arcface, cosface, adaface, combined"):
        MarginHead(5, 4, kind="sphereface")
