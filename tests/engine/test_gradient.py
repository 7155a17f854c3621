"""Clipping over sparse gradients against torch's over dense ones."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from askd.engine.gradient import clip_gradient


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_a_sparse_gradient_counts_as_the_dense_one_it_is(limit):
    rows = torch.tensor([1, 4, 1])
    norms, gradients = [], []
    for sparse in (True, False):
        torch.manual_seed(0)
        table, layer = nn.Embedding(6, 3, sparse=sparse), nn.Linear(3, 2)
        layer(table(rows)).square().sum().backward()
        parameters = [table.weight, *layer.parameters()]
        norms.append(clip_gradient(parameters, limit, {table.weight}) if sparse else nn.utils.clip_grad_norm_(parameters, limit))
        gradients.append([p.grad.to_dense() for p in parameters])
    torch.testing.assert_close(norms[0], norms[1])
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs)


def test_a_parameter_without_gradient_is_passed_over():
    layer, frozen = nn.Linear(2, 2), nn.Parameter(torch.ones(3))
    layer(torch.ones(1, 2)).sum().backward()
    assert clip_gradient([*layer.parameters(), frozen], 1.0, {frozen}) == pytest.approx(6**0.5)
