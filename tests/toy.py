"""A training of seconds for the loop's tests, as a program too: python tests/toy.py FOLDER [SIGNAL STEP]."""
from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from askd import cli
from askd.engine import dist
from askd.engine.loop import Summary, train
from askd.engine.precision import choose_precision
from askd.engine.schedule import make_schedule
from askd.errors import TrainingError

STEPS = 40


class ToyBatches:
    """Batch n is a function of n; iterating first draws from the global generator, as building a DataLoader does."""

    batch_size = 6

    def iterate(self, start: int):
        torch.rand(1)
        while True:
            generator = torch.Generator().manual_seed(start)
            yield torch.randn(self.batch_size, 5, generator=generator)
            start += 1

    def skipped(self, batch) -> list[str]:
        """Some step in four skips one or two images, whatever came before."""
        number = int(batch[0, 0].abs() * 1000) % 8
        return [f"image {number}"] * number if number < 3 else []


class Toy:
    """A network with batch norm and dropout, a head with its own learning rate, and noise from three generators."""

    def __init__(self):
        torch.manual_seed(7), random.seed(7), np.random.seed(7)
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)
        self.modules = {"trunk": self.trunk, "head": self.head}
        self.network = nn.Sequential(self.trunk, self.head)
        self.optimizer = torch.optim.SGD(
            [{"params": self.trunk.parameters()}, {"params": self.head.parameters(), "lr": 0.02}], lr=0.05, momentum=0.9
        )
        self.calls = 0

    def unit(self, batch):
        self.calls += 1
        assert self.trunk.training
        noise = random.random() + np.random.rand()
        identity = (self.network(batch) - noise).square().mean()
        weight = self.head.weight.square().mean()
        return {"loss": identity + 0.1 * weight, "identity": identity, "weight": weight}

    def evaluate(self, step):
        self.trunk.eval()
        torch.rand(3), random.random(), np.random.rand()
        return {"accuracy": 1.0 - abs(step - 20) / 100, "figure": np.zeros((4, 4, 3), np.uint8)}

    def train(self, folder: Path, **changes) -> Summary:
        arguments = dict(
            unit=self.unit,
            modules=self.modules,
            batches=ToyBatches(),
            optimizer=self.optimizer,
            schedule=make_schedule("cosine", steps=STEPS, warmup=5),
            steps=STEPS,
            precision=choose_precision("fp32", "cpu"),
            clip=1.0,
            folder=folder,
            checkpoint_every=3,
            log_every=5,
            evaluate=self.evaluate,
            evaluate_every=10,
            select="accuracy",
        )
        return train(**{**arguments, **changes})

    def bits(self) -> list[bytes]:
        return [
            value.numpy().tobytes() for module in self.modules.values() for value in module.state_dict().values()
        ]


def read_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def killed_at(point: str, folder: Path) -> None:
    """Trains until SIGKILL at `point`, KIND:NUMBER: before the n-th step's update, in the middle of writing the n-th checkpoint or best
    weights, before or after the n-th file takes its name, or before the n-th old file is removed. Writes one byte to `folder`/steps a step."""
    kind, number = point.split(":")
    count = 0

    def at(before: Callable | None, function: Callable, after: Callable | None = None) -> Callable:
        def counted(*arguments, **options):
            nonlocal count
            count += 1
            if count == int(number) and before:
                before(*arguments)
            result = function(*arguments, **options)
            if count == int(number) and after:
                after()
            return result

        return counted

    def die(*_) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half_written(state, file) -> None:
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        die()

    toy, save = Toy(), torch.save
    if kind == "write":
        torch.save = at(half_written, torch.save)
    elif kind in ("replace", "replaced"):
        os.replace = at(*((die, os.replace) if kind == "replace" else (None, os.replace, die)))
    elif kind == "unlink":
        Path.unlink = at(die, Path.unlink)
    steps, unit = open(folder / "steps", "ab", buffering=0), at(die, toy.unit) if kind == "step" else toy.unit

    def counting(batch):
        parts = unit(batch)
        steps.write(b".")
        return parts

    toy.train(folder, unit=counting)


def on_a_full_disk(step: int, every: int, folder: Path) -> None:
    """Trains with a checkpoint every so many steps until, in the middle of step `step`, files may grow no longer; what it says is in err.txt."""
    toy, said = Toy(), os.open(folder / "err.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 2)

    def unit(batch):
        if toy.calls == step - 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            written = max(path.stat().st_size for path in folder.iterdir() if path.name != "err.txt")
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(written, 1000) + 1000, resource.RLIM_INFINITY))
        return toy.unit(batch)

    sys.argv = ["toy"]
    cli.run("toy", "A toy's training.", lambda _: toy.train(folder, unit=unit, checkpoint_every=every, log_every=1, evaluate=None, select=None))


def main(arguments: list[str]) -> None:
    """FOLDER [SIGNAL STEP]: trains in this process, or in those that torchrun describes; SIGNAL (or `error`) comes to it, or to the last of
    them and the first time only, in the middle of step STEP, counted from 1."""
    with dist.init_from_env():
        toy, calls = Toy(), 0
        if dist.world_size() > 1:
            toy.network = DistributedDataParallel(toy.network)

        def unit(batch):
            nonlocal calls
            calls += 1
            if len(arguments) > 1 and calls == int(arguments[2]) and dist.rank() == dist.world_size() - 1:
                if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
                    if arguments[1] == "error":
                        raise TrainingError("this rank has had enough")
                    os.kill(os.getpid(), signal.Signals[arguments[1]])
            return toy.unit(batch)

        toy.train(Path(arguments[0]), unit=unit)


if __name__ == "__main__":
    cli.run("toy", "A toy's training.", main)
