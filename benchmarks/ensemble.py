"""What an ensemble's training step costs beside the single network's: ABE-1, 2, 4, 8, four plain heads, and ABE-4 with its learners in a loop.

    python benchmarks/ensemble.py [recipe=demo_full] [rounds=3] [classes=400] [key=value ...]

Steps are forward, backward and optimiser at equal total width of the embedding, each learner with class centres of its own, on images of
noise; no data is read. The networks take turns, `rounds` times; the table gives the least time of each and its ratio to the single
network's. On a CPU the clock is the processor's time of one thread, which other programs do not stretch. `looped` sends one learner
after another through an attention module and G. Nothing is asserted: read the ratios. Appends a line to benchmarks/results/ensemble.jsonl.
"""
from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from askd.backbone import build_backbone
from askd.engine.precision import choose_precision
from askd.models.ensemble import Ensemble, LearnerNorm
from askd.models.features import Features
from askd.recipe import load
from askd.step_time import seconds_per_step
from askd.teach import choose_device

METHODS = ("base", "abe1", "abe2", "abe4", "abe8", "heads4")
LOOPED = "abe4 looped"
RESULTS = Path(__file__).parent / "results" / "ensemble.jsonl"


class Looped(Ensemble):
    """The same learners, one after another; no attention maps and stage outputs of G, which nothing here asks for."""

    def forward_all(self, x: Tensor) -> Features:
        shared, attention, stages = self.trunk.through(x, 0, self.branch)
        learners = torch.cat([
            self.trunk.neck(self.trunk.through(shared * self.mask(shared, learner), self.branch)[0])[:, None] for learner in range(self.learners)
        ], 1)
        return Features(F.normalize(learners.float(), dim=2).flatten(1), tuple(attention), tuple(stages), learners=learners)

    def mask(self, x: Tensor, learner: int) -> Tensor:
        """One learner's mask, by its own part of every weight."""
        def part(whole: Tensor) -> Tensor:
            return whole.chunk(self.learners)[learner]

        def norm(x: Tensor, bn: torch.nn.BatchNorm2d) -> Tensor:
            weight, bias = (bn.weight, bn.bias) if len(bn.weight) == x.shape[1] else (part(bn.weight), part(bn.bias))
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, bn.eps)

        for block in self.masks.blocks:
            bn1, conv1, bn2, act, conv2, bn3 = block.residual
            inner = F.prelu(norm(F.conv2d(norm(x, bn1), part(conv1.weight), padding=1), bn2), part(act.weight))
            x = x + norm(F.conv2d(inner, part(conv2.weight), padding=1), bn3)
        return F.conv2d(x, part(self.masks.last.weight), part(self.masks.last.bias)).sigmoid()


def build_looped(*given):
    """build_backbone, with the loop in the ensemble's place."""
    network = build_backbone(*given)
    network.__class__ = Looped  # the very same weights
    for module in network.modules():
        if isinstance(module, LearnerNorm):  # of one learner at a time
            module.running_mean, module.running_var = module.running_mean[:1], module.running_var[:1]
    return network


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    name, rounds, classes = (options.pop(key, default) for key, default in (("recipe", "demo_full"), ("rounds", "3"), ("classes", "400")))
    given = [f"{key}={value}" for key, value in options.items()]
    recipes = {method: load([f"recipe={name}", f"method={method}", *given]) for method in METHODS}
    recipes[LOOPED] = recipes["abe4"]
    on_gpu = torch.cuda.is_available() and recipes["base"].device.name != "cpu"
    if not on_gpu:
        torch.set_num_threads(1)
    clock = time.perf_counter if on_gpu else time.process_time
    times: dict[str, list[float]] = {method: [] for method in recipes}
    for _ in range(int(rounds)):
        for method, recipe in recipes.items():
            build = build_looped if method == LOOPED else build_backbone
            times[method].append(seconds_per_step(recipe, False, int(classes), torch.device(choose_device(recipe)), clock, build))
    least = {method: min(found) for method, found in times.items()}
    recipe = recipes["base"]
    where = torch.cuda.get_device_name() if on_gpu else f"one thread of {os.cpu_count()} CPUs, {platform.machine()}"
    ensemble = recipes["abe4"].network.ensemble
    print(f"{recipe.network.backbone} with {recipe.network.attention.name}, batch {recipe.train.batch}, embedding {recipe.network.embedding}, "
          f"{classes} classes, branch after stage {ensemble.branch}, depth {ensemble.depth}; {where}, torch {torch.__version__}")
    print(f"{'network':<14}{'ms/step':>10}{'of single':>11}")
    for method, seconds in least.items():
        print(f"{method:<14}{1000 * seconds:>10.1f}{seconds / least['base']:>10.2f}x")
    line = {
        "backbone": recipe.network.backbone, "attention": recipe.network.attention.name, "batch": recipe.train.batch,
        "precision": choose_precision(recipe.precision.name, torch.device(choose_device(recipe))).why,
        "embedding": recipe.network.embedding, "classes": int(classes), "branch": ensemble.branch, "depth": ensemble.depth, "where": where,
        "torch": torch.__version__, "rounds": int(rounds), "seconds": {method: [round(t, 4) for t in found] for method, found in times.items()},
        "ratio": {method: round(seconds / least["base"], 3) for method, seconds in least.items()},
    }
    with open(RESULTS, "a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
