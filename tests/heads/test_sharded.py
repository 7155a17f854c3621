"""The sharded head on one rank, where it must be the plain one; drawing classes. tests/test_ranks.py has several ranks."""
from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from askd.heads.classifier import MARGINS, MarginHead, xavier_rows
from askd.heads.sharded import ShardedHead, sharded_divergence
from askd.losses.logit import softened_divergence

CLASSES = 9


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    embedding = 20 * torch.randn(6, 5, generator=generator, dtype=dtype)
    return embedding.requires_grad_(), torch.tensor([3, 0, 8, 3, 5, 1])


def heads(sampling=None, **options):
    made = []
    for kind, more in ((MarginHead, {}), (ShardedHead, sampling or {})):
        torch.manual_seed(0)
        made.append(kind(5, CLASSES, **options, **more).double())
    return made


@pytest.mark.parametrize("kind, subcentres, label_smoothing", list(itertools.product(MARGINS, (1, 3), (0.0, 0.2))))
def test_it_is_the_plain_head(kind, subcentres, label_smoothing):
    plain, sharded = heads(kind=kind, margins=(1.2, 0.3, 0.1), subcentres=subcentres, label_smoothing=label_smoothing)
    gradients = []
    for head in (plain, sharded):
        head.warm_up(3)
        for _ in range(2):  # the second with a third of the margin, and norms that have moved
            embedding, label = batch()
            loss = head(embedding, label)
            head.zero_grad()
            loss.backward()
        gradients.append((loss.detach(), embedding.grad, head.centres.grad, head.logits(*batch()), head.cosine(batch()[0])))
    for ours, theirs in zip(*reversed(gradients)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert plain.state_dict().keys() == sharded.state_dict().keys()


def test_the_gradient_is_that_of_the_loss():
    _, head = heads(kind="cosface", margin=0.2, label_smoothing=0.1, logit_scale=5.0)
    embedding, label = batch()
    assert torch.autograd.gradcheck(lambda x, c: with_centres(head, c)(x, label), (embedding, head.centres.detach().requires_grad_()))


def with_centres(head, centres):
    del head._parameters["centres"]
    head._parameters["centres"] = centres
    return head


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_sampled_loss_is_that_of_the_classes_drawn(label_smoothing):
    plain, head = heads({"sample_rate": 0.4, "seed": 7}, label_smoothing=label_smoothing, subcentres=2)
    for step in range(3):
        embedding, label = batch()
        loss = head(embedding, label)
        head.centres.grad = None
        loss.backward()
        drawn = sorted(set(head.centres.grad.coalesce().indices()[0].div(2, rounding_mode="floor").tolist()))
        assert set(label.tolist()) <= set(drawn)
        logits = plain.logits(embedding, label)[:, drawn]
        torch.testing.assert_close(loss, F.cross_entropy(logits, torch.searchsorted(torch.tensor(drawn), label), label_smoothing=label_smoothing))
    assert head.eval()(embedding, label).item() == pytest.approx(plain.eval()(embedding, label).item()), "nothing is drawn but in training"


def test_draws_are_a_function_of_seed_and_step_and_of_the_rate():
    def draws(seed, steps, start=0):
        head = ShardedHead(2, 5000, sample_rate=0.3, seed=seed)
        head.draws.set_extra_state(torch.tensor(start))
        return [head.draws.take(5000, range(5000), torch.tensor([7, 7, 4999])).tolist() for _ in range(steps)]

    three = draws(1, 3)
    assert draws(1, 2, start=1) == three[1:] and three[0] != three[1] and draws(2, 1) != three[:1]
    for drawn in three:
        assert {7, 4999} <= set(drawn) and drawn == sorted(set(drawn))
        assert abs(len(drawn) - 1500) < 5 * (5000 * 0.3 * 0.7) ** 0.5
    def part(own, positive):
        return ShardedHead(2, 5000, sample_rate=0.3, seed=1).draws.take(5000, own, torch.tensor(positive)).add(own.start).tolist()

    assert part(range(0, 1666), [7]) + part(range(1666, 5000), [3333]) == three[0], "shards draw what the whole draws"


def test_rows_are_those_of_torchs_initialiser():
    torch.manual_seed(5)
    whole = nn.init.xavier_uniform_(torch.empty(50, 7))
    after = torch.rand(3)
    for own in (range(0, 50), range(0, 13), range(13, 50), range(20, 40)):
        torch.manual_seed(5)
        torch.testing.assert_close(xavier_rows(50, 7, own, piece=16), whole[own.start : own.stop])
        assert torch.equal(torch.rand(3), after)


def test_divergence_on_one_rank():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (9 * torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(sharded_divergence(ours, theirs, 3.0), softened_divergence(ours, theirs, 3.0))
