"""Rows without a gradient stand still, the others move as the plain optimiser moves them."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from askd.engine.optimizer import make_optimizer
from askd.engine.rows import update_seen_rows


def trained(name: str, batches: list[list[int]]) -> tuple[nn.Embedding, torch.optim.Optimizer]:
    torch.manual_seed(0)
    table, target = nn.Embedding(6, 3, sparse=True).double(), torch.arange(18.0).view(6, 3).double()
    optimizer = make_optimizer([table], name, lr=0.1)
    update_seen_rows(optimizer)
    for rows in batches:
        rows = torch.tensor(rows, dtype=torch.long)
        optimizer.zero_grad()
        (table(rows) - target[rows]).square().sum().backward()
        optimizer.step()
    return table, optimizer


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_with_every_row_it_is_the_plain_optimiser(name):
    table, optimizer = trained(name, [list(range(6))] * 3)
    torch.manual_seed(0)
    plain, target = nn.Embedding(6, 3).double(), torch.arange(18.0).view(6, 3).double()
    reference = make_optimizer([plain], name, lr=0.1)
    for _ in range(3):
        reference.zero_grad()
        (plain.weight - target).square().sum().backward()
        reference.step()
    torch.testing.assert_close(table.weight, plain.weight, rtol=1e-12, atol=1e-12)
    ours, theirs = optimizer.state_dict(), reference.state_dict()
    assert str(ours["param_groups"]) == str(theirs["param_groups"])
    assert ours["state"][0].keys() == theirs["state"][0].keys()
    for key, value in theirs["state"][0].items():
        torch.testing.assert_close(ours["state"][0][key], value, rtol=1e-12, atol=1e-12)


def test_sgd_row_by_row_is_as_if_each_row_had_had_its_own_steps():
    table, optimizer = trained("sgd", [[0, 2], [2, 2, 5], [], [0, 5]])
    alone, _ = trained("sgd", [[0], [0]])  # steps are not counted, so a row knows its own only
    torch.testing.assert_close(table.weight[0], alone.weight[0])
    torch.manual_seed(0)
    untouched = nn.Embedding(6, 3).double().weight
    assert torch.equal(table.weight[[1, 3, 4]], untouched[[1, 3, 4]])
    assert not optimizer.state[table.weight]["momentum_buffer"][[1, 3, 4]].any()
    assert list(optimizer.state) == [table.weight] and optimizer.param_groups[0]["params"] == [table.weight]


def test_adamw_keeps_what_it_knows_of_a_row_that_is_not_seen():
    table, optimizer = trained("adamw", [[0, 2]])
    before = {key: value.clone() for key, value in optimizer.state[table.weight].items()}
    rows = torch.tensor([2])
    optimizer.zero_grad()
    table(rows).sum().backward()
    optimizer.step()
    after = optimizer.state[table.weight]
    assert after["step"] == before["step"] + 1
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(after[key][0], before[key][0]) and not torch.equal(after[key][2], before[key][2])
