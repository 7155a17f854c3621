"""Speed and memory of one A-SKD step, IResNet-50 + CBAM with its teacher at 112 pixels: plain float32 against ours, in one run.

    python benchmarks/train_step.py [BATCH=32] [CLASSES=10572] [BACKBONE=iresnet50] [ROUNDS=2]        (values alone, in this order)

Every variant runs in a process of its own, so that peak memory is its own; the variants take turns, `rounds` times, and the table
gives the median and the ratio to the plain step. Nothing is asserted: read the ratios.
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

import torch
import torch.nn.functional as F

from askd.distiller import Distiller, Trunk
from askd.engine.precision import choose_precision
from askd.heads.classifier import MarginHead
from askd.models import make_backbone
from askd.teachers import Frozen
from askd.terms import attention_term

VARIANTS = ("plain float32 NCHW eager", "ours: bf16, channels-last, folded teacher", "ours + torch.compile")
STEPS = 3


def plain_step(batch: int, classes: int, name: str):
    """The step as one would first write it: float32, NCHW, eager, the teacher an ordinary module, one loss call per map."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, teacher = (make_backbone(name, attention="cbam").to(device) for _ in range(2))
    teacher.eval()
    head = MarginHead(512, classes).to(device)
    optimizer = torch.optim.SGD([*student.parameters(), *head.parameters()], lr=0.01, momentum=0.9, weight_decay=5e-4)
    hr, lr, label = images(batch, classes, device)

    def step() -> float:
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
        return loss.item()

    return step


def our_step(batch: int, classes: int, name: str, compile: bool):
    """The step that askd.distill takes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision("auto", device)
    student = make_backbone(name, attention="cbam").to(device=device, memory_format=torch.channels_last)
    teacher = Frozen(make_backbone(name, attention="cbam"), device, compile)
    head = MarginHead(512, classes).to(device)
    trunk = torch.compile(Trunk(student)) if compile else Trunk(student)
    distiller = Distiller(trunk, head, teacher, {"attention": (5.0, attention_term("maps", "mean", 1.0, 1.0))})
    parameters = [p for p in [*student.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    hr, lr, label = images(batch, classes, device)
    hr, lr = (t.contiguous(memory_format=torch.channels_last) for t in (hr, lr))

    def step() -> float:
        optimizer.zero_grad()
        with precision.autocast():
            loss = distiller(hr, lr, label)["loss"]
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def images(batch: int, classes: int, device: torch.device) -> list[torch.Tensor]:
    """Random faces, HR and LR, and labels."""
    generator = torch.Generator().manual_seed(0)
    hr, lr = (torch.rand(batch, 3, 112, 112, generator=generator) * 2 - 1 for _ in range(2))
    return [tensor.to(device) for tensor in (hr, lr, torch.randint(classes, (batch,), generator=generator))]


def measure(variant: int, batch: int, classes: int, name: str) -> dict:
    """Warm up (two steps), then time STEPS steps."""
    step = plain_step(batch, classes, name) if variant == 0 else our_step(batch, classes, name, compile=variant == 2)
    began = time.perf_counter()
    step(), step()
    warm = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    rate = batch * STEPS / (time.perf_counter() - began)
    on_device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    return {"rate": rate, "warm": warm, "memory": on_device / 2**30}


def main() -> None:
    batch, classes, name, rounds = sys.argv[1:5] + ["32", "10572", "iresnet50", "2"][len(sys.argv[1:5]):]
    results = [[] for _ in VARIANTS]
    for _ in range(int(rounds)):
        for variant in range(len(VARIANTS)):
            child = subprocess.run(
                [sys.executable, __file__, "--child", str(variant), batch, classes, name], capture_output=True, text=True, check=True
            )
            results[variant].append(json.loads(child.stdout.splitlines()[-1]))
    print(f"{name} + CBAM, student and teacher, batch {batch}, {classes} classes; torch {torch.__version__}, {os.cpu_count()} CPUs "
          f"({processor()}){', ' + torch.cuda.get_device_name() if torch.cuda.is_available() else ''}")
    print(f"{'step':<44}{'img/s':>8}{'ratio':>8}{'memory':>10}{'warm-up':>10}")
    plain = statistics.median(r["rate"] for r in results[0])
    for variant, measured in zip(VARIANTS, results):
        rate, memory, warm = (statistics.median(m[key] for m in measured) for key in ("rate", "memory", "warm"))
        print(f"{variant:<44}{rate:>8.1f}{rate / plain:>7.2f}x{memory:>8.1f} GB{warm:>8.0f} s")


def processor() -> str:
    """The CPU's matrix abilities, which decide what bf16 is worth."""
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if torch.cpu.get_capabilities().get(unit)]
    return f"{platform.machine()} with {units[0] if units else 'no wide units'}"


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])))
    else:
        main()
