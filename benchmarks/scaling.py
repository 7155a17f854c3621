"""Time and memory per rank of training with a sharded classifier, to 64 ranks and two million people: a model from measured pieces.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [out=benchmarks/results/scaling.jsonl] [backbone=iresnet50] [rows=128] [link=10e9]
        [latency=50e-6] [checked=iresnet10] [classes=20000] [rounds=3]

Pieces, each measured on one rank: a backbone's step per image, a head's per seen class and per seen class and image, a draw per class, and what a
collective costs. The model adds them up. It is checked first: the same program runs 1, 2 and 4 processes with `checked` and `classes`, and
prints processor time and memory per rank beside what the model says. Then it is used, with `rows` images per rank and a network of `link`
bytes per second and `latency` seconds per exchange: those ranks are as fast as the one measured. Nothing is asserted.
"""
from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from askd.collectives import Ranks, rank, reduce_sum, world_size
from askd.engine.gradient import clip_gradient
from askd.engine.optimizer import make_optimizer
from askd.engine.rows import update_seen_rows
from askd.engine.shards import sharded_parameters
from askd.heads.sharded import ShardedHead
from askd.models import make_backbone
from shards import WIDTH, forget_peak, head_step, paper_memory, resident, seconds, trunk_step

OPTIONS = {
    "out": "", "backbone": "iresnet50", "rows": "128", "link": "10e9", "latency": "50e-6", "checked": "iresnet10", "classes": "20000", "rounds": "3",
}
RATES = (1.0, 0.1)


def trunk_pieces(name: str, rounds: int) -> dict[str, float]:
    """Seconds of a step and per image, bytes per image and numbers of parameters, from batches of 2 and 6."""
    small, large = (trunk_step(name, batch) for batch in (2, 6))
    times = seconds({"small": small, "large": large}, rounds)
    grown = {}
    for batch in (2, 6):
        step = trunk_step(name, batch)
        step()
        before = resident()
        forget_peak()
        step()
        grown[batch] = resident(peak=True) - before
    per_image = max(times["large"] - times["small"], 0) / 4
    return {
        "image": per_image, "step": max(times["small"] - 2 * per_image, 0), "image_bytes": max(grown[6] - grown[2], 0) / 4,
        "parameters": sum(p.numel() for p in make_backbone(name, attention="cbam").parameters()),
    }


def head_pieces(rate: float, rounds: int) -> dict[str, float]:
    """Seconds per class seen, per class and image, and per class there is; the last only when sampling."""
    def taken(classes: int, batch: int) -> float:
        return seconds({"head": head_step(ShardedHead(WIDTH, classes, sample_rate=rate), batch)}, rounds)["head"]

    few, many = (5000, 20000) if rate == 1 else (10000, 40000)
    base, rows, images = taken(few, 8), taken(many, 8), taken(few, 136)
    per_logit = max(images - base, 0) / (128 * few * rate)
    per_class = max(rows - base, 0) / ((many - few) * rate) - 8 * per_logit
    return {"logit": per_logit, "class": max(per_class, 0), "step": max(base - few * rate * (max(per_class, 0) + 8 * per_logit), 0)}


def exchange_pieces(rounds: int) -> dict[str, float]:
    """Processor time of an exchange and per byte, on this rank."""
    numbers = {"small": torch.zeros(16), "large": torch.zeros(1 << 20)}
    times = seconds({name: (lambda each=each: reduce_sum(each)) for name, each in numbers.items()}, rounds * 3)
    return {"exchange": times["small"], "byte": max(times["large"] - times["small"], 0) / sent(4 << 20, 0, world_size())}


def sent(reduced: float, gathered: float, world: int) -> float:
    """Bytes that a rank sends: an all-reduce of `reduced` bytes passes each on twice, a gather of `gathered` in all once, and so does its reverse."""
    return (2 * reduced + 2 * gathered) * (world - 1) / world


def predicted(pieces: dict, world: int, rows: int, classes: int, rate: float) -> dict[str, float]:
    """Processor time and bytes of memory per rank, and what goes over the network, for `rows` images per rank."""
    trunk, head, batch, own = pieces["trunk"], pieces["head"][str(rate)], rows * world, classes / world
    compute = trunk["step"] + rows * trunk["image"] + head["step"] + own * rate * (head["class"] + batch * head["logit"])
    bytes_sent = sent(4 * trunk["parameters"] + 4 * (4 * batch + 1), 4 * batch * (WIDTH + 2), world)
    exchanges = 0 if world == 1 else 8 + trunk["parameters"] * 4 / (25 << 20)  # DDP's buckets are of 25 MB
    memory = paper_memory(own, batch, rate)
    held = 12 * trunk["parameters"] + memory["held"]
    return {
        "compute": compute, "sent": bytes_sent, "exchanges": exchanges, "held": held,
        "most": 12 * trunk["parameters"] + max(rows * trunk["image_bytes"] + memory["held"], memory["most"]),
    }


def whole_step(name: str, rows: int, classes: int, rate: float) -> tuple[Callable[[], None], Callable[[], int]]:
    """Backbone under DDP and sharded head, as training steps them; and how many bytes their tensors hold between steps."""
    torch.manual_seed(0)
    backbone = make_backbone(name, attention="cbam", embedding=WIDTH).to(memory_format=torch.channels_last)
    head = ShardedHead(WIDTH, classes, sample_rate=rate, ranks=Ranks())
    trunk = DistributedDataParallel(backbone) if world_size() > 1 else backbone
    optimizer, shards = make_optimizer([backbone, head], "sgd", lr=0.01), sharded_parameters([head])
    update_seen_rows(optimizer)
    image, label = torch.randn(rows, 3, 112, 112).to(memory_format=torch.channels_last), torch.randint(classes, (rows,))

    def step() -> None:
        optimizer.zero_grad()
        head(trunk(image), label).backward()
        clip_gradient([*backbone.parameters(), head.centres], 5.0, shards)
        optimizer.step()

    def held() -> int:
        state = [value for one in optimizer.state.values() for value in one.values() if isinstance(value, torch.Tensor)]
        parameters = [*backbone.parameters(), head.centres]
        gradients = [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]
        return sum(each.numel() * each.element_size() for each in [*parameters, *gradients, *state])

    return step, held


def measured(number: int, world: int, folder: str, given: dict) -> None:
    """One rank's share of the check: processor time, and what its tensors hold."""
    torch.set_num_threads(1)
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world}", rank=number, world_size=world)
    rounds, classes, results = int(given["rounds"]), int(given["classes"]), {}
    if world == 2:
        results["exchange"] = exchange_pieces(rounds)
    for rate in RATES:
        step, held = whole_step(given["checked"], 16 // world, classes, rate)
        step()
        results[str(rate)] = {"seconds": seconds({"step": step}, rounds)["step"], "held": held()}
        del step
    if rank() == 0:
        Path(folder, f"{world}.json").write_text(json.dumps(results))
    if world > 1:
        distributed.destroy_process_group()


def pieces_of(name: str, rounds: int, found: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    found.put({"trunk": trunk_pieces(name, rounds), "head": {str(rate): head_pieces(rate, rounds) for rate in RATES}})


def in_a_process(*arguments) -> dict:
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=pieces_of, args=(*arguments, found))
    process.start()
    result = found.get()
    process.join()
    return result


def main() -> None:
    given = OPTIONS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    if unknown := given.keys() - OPTIONS.keys():
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(OPTIONS)}")
    rounds, rows, link, latency = int(given["rounds"]), int(given["rows"]), float(given["link"]), float(given["latency"])
    torch.set_num_threads(1)
    checked = in_a_process(given["checked"], rounds)
    line = {"options": given, "torch": torch.__version__, "machine": f"{platform.machine()}, {os.cpu_count()} cores", "checks": []}
    with tempfile.TemporaryDirectory() as folder:
        for world in (1, 2, 4):
            torch.multiprocessing.spawn(measured, (world, folder, given), nprocs=world)
        got = {world: json.loads(Path(folder, f"{world}.json").read_text()) for world in (1, 2, 4)}
    exchange = got[2]["exchange"]
    print(f"the model against {given['checked']}, {int(given['classes']):,} classes, 16 images over the ranks")
    print("| ranks | sample_rate | processor time, ms | model | ratio | held, MB | model, MB |\n|---:|---:|---:|---:|---:|---:|---:|")
    for world in (1, 2, 4):
        for rate in RATES:
            said, was = predicted(checked, world, 16 // world, int(given["classes"]), rate), got[world][str(rate)]
            model = said["compute"] + said["exchanges"] * exchange["exchange"] + said["sent"] * exchange["byte"]
            print(f"| {world} | {rate:g} | {1e3 * was['seconds']:.0f} | {1e3 * model:.0f} | {was['seconds'] / model:.2f} | "
                  f"{was['held'] / 2**20:.0f} | {said['held'] / 2**20:.0f} |", flush=True)
            line["checks"].append({"ranks": world, "sample_rate": rate, **was, "model": model, "model_held": said["held"]})

    pieces = in_a_process(given["backbone"], max(rounds // 3, 1))
    line |= {"checked_pieces": checked, "exchange": exchange, "pieces": pieces, "model": []}
    print(f"\n{given['backbone']}, {rows} images per rank, float32, SGD; {link / 1e9:g} GB/s, {1e6 * latency:g} us an exchange")
    print("| classes | sample_rate | ranks | backbone, s | head, s | network, s | held, MB | of it centres and momentum, MB | at most, MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for classes, rate in ((85_000, 1.0), (1_000_000, 1.0), (1_000_000, 0.1), (2_000_000, 1.0), (2_000_000, 0.1)):
        for world in (1, 8, 64):
            said = predicted(pieces, world, rows, classes, rate)
            trunk = pieces["trunk"]["step"] + rows * pieces["trunk"]["image"]
            network = said["sent"] / link + said["exchanges"] * latency
            centres = paper_memory(classes / world, rows * world, rate)["held"]
            print(f"| {classes:,} | {rate:g} | {world} | {trunk:.1f} | {said['compute'] - trunk:.2f} | {network:.3f} | "
                  f"{said['held'] / 2**20:,.0f} | {centres / 2**20:,.0f} | {said['most'] / 2**20:,.0f} |")
            line["model"].append({"classes": classes, "sample_rate": rate, "ranks": world, "network": network, **said})
    if given["out"]:
        with open(given["out"], "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
