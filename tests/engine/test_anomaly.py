"""debug.anomaly: the module that makes the first non-finite number is named, forward and backward, and no other."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from askd.engine.anomaly import named_anomalies
from askd.engine.precision import choose_precision
from askd.errors import TrainingError
from toy import Toy


class Reciprocal(nn.Module):
    """1 / x, infinite at 0."""

    def forward(self, x):
        return 1 / x


class Root(nn.Module):
    """sqrt(x), of infinite slope at 0."""

    def forward(self, x):
        return x.sqrt()


def network(middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(middle, nn.Linear(4, 4)), nn.Linear(4, 2))
    nn.init.zeros_(net[0].weight), nn.init.zeros_(net[0].bias)
    return net


def test_the_module_that_makes_an_infinity_is_named():
    net = network(Reciprocal())
    with pytest.raises(TrainingError, match=r"the output of net\.1\.0 \(Reciprocal\) is not finite, of a finite input.*\(5, 3\)|\(5, 4\)") as raised:
        with named_anomalies({"net": net}):
            net(torch.randn(5, 3))
    assert "\n" not in str(raised.value)
    net(torch.randn(5, 3))  # outside, nobody looks any more
    assert not any(part._forward_hooks or part._backward_hooks for part in net.modules())


def test_a_gradient_is_traced_to_the_module_that_made_it():
    net = network(Root())
    with named_anomalies({"net": net}):
        loss = net(torch.randn(5, 3)).sum()
        assert torch.isfinite(loss)
        with pytest.raises(TrainingError, match=r"net\.1\.0 \(Root\) makes a non-finite gradient for its input of a finite one"):
            loss.backward()
    with named_anomalies({"net": net}, gradients=False):
        net(torch.randn(5, 3)).sum().backward()


def test_a_gradient_that_comes_from_a_loss_is_said_to():
    net = network(nn.ReLU())
    with named_anomalies({"net": net}):
        out = net(torch.randn(5, 3))
        with pytest.raises(TrainingError, match=r"the gradient that reaches net\.2 \(Linear\) is not finite; what follows it, a loss"):
            ((out - out.detach()).square().sum()).sqrt().backward()


def test_broken_weights_and_broken_images_are_told_apart():
    net = network(nn.ReLU())
    with named_anomalies({"net": net}):
        with pytest.raises(TrainingError, match=r"net\.0 \(Linear\) .* so is its input"):
            net(torch.full((2, 3), float("nan")))
        nn.init.constant_(net[1][1].bias, float("inf"))
        with pytest.raises(TrainingError, match=r"net\.1\.1 \(Linear\) .* its weights are not finite: an earlier step broke them"):
            net(torch.randn(2, 3))


def test_in_the_loop_it_speaks_before_the_loss_does(tmp_path):
    toy = Toy()

    def unit(batch):
        if toy.calls == 8:
            nn.init.constant_(toy.head.bias, float("nan"))
        return toy.unit(batch)

    with pytest.raises(TrainingError, match=r"debug.anomaly: the output of head \(Linear\) is not finite, its weights"):
        toy.train(tmp_path, unit=unit, anomaly=True)
    plain = Toy()
    plain.train(tmp_path / "plain", steps=12, evaluate=None, select=None)
    watched = Toy()
    watched.train(tmp_path / "watched", steps=12, evaluate=None, select=None, anomaly=True)
    assert plain.bits() == watched.bits()
    Toy().train(tmp_path / "fp16", steps=12, evaluate=None, select=None, anomaly=True, precision=choose_precision("fp16", "cpu"))
