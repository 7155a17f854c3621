"""The sharded classifier's cost: against the plain one, with a million classes against the backbone's step, and its memory per rank.

    OMP_NUM_THREADS=1 python benchmarks/shards.py [out=benchmarks/results/shards.jsonl] [classes=10000] [many=1000000] [batch=64] [rounds=5]

Times are processor time per step and rank (forward, backward, clipping, update), so that other work on the machine counts little: the
alternatives take turns, `rounds` times, and the median counts. Nothing is asserted: read the ratios. Memory: what the tensors hold (exact),
and by how much the process grew at most while it trained. `many` classes take about 5 GB of memory; give fewer where there is less.
"""
from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from askd.collectives import rank, world_size
from askd.engine.gradient import clip_gradient
from askd.engine.optimizer import make_optimizer
from askd.engine.rows import update_seen_rows
from askd.engine.shards import sharded_parameters
from askd.heads.classifier import MarginHead
from askd.heads.sharded import ShardedHead
from askd.models import make_backbone

WIDTH = 512
OPTIONS = {"out": "", "classes": "10000", "many": "1000000", "batch": "64", "rounds": "5", "backbone": "iresnet50", "backbone_batch": "8"}


def head_step(head: nn.Module, batch: int, called: nn.Module | None = None) -> Callable[[], None]:
    """One training step of a head alone; `batch` is the whole batch, of which this rank brings its part; called: the head under DDP."""
    optimizer = make_optimizer([head], "sgd", lr=0.1)
    update_seen_rows(optimizer)
    shards, generator = sharded_parameters([head]), torch.Generator().manual_seed(rank())
    rows = batch // world_size()
    label = torch.randint(head.classes, (rows,), generator=generator)

    def step() -> None:
        embedding = torch.randn(rows, WIDTH, generator=generator).requires_grad_()
        optimizer.zero_grad()
        (called or head)(embedding, label).backward()
        clip_gradient([head.centres], 5.0, shards)
        optimizer.step()

    return step


def trunk_step(name: str, batch: int) -> Callable[[], None]:
    """One training step of a backbone alone, in float32."""
    backbone = make_backbone(name, attention="cbam").to(memory_format=torch.channels_last)
    optimizer, image = make_optimizer([backbone], "sgd", lr=0.1), torch.randn(batch, 3, 112, 112).to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        backbone(image).square().mean().backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 5.0)
        optimizer.step()

    return step


def seconds(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Each step's processor time, the median of several that take turns, after one each to warm up."""
    taken = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            step()
            if number:
                taken[name].append(time.process_time() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def resident(peak: bool = False) -> int:
    """Bytes of memory that the process holds, or held at most since `forget_peak`."""
    word = "VmHWM:" if peak else "VmRSS:"
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(word))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def against_the_plain_head(classes: int, batch: int, rounds: int) -> dict[str, float]:
    """Processor time per rank of plain (under DDP where there are several ranks) and sharded head."""
    plain, sharded = MarginHead(WIDTH, classes), ShardedHead(WIDTH, classes)
    called = DistributedDataParallel(plain) if world_size() > 1 else plain
    times = seconds({"plain": head_step(plain, batch, called), "sharded": head_step(sharded, batch)}, rounds)
    if world_size() > 1:
        total = torch.tensor(list(times.values()))
        distributed.all_reduce(total)
        times = dict(zip(times, (total / world_size()).tolist()))
    return times


def alone(classes: int, batch: int, sample_rate: float, rounds: int) -> dict[str, float]:
    """A sharded head of one rank: processor time, memory held and memory at most, on top of what the process, a new one, had before."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measured_alone, classes, batch, sample_rate, rounds).result()


def measured_alone(classes: int, batch: int, sample_rate: float, rounds: int) -> dict[str, float]:
    torch.set_num_threads(1)
    head_step(ShardedHead(WIDTH, 2000, sample_rate=sample_rate), batch)()  # what the first step loads for good
    before = resident()
    head = ShardedHead(WIDTH, classes, sample_rate=sample_rate)
    step = head_step(head, batch)
    step()
    forget_peak()
    time_ = seconds({"head": step}, rounds)["head"]
    head.centres.grad = None
    return {"seconds": time_, "held": resident() - before, "most": resident(peak=True) - before, "paper": paper_memory(classes, batch, sample_rate)}


def paper_memory(classes: int, batch: int, sample_rate: float) -> dict[str, float]:
    """Bytes of one rank's `classes`: held between steps (centres, SGD's momentum), and at most within one, in backward.

    Within a step every row that is seen has a gradient; a drawn one also a copy, a gradient of that and, for the update, weight and momentum;
    every image and seen class four numbers: cosine, power, and in backward the gradients of both.
    """
    seen, held = classes * sample_rate, 2 * classes * WIDTH * 4
    return {"held": held, "most": held + seen * WIDTH * 4 * (1 if sample_rate == 1 else 5) + 4 * batch * seen * 4}


def on_two(number: int, folder: str, classes: int, batch: int, rounds: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    times = against_the_plain_head(classes, batch, rounds)
    if number == 0:
        Path(folder, "times.json").write_text(json.dumps(times))
    distributed.destroy_process_group()


def main() -> None:
    given = OPTIONS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    if unknown := given.keys() - OPTIONS.keys():
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(OPTIONS)}")
    classes, many, batch, rounds, small = (int(given[key]) for key in ("classes", "many", "batch", "rounds", "backbone_batch"))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    line = {"width": WIDTH, "batch": batch, "rounds": rounds, "torch": torch.__version__, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}

    line |= {"classes": classes, "one": against_the_plain_head(classes, batch, rounds)}
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(on_two, (folder, classes, batch, rounds), nprocs=2)
        line["two"] = json.loads(Path(folder, "times.json").read_text())
    for processes in ("one", "two"):
        plain, sharded = line[processes]["plain"], line[processes]["sharded"]
        print(f"{classes:,} classes, batch {batch}, {processes} process(es): plain {1e3 * plain:.0f} ms, sharded {1e3 * sharded:.0f} ms a step "
              f"and rank, ratio {sharded / plain:.3f}", flush=True)

    line["memory"] = {}
    for name, held_here, rate in (("an eighth", many // 8, 1.0), ("an eighth, sampled", many // 8, 0.1), ("all, sampled", many, 0.1)):
        got = alone(held_here, small, rate, max(rounds // 2, 1))
        line["memory"][name] = got | {"classes": held_here, "sample_rate": rate}
        print(f"{held_here:,} classes on one rank, sample_rate {rate:g}: {got['held'] / 2**20:,.0f} MB held (on paper "
              f"{got['paper']['held'] / 2**20:,.0f}), {got['most'] / 2**20:,.0f} MB at most (on paper {got['paper']['most'] / 2**20:,.0f}), "
              f"{got['seconds']:.2f} s a step at batch {small}", flush=True)

    trunk = seconds({"trunk": trunk_step(given["backbone"], small)}, max(rounds // 3, 1))["trunk"]
    head = line["memory"]["all, sampled"]["seconds"]
    line |= {"backbone": given["backbone"], "backbone_batch": small, "trunk": trunk}
    print(f"batch {small}: {given['backbone']} {trunk:.2f} s, head of {many:,} classes at sample_rate 0.1 {head:.2f} s, ratio {head / trunk:.3f}")
    if given["out"]:
        with open(given["out"], "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
