"""Cosines against normalising first, gradients included."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from askd.heads.cosine import cosines


def test_as_normalised_first():
    generator = torch.Generator().manual_seed(0)
    unit, centres, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 5), (7, 5), (4, 7)))
    unit = F.normalize(unit)
    centres[2] *= 1e-3
    gradients = []
    for way in (cosines, lambda u, c: F.linear(u, F.normalize(c))):
        u, c = unit.clone().requires_grad_(), centres.clone().requires_grad_()
        result = way(u, c)
        (result * weight).sum().backward()
        gradients.append((result.detach(), u.grad, c.grad))
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradcheck_and_a_centre_of_no_length():
    generator = torch.Generator().manual_seed(0)
    unit, centres = (torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(cosines, (unit, centres))
    nothing = torch.zeros(2, 4, requires_grad=True)
    cosine = cosines(torch.ones(1, 4) / 2, nothing)
    cosine.sum().backward()
    assert not cosine.any() and nothing.grad.isfinite().all()


def test_frozen_centres_get_no_gradient():
    unit = F.normalize(torch.ones(1, 4)).requires_grad_()
    centres = torch.eye(4)
    cosines(unit, centres).sum().backward()
    torch.testing.assert_close(unit.grad, torch.ones(1, 4))
    assert centres.grad is None
