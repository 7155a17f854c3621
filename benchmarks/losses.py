"""What every distillation term costs: its share of a training step, beyond the teacher's forward pass that all of them need.

    python benchmarks/losses.py [recipe=casia_x4] [classes=10572] [rounds=3] [out=benchmarks/results/losses.jsonl] [key=value ...]

Steps are forward, backward and optimiser on images of noise; no data is read. The methods take turns, `rounds` times, and the table gives
the median, the ratio to a step without a teacher, and the term's share: what is left when the step with the cheapest term (the embedding's
cosine) is taken away. `embedding, cached` has the teacher's embeddings from disk (teacher.cache). On a CPU the clock is the processor's time,
which other programs do not stretch. The table goes to `out` as one line of JSON. Nothing is asserted: read the shares.
"""
from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from askd.method import teaches
from askd.recipe import load
from askd.step_time import seconds_per_step
from askd.teach import choose_device

CACHED = "embedding, cached"
METHODS = ("base", "embedding", CACHED, "askd", "fskd", "fitnet", "at", "rkd", "cross", "kd", "centres", "fskd+cross", "askd+kd")


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    defaults = {"recipe": "casia_x4", "classes": "10572", "rounds": "3", "out": str(Path(__file__).parent / "results" / "losses.jsonl")}
    name, classes, rounds, out = (options.pop(key, default) for key, default in defaults.items())
    given = [f"{key}={value}" for key, value in options.items()]
    recipes = {
        method: load([f"recipe={name}", f"method={method.split(',')[0]}", f"teacher.cache={method == CACHED}", *given]) for method in METHODS
    }
    recipe = recipes["base"]
    device = torch.device(choose_device(recipe))
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(int(rounds)):
        for method in METHODS:
            times[method].append(seconds_per_step(recipes[method], teaches(recipes[method]), int(classes), device, clock))
    step = {method: statistics.median(found) for method, found in times.items()}
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} of {os.cpu_count()} CPUs"
    what = f"{recipe.network.backbone} with {recipe.network.attention.name}, batch {recipe.train.batch}, {classes} classes"
    print(f"{what}, {where}, torch {torch.__version__}")
    print(f"{'method':<20}{'ms/step':>10}{'of base':>10}{'term':>9}")
    for method in METHODS:
        needs_teacher = method not in ("base", "centres", "embedding", CACHED)
        share = f"{100 * (step[method] - step['embedding']) / step[method]:>7.1f} %" if needs_teacher else ""
        print(f"{method:<20}{1000 * step[method]:>10.1f}{step[method] / step['base']:>9.2f}x{share:>9}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a") as file:
        line = {"what": what, "where": where, "torch": torch.__version__, "rounds": int(rounds), "seconds": step}
        file.write(json.dumps(line, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
