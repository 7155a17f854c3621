"""One step: micro-batches take the step of the whole batch, gradients are watched, and nothing waits for the device."""
from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from askd.distiller import Distiller, Trunk
from askd.engine.average import Average
from askd.engine.checkpoint import Checkpoints
from askd.engine.optimizer import make_optimizer
from askd.engine.precision import choose_precision
from askd.engine.step import Stepper
from askd.engine.trace import LossTrace
from askd.errors import TrainingError
from askd.heads.classifier import MarginHead
from askd.models import make_backbone
from askd.teachers import Frozen
from askd.terms import TERMS


def make_stepper(tmp_path, unit, optimizer, **options) -> Stepper:
    options = {"precision": choose_precision("fp32", "cpu"), "clip": None, **options}
    return Stepper(unit, optimizer, lambda step: 1.0, trace=LossTrace(Checkpoints(tmp_path)), **options)


def cut(batch: tuple, parts: int) -> list[tuple]:
    return list(zip(*(tensor.chunk(parts) for tensor in batch)))


def train(tmp_path, parts: int, steps: int = 6, norm: bool = False) -> tuple[list[Tensor], dict]:
    """A network with a margin head whose margin grows meanwhile, in float64, batches of 12; its weights and the loss's mean."""
    torch.manual_seed(0)
    layers = [nn.Linear(5, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.PReLU(8), nn.Linear(8, 6)]
    trunk, head = nn.Sequential(*layers).double(), MarginHead(6, 4, logit_scale=8)
    head.warm_up(4, parts)
    modules = [trunk, head]

    def unit(batch):
        image, label = batch
        return {"loss": head(trunk(image).float(), label)}

    optimizer = make_optimizer(modules, lr=0.05)
    stepper = make_stepper(tmp_path, unit, optimizer, clip=1.0, cut=(lambda batch: cut(batch, parts)) if parts > 1 else None)
    for step in range(steps):
        stepper.take(step, (torch.randn(12, 5, dtype=torch.float64), torch.randint(4, (12,))))
    return [p.detach() for module in modules for p in module.parameters()], stepper.trace.drain()


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_micro_batches_take_the_step_of_the_batch(tmp_path, parts):
    (whole, said), (pieces, in_parts) = train(tmp_path, 1), train(tmp_path, parts)
    for ours, theirs in zip(pieces, whole):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)
    assert in_parts == pytest.approx(said, rel=1e-5) and set(said) == {"loss", "grad_norm"}


def test_batch_norm_sees_a_micro_batch(tmp_path):
    """What the schema says of it: the weights are others, and the running mean is moved once for each part."""
    (whole, _), (pieces, _) = train(tmp_path, 1, norm=True), train(tmp_path, 3, norm=True)
    assert any((ours - theirs).abs().max() > 1e-4 for ours, theirs in zip(pieces, whole))
    norm, batch = nn.BatchNorm1d(5), torch.randn(12, 5)
    weight = nn.Parameter(torch.ones(()))
    stepper = make_stepper(
        tmp_path, lambda piece: {"loss": (weight * norm(piece)).sum()}, torch.optim.SGD([weight], lr=0.1), cut=lambda b: b.chunk(3)
    )
    stepper.take(0, batch)
    expected = torch.zeros(5)
    for piece in batch.chunk(3):
        expected = 0.9 * expected + 0.1 * piece.mean(0)
    torch.testing.assert_close(norm.running_mean, expected)


def test_only_the_last_micro_batch_talks_to_other_processes(tmp_path):
    weight, inside, talked = nn.Parameter(torch.ones(())), [], []

    @contextmanager
    def unsynced():
        inside.append(1)
        yield
        inside.pop()

    def unit(piece):
        talked.append(not inside)
        return {"loss": weight * piece.mean()}

    stepper = make_stepper(tmp_path, unit, torch.optim.SGD([weight], lr=0.1), cut=lambda b: b.chunk(4), unsynced=unsynced)
    stepper.take(0, torch.arange(8.0))
    assert talked == [False, False, False, True] and weight.item() == pytest.approx(1 - 0.1 * 3.5)


def test_a_bad_micro_batch_stops_with_its_own_parts(tmp_path):
    weight = nn.Parameter(torch.ones(()))
    stepper = make_stepper(
        tmp_path, lambda piece: {"loss": weight * piece.sum(), "part": piece.sum()}, torch.optim.SGD([weight], lr=0.1), cut=lambda b: b.chunk(2)
    )
    with pytest.raises(TrainingError, match="non-finite loss at step 1: loss nan, part nan; .* debug.anomaly=true names the module"):
        stepper.take(0, torch.tensor([float("nan"), 1.0]))
    assert weight.item() == 1


def test_a_gradient_is_watched_without_clipping_too(tmp_path):
    weight = nn.Parameter(torch.zeros(3))
    stepper = make_stepper(tmp_path, lambda batch: {"loss": weight.square().sum().sqrt()}, torch.optim.SGD([weight], lr=0.1))
    with pytest.raises(TrainingError, match="non-finite grad_norm at step 1: loss 0, grad_norm nan"):
        stepper.take(0, None)
    assert torch.equal(weight, torch.zeros(3))


def test_gradients_that_no_scale_saves_end_the_training(tmp_path):
    weight = nn.Parameter(torch.tensor(1.0))
    stepper = make_stepper(
        tmp_path, lambda batch: {"loss": (weight - weight.detach()).square().sqrt()}, torch.optim.SGD([weight], lr=0.1), precision=choose_precision("fp16", "cpu")
    )
    for step in range(16):
        stepper.take(step, None)  # 0, of slope 0 * inf
        assert stepper.skipped() == step + 1  # from 65536 down to 1
    stepper.take(16, None)
    with pytest.raises(TrainingError, match=r"overflow fp16 even unscaled \(17 steps skipped so far\); use precision=bf16"):
        stepper.skipped()
    assert weight.item() == 1


TEACHING = {
    "attention": dict(space="maps", reduction="mean", channel=1.0, spatial=1.0),
    "feature": dict(distance="cosine", hint="none", stages=[1, 4]),
    "relation": dict(distance=1.0, angle=2.0, cross=1.0),
    "embedding": dict(distance="cosine", projection="none"),
}


@pytest.mark.parametrize("kind", ["arcface", "cosface", "adaface", "combined"])
def test_a_step_never_waits_for_its_device(tmp_path, monkeypatch, kind):
    """On torch's meta device, whose tensors have no numbers: whoever asks for one, as `.item()`, an `if` or a copy to the host do, raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    student, teacher = (make_backbone("iresnet10", attention="cbam", embedding=32) for _ in range(2))
    head = MarginHead(32, 10, kind=kind)
    head.warm_up(5, 2)
    for module in (student, head):
        module.to("meta")
    terms = {name: (1.0, TERMS[name](**options)) for name, options in TEACHING.items()}
    distiller = Distiller(Trunk(student), head, Frozen(teacher, torch.device("meta")), terms)
    average = Average({"trunk": student, "head": head}, 0.99)
    optimizer = torch.optim.SGD([*student.parameters(), *head.parameters()], lr=0.1, momentum=0.9, foreach=True)  # fused refuses meta
    stepper = make_stepper(
        tmp_path, lambda batch: distiller(*batch), optimizer, clip=1.0, cut=lambda batch: cut(batch, 2),
        precision=choose_precision("fp32", "meta"),
    )
    images = [torch.empty(8, 3, 112, 112, device="meta") for _ in range(2)]
    batch = (*images, torch.empty(8, dtype=torch.long, device="meta"))
    for step in range(2):
        stepper.take(step, batch)
        average.update(step + 1)
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
    with pytest.raises(NotImplementedError, match="meta"):  # what would wait does raise
        stepper.trace.check()
