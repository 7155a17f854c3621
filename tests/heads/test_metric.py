"""Contrastive and triplet losses against their equations, pair by pair and triplet by triplet."""
from __future__ import annotations

import sys

import pytest
import torch

from askd.errors import RecipeError
from askd.heads.metric import MetricHead


def draw(seed=0, images=8, width=4, people=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, width, generator=generator), torch.randint(people, (images,), generator=generator)


def squared_distances(embedding):
    unit = [[x / sum(y * y for y in row) ** 0.5 for x in row] for row in embedding.double().tolist()]
    return [[sum((a - b) ** 2 for a, b in zip(p, q)) for q in unit] for p in unit]


def contrastive_by_hand(embedding, label, margin):
    """Mean over genuine pairs of d^2, plus mean over impostor pairs of max(0, margin - d^2): ABE's loss of equally many of both, twice."""
    d2, everyone = squared_distances(embedding), range(len(label))
    genuine = [d2[i][j] for i in everyone for j in everyone if i != j and label[i] == label[j]]
    impostor = [max(0.0, margin - d2[i][j]) for i in everyone for j in everyone if label[i] != label[j]]
    return sum(sum(found) / len(found) for found in (genuine, impostor) if found)


def triplet_by_hand(embedding, label, margin):
    d2, everyone = squared_distances(embedding), range(len(label))
    found = [
        d2[a][p] - d2[a][n] + margin for a in everyone for p in everyone for n in everyone
        if a != p and label[a] == label[p] and label[a] != label[n]
    ]
    above = [loss for loss in found if loss > 0]
    return sum(above) / len(above) if above else 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind, margin, by_hand", [
    ("contrastive", 1.0, contrastive_by_hand), ("contrastive", 2.5, contrastive_by_hand), ("triplet", 0.2, triplet_by_hand),
])
def test_equals_its_equation(kind, margin, by_hand, seed):
    embedding, label = draw(seed)
    assert MetricHead(kind, margin)(embedding, label).item() == pytest.approx(by_hand(embedding, label.tolist(), margin), abs=1e-5)
    assert MetricHead(kind, margin)(5 * embedding, label).item() == pytest.approx(by_hand(embedding, label.tolist(), margin), abs=1e-5)


def test_a_step_draws_a_person_s_images_together():
    for kind in ("contrastive", "triplet"):
        embedding, label = draw(1)
        embedding.requires_grad_(True)
        loss = MetricHead(kind, 1.0)(embedding, label)
        loss.backward()
        assert embedding.grad.isfinite().all()
        assert MetricHead(kind, 1.0)(embedding.detach() - 0.05 * embedding.grad, label) < loss


def test_nothing_to_learn_and_nothing_to_store():
    assert MetricHead("triplet", 0.2).state_dict() == {} and not list(MetricHead("triplet", 0.2).parameters())


def test_equal_images_have_a_finite_gradient():
    embedding = torch.ones(4, 3, requires_grad=True)
    MetricHead("contrastive", 1.0)(embedding, torch.tensor([0, 0, 1, 1])).backward()
    assert embedding.grad.isfinite().all()


def test_unknown_kinds_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match="unknown metric loss 'quadruplet'; choose from contrastive, triplet"):
        MetricHead("quadruplet", 1.0)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(RecipeError, match=r"pip install 'askd\[metric\]'"):
        MetricHead("triplet", 0.2)
