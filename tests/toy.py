"""A training of seconds for the loop's tests; as a program, python tests/toy.py FOLDER SIGNAL STEP, it sends itself a signal."""
from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from askd.engine.loop import Interrupted, Summary, train
from askd.engine.precision import choose_precision
from askd.engine.schedule import make_schedule

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
        self.optimizer = torch.optim.SGD(
            [{"params": self.trunk.parameters()}, {"params": self.head.parameters(), "lr": 0.02}], lr=0.05, momentum=0.9
        )
        self.calls = 0

    def unit(self, batch):
        self.calls += 1
        assert self.trunk.training
        noise = random.random() + np.random.rand()
        identity = (self.head(self.trunk(batch)) - noise).square().mean()
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


if __name__ == "__main__":
    toy, sent, at = Toy(), signal.Signals[sys.argv[2]], int(sys.argv[3])

    def unit(batch):
        if toy.calls == at - 1:  # in the middle of step `at`, counted from 1
            os.kill(os.getpid(), sent)
        return toy.unit(batch)

    try:
        toy.train(Path(sys.argv[1]), unit=unit)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.exit_code)
