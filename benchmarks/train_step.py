"""Speed and memory of one A-SKD training step, student and teacher with CBAM: a plain one, and each optimisation added to it in turn.

    python benchmarks/train_step.py [backbone=iresnet50] [batch=32] [classes=10572] [rounds=2] [steps=3] [rows=0,1,...]

Every row is measured in a process of its own, so that peak memory is its own, and the rows take turns, `rounds` times. What is measured is
appended to benchmarks/results/train_step.jsonl at once; started again, the program goes on where it was cut short, and then prints the table of
medians and ratios. On a CPU a second is one of processor time per thread, since others may use the machine. "of matrix rate": the multiplications
of the step, counted by torch's FlopCounterMode, by the time that large matrix products of the same number format take for as many in the same process.
Nothing is asserted: read the ratios.
"""
from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from askd.distiller import Distiller, Trunk
from askd.engine.optimizer import make_optimizer
from askd.engine.precision import Precision, choose_precision
from askd.heads.classifier import MarginHead
from askd.models import make_backbone
from askd.teachers import Frozen
from askd.terms import attention_term

RESULTS = Path(__file__).parent / "results" / "train_step.jsonl"
DEFAULTS = {"backbone": "iresnet50", "batch": "32", "classes": "10572", "rounds": "2", "steps": "3", "rows": ""}
CUDA = torch.cuda.is_available()


@dataclass(frozen=True)
class Row:
    """A step by what has been done for its speed; `ours`: folded teacher, fused optimiser, no number fetched to the host."""

    name: str
    tf32: bool = False
    channels_last: bool = False
    ours: bool = False
    precision: str = "fp32"
    compile: bool = False


def make_rows() -> list[Row]:
    """The rows for this machine; each is the one before it and a bit more, the last of all eager and compiled ones in both number formats."""
    rows = [Row("plain: fp32, NCHW, eager" + (", TF32 off" if CUDA else ""))]
    if CUDA:
        rows.append(replace(rows[-1], name="+ TF32", tf32=True))
    rows.append(replace(rows[-1], name="+ channels-last", channels_last=True))
    rows.append(replace(rows[-1], name="+ folded teacher, fused optimiser, no waiting", ours=True))
    rows.append(replace(rows[-1], name="+ torch.compile", compile=True))
    rows.append(replace(rows[-2], name="eager, bf16", precision="bf16"))
    rows.append(replace(rows[-2], name="compiled, bf16", precision="bf16"))
    return rows


def plain_step(row: Row, batch: int, classes: int, name: str):
    """The step as one would first write it: the teacher an ordinary module, one loss call per map, the loss fetched every time."""
    device = torch.device("cuda" if CUDA else "cpu")
    layout = torch.channels_last if row.channels_last else torch.contiguous_format
    student, teacher = (make_backbone(name, attention="cbam").to(device=device, memory_format=layout) for _ in range(2))
    teacher.eval()
    head = MarginHead(512, classes).to(device)
    optimizer = torch.optim.SGD([*student.parameters(), *head.parameters()], lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=False)
    hr, lr, label = images(batch, classes, device, layout)

    def step() -> None:
        with torch.no_grad():
            theirs = teacher.forward_all(hr)
        ours = student.forward_all(lr)
        attention = sum(
            (1 - F.cosine_similarity(a.sigmoid().flatten(1), b.sigmoid().flatten(1))).mean()
            for mine, other in zip(ours.attention, theirs.attention) for a, b in zip(mine, other)
        ) / (2 * len(ours.attention))
        loss = head(ours.embedding, label) + 5 * attention
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def our_step(row: Row, batch: int, classes: int, name: str):
    """The step that askd.distill takes."""
    device = torch.device("cuda" if CUDA else "cpu")
    precision = choose_precision(row.precision, device)
    torch.backends.cudnn.benchmark = True
    student = make_backbone(name, attention="cbam").to(device=device, memory_format=torch.channels_last)
    teacher = Frozen(make_backbone(name, attention="cbam"), device, row.compile, precision.dtype, {"attention"})
    head = MarginHead(512, classes).to(device)
    compiled = torch.compile if row.compile else lambda part: part
    terms = {"attention": (5.0, compiled(attention_term("maps", "mean", 1.0, 1.0)))}
    distiller = Distiller(compiled(Trunk(student)), head, teacher, terms)
    optimizer = make_optimizer([student, head], lr=0.01)
    hr, lr, label = images(batch, classes, device, torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        with precision.autocast():
            loss = distiller(hr, lr, label)["loss"]
        loss.backward()
        optimizer.step()

    return step


def images(batch: int, classes: int, device: torch.device, layout: torch.memory_format) -> list[torch.Tensor]:
    """Random faces, HR and LR, and labels."""
    generator = torch.Generator().manual_seed(0)
    hr, lr = (torch.rand(batch, 3, 112, 112, generator=generator) * 2 - 1 for _ in range(2))
    label = torch.randint(classes, (batch,), generator=generator).to(device)
    return [*(image.to(device=device).contiguous(memory_format=layout) for image in (hr, lr)), label]


def operations(name: str, classes: int) -> int:
    """Multiplications and additions of one image's step: the teacher's forward pass, the student's forward and backward passes."""
    student, teacher, head = (part.to("meta") for part in (
        make_backbone(name, attention="cbam"), make_backbone(name, attention="cbam").eval(), MarginHead(512, classes)
    ))
    image = torch.empty(2, 3, 112, 112, device="meta")
    with FlopCounterMode(display=False) as counted:
        with torch.no_grad():
            teacher(image)
        F.linear(student(image), head.centres).sum().backward()
    return counted.get_total_flops() // 2


def clock() -> float:
    """Seconds: the device's where there is one, otherwise of processor time per thread."""
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def matrix_rate(precision: Precision) -> float:
    """Operations per second of large matrix products in a number format: the best of five."""
    side = 8192 if CUDA else 1024
    device = torch.device("cuda" if CUDA else "cpu")
    a, b = (torch.randn(side, side, device=device, dtype=precision.dtype or torch.float32) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = clock()
        a @ b
        best = min(best, clock() - began)
    return 2 * side**3 / best


def measure(row: Row, batch: int, classes: int, name: str, steps: int) -> dict:
    """Two steps to warm up, then the best of `steps` steps."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = row.tf32
    rate = matrix_rate(choose_precision(row.precision, "cuda" if CUDA else "cpu"))
    step = our_step(row, batch, classes, name) if row.ours else plain_step(row, batch, classes, name)
    began = time.perf_counter()
    step(), step()
    warm, times = time.perf_counter() - began, []
    for _ in range(steps):
        began = clock()
        step()
        times.append(clock() - began)
    memory = torch.cuda.max_memory_allocated() if CUDA else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    return {"rate": batch / min(times), "warm": round(warm, 1), "memory": memory, "matrix_rate": rate}


def main() -> None:
    options = DEFAULTS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    name, batch, classes, rounds, steps = options["backbone"], *(int(options[key]) for key in ("batch", "classes", "rounds", "steps"))
    rows = make_rows()
    chosen = [int(number) for number in options["rows"].split(",") if number] or range(len(rows))
    setting = {
        "backbone": name, "batch": batch, "classes": classes, "torch": torch.__version__, "on": machine(), "threads": torch.get_num_threads(),
    }
    for turn in range(rounds):
        for number in chosen:
            key = {**setting, "row": rows[number].name, "round": turn}
            if any(key.items() <= done.items() for done in finished()):
                continue
            arguments = ["--child", str(number), str(batch), str(classes), name, str(steps)]
            child = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
            with open(RESULTS, "a") as file:
                file.write(json.dumps({**key, **json.loads(child.stdout.splitlines()[-1])}) + "\n")
    work = operations(name, classes)
    print(f"{name} + CBAM, student and teacher, batch {batch}, {classes} classes, {work / 1e9:.1f} GFLOP an image; {setting['on']}, "
          f"{setting['threads']} threads, torch {torch.__version__}")
    print(f"{'step':<48}{'img/s':>8}{'ratio':>8}{'of matrix rate':>16}{'memory':>10}{'warm-up':>10}")
    plain = None
    for row in rows:
        found = [done for done in finished() if {**setting, "row": row.name}.items() <= done.items()]
        if not found:
            continue
        rate, memory, warm, matrix = (statistics.median(one[key] for one in found) for key in ("rate", "memory", "warm", "matrix_rate"))
        plain = plain or rate
        print(f"{row.name:<48}{rate:>8.2f}{rate / plain:>7.2f}x{work * rate / matrix:>15.0%}{memory / 2**30:>8.2f} GB{warm:>8.0f} s")


def finished() -> list[dict]:
    """What has been measured so far, on any machine."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def machine() -> str:
    """The device, and what decides what bf16 is worth on it."""
    if CUDA:
        return torch.cuda.get_device_name()
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if torch.cpu.get_capabilities().get(unit)]
    cpus = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")] or [platform.machine()]
    return f"{os.cpu_count()} CPUs, {cpus[0]} with {units[0] if units else 'no wide units'}"


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(measure(make_rows()[int(sys.argv[2])], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], int(sys.argv[6]))))
    else:
        main()
