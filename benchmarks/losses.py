"""What every distillation term costs: its share of a training step, beyond the teacher's forward pass that all of them need.

    python benchmarks/losses.py [recipe=casia_x4] [classes=10572] [rounds=3] [key=value ...]

Steps are forward, backward and optimiser on images of noise; no data is read. The methods take turns, `rounds` times, and the table gives
the median, the ratio to a step without a teacher, and the term's share: what is left when the step with the cheapest term (the embedding's
cosine) is taken away. On a CPU the clock is the processor's time, which other programs do not stretch. Nothing is
asserted: read the shares.
"""
from __future__ import annotations

import os
import statistics
import sys
import time

import torch

from askd.recipe import load
from askd.study import seconds_per_step

METHODS = ("base", "embedding", "askd", "fskd", "fitnet", "at", "rkd", "cross", "kd", "centres", "fskd+cross", "askd+kd")


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    name, classes, rounds = (options.pop(key, default) for key, default in (("recipe", "casia_x4"), ("classes", "10572"), ("rounds", "3")))
    recipes = {method: load([f"recipe={name}", f"method={method}", *(f"{k}={v}" for k, v in options.items())]) for method in METHODS}
    clock = time.perf_counter if torch.cuda.is_available() and recipes["base"].device.name != "cpu" else time.process_time
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(int(rounds)):
        for method, recipe in recipes.items():
            times[method].append(seconds_per_step(recipe, method, int(classes), clock))
    step = {method: statistics.median(found) for method, found in times.items()}
    recipe = recipes["base"]
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} of {os.cpu_count()} CPUs"
    network = f"{recipe.network.backbone} with {recipe.network.attention.name}"
    print(f"{network}, batch {recipe.train.batch}, {classes} classes, {where}, torch {torch.__version__}")
    print(f"{'method':<14}{'ms/step':>10}{'of base':>10}{'term':>9}")
    for method in METHODS:
        needs_teacher = method not in ("base", "centres")
        share = f"{100 * (step[method] - step['embedding']) / step[method]:>7.1f} %" if needs_teacher and method != "embedding" else ""
        print(f"{method:<14}{1000 * step[method]:>10.1f}{step[method] / step['base']:>9.2f}x{share:>9}")


if __name__ == "__main__":
    main()
