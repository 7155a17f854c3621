"""The weights' moving average: torch's own, what is evaluated and left behind, and the same bits after a resume."""
from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from askd.engine.average import Average
from askd.engine.checkpoint import read_state
from askd.errors import CheckpointError
from toy import STEPS, Toy, read_lines


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_it_is_torchs_averaged_model(decay):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    average = Average({"model": model}, decay)

    def averaged(old, new, count):  # counts from 1 at the second update; the first copies
        d = min(decay, (1 + float(count)) / (10 + float(count)))
        return d * old + (1 - d) * new

    reference = AveragedModel(model, avg_fn=averaged, use_buffers=True)
    reference.update_parameters(model)
    for step in range(1, 60):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean):
                tensor.add_(torch.randn_like(tensor))
        average.update(step)
        reference.update_parameters(model)
    state = average.state_dict()
    for name, expected in reference.module.named_parameters():
        torch.testing.assert_close(state[f"model.{name}"], expected.data, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state["model.1.running_mean"], reference.module[1].running_mean, rtol=1e-12, atol=1e-12)


def test_weights_come_back_after_a_look_at_the_average():
    model = nn.Linear(2, 2)
    average = Average({"model": model}, 0.5)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(ZeroDivisionError), average.swapped_in():
        assert torch.equal(model.weight, start)
        1 / 0
    assert torch.equal(model.weight, start + 1) and torch.equal(average.state_dict()["model.weight"], start)


def test_the_average_is_what_is_evaluated_kept_and_left(tmp_path):
    toy, seen = Toy(), {}

    def evaluate(step):
        seen[step] = toy.head.weight.detach().clone()
        return {"accuracy": 1.0 - abs(step - 20) / 100}

    summary = toy.train(tmp_path, ema=0.9, evaluate=evaluate)
    plain = Toy()
    plain.train(tmp_path / "plain")
    last = read_state(tmp_path / "checkpoints" / f"step_{STEPS:08d}.pt")
    assert torch.equal(last["modules"]["head"]["weight"], plain.head.weight)  # training knows nothing of it
    assert torch.equal(last["average"]["head.weight"], toy.head.weight) and torch.equal(seen[STEPS], toy.head.weight)
    assert not torch.equal(toy.head.weight, plain.head.weight)
    assert torch.equal(read_state(summary.best_path)["modules"]["head"]["weight"], seen[20])
    again = Toy()
    again.train(tmp_path, ema=0.9, evaluate=evaluate)
    assert again.calls == 0 and again.bits() == toy.bits()  # a finished run gives the same weights


def test_interrupted_it_goes_on_to_the_same_bits(tmp_path):
    whole = Toy()
    whole.train(tmp_path / "whole", ema=0.95)
    for _ in range(4):
        toy = Toy()

        def unit(batch):
            if toy.calls == 8:
                raise ConnectionError
            return toy.unit(batch)

        with pytest.raises(ConnectionError):
            toy.train(tmp_path / "parts", ema=0.95, unit=unit)
    last = Toy()
    last.train(tmp_path / "parts", ema=0.95)
    assert last.bits() == whole.bits() and last.calls < STEPS
    assert [line["step"] for line in read_lines(tmp_path / "parts")] == [line["step"] for line in read_lines(tmp_path / "whole")]


def test_a_checkpoint_without_it_is_of_another_run(tmp_path):
    Toy().train(tmp_path, steps=3)
    with pytest.raises(CheckpointError, match="is of another run"):
        Toy().train(tmp_path, ema=0.9)
