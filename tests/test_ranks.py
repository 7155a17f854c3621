"""One, two and four processes train alike: losses, gradients, weights and running statistics, up to the order of floating-point sums."""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from askd.collectives import Ranks, rank, world_size
from askd.distiller import Distiller, Trunk
from askd.engine.gradient import clip_gradient
from askd.engine.loop import train
from askd.engine.optimizer import make_optimizer
from askd.engine.precision import choose_precision
from askd.engine.rows import update_seen_rows
from askd.engine.shards import sharded_parameters, whole_optimizer_state, whole_state
from askd.engine.step import Stepper
from askd.engine.trace import LossTrace
from askd.heads.classifier import MarginHead
from askd.heads.sharded import ShardedHead
from askd.models.ensemble import Ensemble
from askd.models.iresnet import IResNet
from askd.models.sync_bn import synchronise_batch_norms
from askd.recipe import load
from askd.teach import train_role
from askd.teachers import Frozen
from askd.terms import attention_term, logit_term, relation_term
from ranks import on_ranks
from tiny import World, world  # noqa: F401, fixtures

CPU = torch.device("cpu")
CLASSES = 11  # which neither 2 nor 4 ranks divide
BATCHES = (10, 10, 5)  # nor these; the last is an epoch's incomplete one


@dataclass(frozen=True)
class Case:
    """A training of three steps: student with A-SKD, relations and, where all classes are seen, KD."""

    dtype: torch.dtype
    sharded: bool = True
    kind: str = "adaface"
    sample_rate: float = 1.0
    subcentres: int = 1
    label_smoothing: float = 0.0
    optimizer: str = "sgd"


DOUBLE, SINGLE = torch.float64, torch.float32
ESSENTIAL = [Case(DOUBLE), Case(DOUBLE, sample_rate=0.4), Case(SINGLE)]
CASES = [
    *ESSENTIAL, Case(DOUBLE, sharded=False), Case(SINGLE, sharded=False),
    Case(DOUBLE, kind="combined", sample_rate=0.4, subcentres=2, label_smoothing=0.1, optimizer="adamw"),
]


def network(seed: int, dtype: torch.dtype) -> IResNet:
    torch.manual_seed(seed)
    return IResNet((1, 1, 1, 1), (4, 6, 8, 10), stem_stride=2, attention="cbam", reduction=2, embedding=8).to(dtype)


def trained(case: Case) -> dict[str, Any]:
    """The losses and gradients of each step, and what is left at the end."""
    ranks = Ranks(even=False)
    options = dict(
        margin=0.4, kind=case.kind, margins=(1.1, 0.3, 0.1), subcentres=case.subcentres, label_smoothing=case.label_smoothing, ranks=ranks,
    )
    teacher, student = Frozen(network(1, case.dtype), CPU), network(2, case.dtype)
    if case.sharded and (world_size() > 1 or case.sample_rate < 1):
        heads = [ShardedHead(8, CLASSES, **options, sample_rate=case.sample_rate, seed=5) for _ in range(2)]
    else:
        heads = [MarginHead(8, CLASSES, **options) for _ in range(2)]
    head, theirs = (each.to(case.dtype) for each in heads)
    head.warm_up(2)
    terms = {"attention": (5.0, attention_term("maps", "mean", 1.0, 1.0)), "relation": (1.0, relation_term(1.0, 2.0, 0.5, ranks))}
    if case.sample_rate == 1:
        terms["logit"] = (0.1, logit_term(4.0, "margin", "learnt", (head, theirs.requires_grad_(False).eval())))
    whole = {"relation"} | ({"identity", "logit"} if isinstance(head, ShardedHead) else set())
    trunk = synchronise_batch_norms(Trunk(student), CPU)
    wrapped = [DistributedDataParallel(trunk) if world_size() > 1 else trunk, head]
    if world_size() > 1 and not case.sharded:
        wrapped[1] = DistributedDataParallel(head)
    distiller = Distiller(*wrapped, teacher, terms, ranks=ranks, of_whole_batch=whole)
    optimizer = make_optimizer([trunk, head], case.optimizer, lr=0.01)
    update_seen_rows(optimizer)
    shards = sharded_parameters([head])
    parameters, steps = [*trunk.parameters(), *head.parameters()], []
    generator = torch.Generator().manual_seed(0)
    for size in BATCHES:
        hr, lr = (torch.rand(size, 3, 112, 112, generator=generator).mul(2).sub(1).to(case.dtype) for _ in range(2))
        label = torch.randint(CLASSES, (size,), generator=generator)
        own = slice(size * rank() // world_size(), size * (rank() + 1) // world_size())
        optimizer.zero_grad()
        parts = distiller(hr[own], lr[own], label[own])
        parts["loss"].backward()
        norm = clip_gradient(parameters, 5.0, shards)
        means = torch.stack([part.detach() for part in parts.values()])
        if world_size() > 1:
            distributed.all_reduce(means)
        steps.append({
            "parts": means / world_size(), "norm": norm.detach(),
            "gradient": torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None]),
        })
        optimizer.step()
    return {
        "steps": steps, "trunk": trunk.state_dict(), "head": whole_state(head),
        "optimizer": whole_optimizer_state(optimizer, shards)["state"],
    }


def all_trained(cases: list[Case]) -> list[dict[str, Any]]:
    return [trained(case) for case in cases]


def assert_alike(ours: Any, theirs: Any, tolerance: float, where: str = "") -> None:
    """Equal to `tolerance` of the largest number in each tensor, or of 0.01 where all are near 0 (the gradient before a batch norm)."""
    if isinstance(theirs, Tensor):
        assert ours.shape == theirs.shape, where
        if theirs.is_floating_point():
            largest = theirs.abs().max().clamp_min(1e-2) if theirs.numel() else 0
            assert ((ours - theirs).abs() <= tolerance * largest).all(), f"{where}: {(ours - theirs).abs().max() / largest:.2g}"
        else:
            assert torch.equal(ours, theirs), where
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_alike(ours[key], theirs[key], tolerance, f"{where} {key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for number, pair in enumerate(zip(ours, theirs)):
            assert_alike(*pair, tolerance, f"{where} {number}")
    else:
        assert ours == theirs, where


@pytest.fixture(scope="module")
def alone() -> dict[Case, dict]:
    """Every case on one process, where a batch norm is torch's own and the head holds everything."""
    torch.set_num_threads(1)
    return {case: trained(case) for case in CASES}


@pytest.mark.parametrize("processes, cases", [(2, CASES), (4, ESSENTIAL)])
def test_steps_do_not_depend_on_the_number_of_processes(processes, cases, alone, tmp_path):
    results = on_ranks(processes, all_trained, tmp_path, cases)
    for number, case in enumerate(cases):
        tolerance = 1e-10 if case.dtype == DOUBLE else 1e-5
        if case.optimizer == "adamw":  # which divides gradients that are 0 but for rounding, those before a batch norm, by 1e-8
            tolerance = 1e-6
        assert_alike(results[0][number], alone[case], tolerance, str(case))
        for result in results[1:]:  # head and optimiser are whole on rank 0 only
            assert_alike(result[number]["steps"], alone[case]["steps"], tolerance, str(case))
            assert_alike(result[number]["trunk"], results[0][number]["trunk"], 0.0, str(case))


class Toy:
    """A layer and a head for train(): seven rows a batch; stopped and resumed on any number of ranks."""

    batch_size = 7

    def iterate(self, start: int):
        while True:
            generator = torch.Generator().manual_seed(start)
            rows, label = torch.randn(7, 6, generator=generator, dtype=DOUBLE), torch.randint(CLASSES, (7,), generator=generator)
            own = slice(7 * rank() // world_size(), 7 * (rank() + 1) // world_size())
            yield rows[own], label[own]
            start += 1

    def skipped(self, batch) -> list[str]:
        return []

    def cut(self, batch, parts: int) -> list:
        return [batch]


def toy_trained(folder: Path, stops: list[tuple[int, str]], sample_rate: float, optimizer: str) -> dict[str, Any]:
    """Trains to each stop in turn, there anew in `folder`/name: ends as training once to the last does."""
    for steps, name in stops:
        torch.manual_seed(0)
        ranks = Ranks(even=False)
        layer = nn.Linear(6, 6).double()
        head = ShardedHead(6, CLASSES, kind="adaface", subcentres=2, sample_rate=sample_rate, seed=3, ranks=ranks).double()
        head.warm_up(9)
        trunk = DistributedDataParallel(layer) if world_size() > 1 else layer
        optim = make_optimizer([layer, head], optimizer, lr=0.05)
        update_seen_rows(optim)
        train(
            unit=lambda batch: {"loss": head(trunk(batch[0]), batch[1])}, modules={"layer": layer, "head": head}, batches=Toy(),
            optimizer=optim, schedule=lambda step: 1.0, steps=steps, precision=choose_precision("fp32", "cpu"), clip=1.0,
            folder=folder / name, checkpoint_every=0, log_every=2, evaluate=lambda step: {"good": step / 100}, select="good",
            ema=0.9,
        )
    return {"layer": layer.state_dict(), "head": whole_state(head), "state": whole_optimizer_state(optim, sharded_parameters([head]))["state"]}


@pytest.mark.parametrize("sample_rate, optimizer", [(1.0, "adamw"), (0.4, "sgd")])
def test_a_checkpoint_is_recut_for_another_number_of_ranks(sample_rate, optimizer, tmp_path):
    def alone(stops):
        return toy_trained(tmp_path, stops, sample_rate, optimizer)

    whole = alone([(8, "never stopped")])
    alone([(3, "one, two")])
    stops = [(4, "two, one"), (8, "one, two")]
    assert_alike(on_ranks(2, toy_trained, tmp_path / "ranks", tmp_path, stops, sample_rate, optimizer)[0], whole, 1e-10, "one, two")
    assert_alike(alone([(8, "two, one")]), whole, 1e-10, "two, one")
    best = torch.load(tmp_path / "two, one" / "checkpoints" / "best.pt", weights_only=True)
    assert best["modules"]["head"]["centres"].shape == (2 * CLASSES, 6)


def overflown() -> tuple[int, float, bool]:
    """A step whose gradient overflows on the last rank's shard alone: how many were skipped, the scale, whether the layer stood still."""
    torch.manual_seed(0)
    layer, head = nn.Linear(4, 4), ShardedHead(4, CLASSES, ranks=Ranks())
    before = layer.weight.detach().clone()
    head.centres.register_hook(lambda gradient: gradient * (torch.inf if rank() == world_size() - 1 else 1))
    optimizer = make_optimizer([layer, head], "sgd", lr=0.1)
    stepper = Stepper(
        lambda batch: {"loss": head(layer(batch), torch.arange(len(batch)))}, optimizer, lambda step: 1.0,
        dataclasses.replace(choose_precision("fp32", "cpu"), scaler=True), None, LossTrace(None), shards=sharded_parameters([head]),
    )
    stepper.take(0, torch.ones(4, 4))
    return stepper.skipped(), stepper.scaler.get_scale(), torch.equal(layer.weight, before)


def few_drawn() -> dict[str, Tensor]:
    """The loss where of the last ranks' classes none is drawn, and what it gives the embeddings of the first rank."""
    torch.manual_seed(0)
    head = ShardedHead(4, CLASSES, sample_rate=1e-9, ranks=Ranks()).double()
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(4, 4, generator=generator, dtype=DOUBLE).chunk(world_size())[rank()].requires_grad_()
    loss = head(embedding, torch.tensor([0, 1, 2, 0]).chunk(world_size())[rank()])
    loss.backward()
    return {"loss": loss.detach(), "embedding": embedding.grad[:2] / world_size(), "rows": head.centres.grad.coalesce().indices()}


def ensemble_step(synchronised: bool) -> dict[str, Tensor]:
    """The gradient of a loss on five images by an ABE-2 of which the ranks see two and three, and its running statistics."""
    torch.manual_seed(3)
    ensemble = Ensemble(lambda: IResNet((1, 1, 1, 1), (4, 6, 8, 10), stem_stride=2, embedding=4), learners=2).double()
    trunk = synchronise_batch_norms(Trunk(ensemble), CPU) if synchronised else Trunk(ensemble)
    trunk = DistributedDataParallel(trunk) if world_size() > 1 else trunk
    images, target = torch.randn(5, 3, 112, 112).double(), torch.randn(5, 8).double()
    own = slice(5 * rank() // world_size(), 5 * (rank() + 1) // world_size())
    ((trunk(images[own]).embedding * target[own]).sum() * world_size() / 5).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in ensemble.parameters() if parameter.requires_grad])
    return {"gradient": gradient, **{name: buffer.clone() for name, buffer in ensemble.named_buffers()}}


def timm_norm() -> Tensor:
    """Five images through timm's batch norm with an activation of its own, of which the ranks see two and three."""
    torch.manual_seed(4)
    images = torch.randn(5, 3, 4, 4).double()
    norm = synchronise_batch_norms(nn.Sequential(BatchNormAct2d(3)).double(), CPU)
    return norm(images[5 * rank() // world_size() : 5 * (rank() + 1) // world_size()]).detach()


def with_two_ranks(recipe: Path, data_out: Path) -> dict[str, Any]:
    """One process spawn for all that two ranks are needed for besides."""
    ensembles = {synchronised: ensemble_step(synchronised) for synchronised in (True, False)}
    return {"overflow": overflown(), "few": few_drawn(), "ensembles": ensembles, "timm": timm_norm(), "verbs": verbs(recipe, data_out)}


def verbs(recipe: Path, out: Path) -> dict[str, float]:
    """Teacher and student of the small world; the batch is one that two ranks share unevenly, and so is the last one of an epoch."""
    given = load([
        f"recipe={recipe}", f"out={out}", "precision=fp32", "train.batch=11", "data.drop_last=false", "train.sync_bn=true", "data.workers=0",
        "head.kind=adaface", "head.margin=0.4", "distill.relation.weight=1", "distill.logit.weight=0.1", "train.optimizer=sgd", "train.lr=0.002",
    ])
    teacher = train_role(given, "teacher", CPU)
    return {"teacher": teacher, "student": train_role(given, "student", CPU, teacher)}


def test_the_verbs_train_alike_on_two_processes(world, tmp_path):  # noqa: F811
    results = on_ranks(2, with_two_ranks, tmp_path / "ranks", world.recipe, tmp_path / "two")
    assert [result["overflow"] for result in results] == [(1, 32768.0, True)] * 2
    assert_alike(results[0]["few"], few_drawn(), 1e-12)
    assert results[1]["few"]["rows"].shape == (1, 0)
    assert_alike(torch.cat([result["timm"] for result in results]), timm_norm(), 1e-12, "timm's")
    alone = ensemble_step(True)
    for result in results:
        assert_alike(result["ensembles"][True], alone, 1e-10, "ensemble")
    with pytest.raises(AssertionError):  # without it every rank has statistics of its own
        assert_alike(results[0]["ensembles"][False], alone, 1e-2)
    for role, folder in verbs(world.recipe, tmp_path / "one").items():
        two = results[0]["verbs"][role]
        for name in ("model.safetensors", "head.safetensors"):
            assert_alike(load_file(two / name), load_file(folder / name), 1e-2, f"{role} {name}")
        lines = [[json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()] for at in (two, folder)]
        for ours, theirs in zip(*lines, strict=True):
            measured = {key: value for key, value in theirs.items() if key not in ("time", "images_per_second")}
            assert measured.keys() <= ours.keys()
            for key, value in measured.items():
                assert ours[key] == pytest.approx(value, rel=1e-2, abs=1e-2), (role, theirs["step"], key)
