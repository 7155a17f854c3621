"""What each backbone weighs and takes: parameters, multiply-accumulates, latency of one face and throughput of embeddings, on one core.

    python benchmarks/backbones.py [backbones=NAME,NAME,...] [batch=4] [rounds=3] [out=benchmarks/results/backbones.jsonl]

NAME is a backbone of ours, +cbam or another attention behind it, or timm/NAME; left out, all of the table. Each finished one is a line
of `out`, and the same command goes on with those that are missing; then the table of all lines is printed. Speed is PyTorch's eager
float32 with channels last and batch norms folded, as a frozen teacher is run, one thread, in processor time of this process (other work
on the machine hardly counts), the median of `rounds`; beside it the same of iresnet10, measured in turn with it, so that lines of
different hours can be compared. Weights are random: speed does not depend on them.
"""
from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from askd.models import make_backbone
from askd.teachers import Frozen

ALL = (
    "iresnet10", "iresnet10+cbam", "iresnet18", "iresnet18+se", "iresnet18+bam", "iresnet18+cbam", "iresnet50", "iresnet50+cbam",
    "iresnet100", "mobilefacenet", "mobilefacenet+cbam", "mobilefacenet_x2", "cmt_ti", "cmt_xs", "cmt_s", "cmt_b",
    "timm/resnet18", "timm/mobilenetv3_small_100", "timm/vit_tiny_patch16_224",
)
YARDSTICK = "iresnet10"


def build(name: str) -> nn.Module:
    """The network of a name of the table, with an embedding of 512."""
    backbone, _, attention = name.partition("+")
    torch.manual_seed(0)
    return make_backbone(backbone, attention=attention or "none")


def macs(network: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of one call: convolutions and matrix products, attention's two included, as torch counts them (two FLOPs each)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(*inputs)
    return counter.get_total_flops() // 2


def face(batch: int) -> Tensor:
    """Noise where faces would be."""
    images = torch.rand(batch, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return images.contiguous(memory_format=torch.channels_last)


def seconds(network, images: Tensor, least: float = 0.2) -> float:
    """Processor time of one call, over calls that take `least` seconds together."""
    calls, began = 0, time.process_time()
    while calls < 2 or time.process_time() - began < least:
        network(images)
        calls += 1
    return (time.process_time() - began) / calls


def measure(name: str, batch: int, rounds: int) -> dict:
    """One line of the results: see the head of this file."""
    network = build(name)
    line = {"backbone": name, "parameters": sum(p.numel() for p in network.parameters()), "macs": macs(network, face(1)), "batch": batch,
            "rounds": rounds}
    networks = {"own": Frozen(network, torch.device("cpu")), "yardstick": Frozen(build(YARDSTICK), torch.device("cpu"))}
    one, many = face(1), face(batch)
    times = {(who, what): [] for who in networks for what in ("one", "many")}
    for who, frozen in networks.items():
        frozen(one), frozen(many)
    for _ in range(rounds):
        for who, frozen in networks.items():
            times[who, "one"].append(seconds(frozen, one))
            times[who, "many"].append(seconds(frozen, many))
    for who, prefix in (("own", ""), ("yardstick", f"{YARDSTICK}_")):
        line[f"{prefix}latency_ms"] = round(1000 * statistics.median(times[who, "one"]), 3)
        line[f"{prefix}images_per_second"] = round(batch / statistics.median(times[who, "many"]), 3)
    return line | {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def table(lines: list[dict]) -> str:
    """The lines as Markdown, throughput also as a ratio to iresnet10's of the same run."""
    rows = ["| backbone | parameters, M | MACs, M | latency, ms | images/s | against iresnet10 |", "|---|---:|---:|---:|---:|---:|"]
    for line in lines:
        ratio = line["images_per_second"] / line[f"{YARDSTICK}_images_per_second"]
        rows.append(f"| {line['backbone']} | {line['parameters'] / 1e6:.2f} | {line['macs'] / 1e6:,.0f} | {line['latency_ms']:.1f} | "
                    f"{line['images_per_second']:.1f} | {ratio:.3f}x |")
    return "\n".join(rows)


def main() -> None:
    options = {"backbones": ",".join(ALL), "batch": "4", "rounds": "3", "out": str(Path(__file__).parent / "results" / "backbones.jsonl")}
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if len(given) != len(sys.argv) - 1 or set(given) - set(options):
        sys.exit(f"usage: python benchmarks/backbones.py [{'=... '.join(options)}=...], got {' '.join(sys.argv[1:])}")
    options |= given
    torch.set_num_threads(1)
    out, names = Path(options["out"]), options["backbones"].split(",")
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    for name in names:
        if name in (line["backbone"] for line in done):
            continue
        line = measure(name, int(options["batch"]), int(options["rounds"]))
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        done.append(line)
        print(f"{name}: {line['images_per_second']} images/s", file=sys.stderr, flush=True)
    print(table(sorted((line for line in done if line["backbone"] in names), key=lambda line: names.index(line["backbone"]))))


if __name__ == "__main__":
    main()
