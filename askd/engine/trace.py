"""The scalars of recent steps, and the watch over them: a non-finite loss must not get far."""
from __future__ import annotations

import math
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from askd.engine.checkpoint import Checkpoints
from askd.errors import TrainingError


class Row(NamedTuple):
    """One step's scalars, still on their device: numbers (len(names),)."""

    step: int
    names: tuple[str, ...]
    guarded: str | None
    numbers: Tensor


class LossTrace:
    """The named scalars of the steps since the last log line, left on their device until someone looks.

    A guarded value that is not finite raises TrainingError: at once for values on the CPU, else when looked at.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints
        self._rows: list[Row] = []

    def add(self, step: int, values: dict[str, Tensor], guarded: str | None) -> None:
        """Notes what step number `step` (from 1) gave; `guarded` names the value that must be finite."""
        numbers = torch.stack([value.detach().float() for value in values.values()])
        self._rows.append(Row(step, tuple(values), guarded, numbers))
        if numbers.device.type == "cpu":
            self._check(self._rows[-1:])

    def check(self) -> None:
        """Raises if any guarded value since the last `drain` is not finite."""
        self._check(self._rows)

    def latest(self) -> dict[str, float]:
        """The values of the last step."""
        return self._values(self._rows[-1].step) if self._rows else {}

    def drain(self) -> dict[str, float]:
        """Each value's mean over the steps since the last call; forgets them. Raises as `check` does."""
        self.check()
        sums: dict[str, list[float]] = {}
        for row, numbers in zip(self._rows, _to_host(self._rows)):
            for name, number in zip(row.names, numbers):
                sums.setdefault(name, []).append(number)
        self._rows = []
        return {name: sum(numbers) / len(numbers) for name, numbers in sums.items()}

    def _check(self, rows: list[Row]) -> None:
        for row, numbers in zip(rows, _to_host(rows)):
            if row.guarded and not math.isfinite(numbers[row.names.index(row.guarded)]):
                step = self._values(row.step) | dict(zip(row.names, numbers))  # a step of several micro-batches has several rows
                parts = ", ".join(f"{name} {value:.6g}" for name, value in step.items())
                good = list(self._checkpoints.steps().values())
                raise TrainingError(
                    f"non-finite {row.guarded} at step {row.step}: {parts}; "
                    f"the last good checkpoint is {good[-1] if good else 'none yet'}; "
                    "lower the learning rate, clip gradients, or train in fp32; debug.anomaly=true names the module"
                )

    def _values(self, step: int) -> dict[str, float]:
        rows = [row for row in self._rows if row.step == step]
        return {name: value for row, values in zip(rows, _to_host(rows)) for name, value in zip(row.names, values)}


def _to_host(rows: list[Row]) -> list[list[float]]:
    """The numbers of each row, fetched from the device all at once."""
    if not rows:
        return []
    numbers = iter(torch.cat([row.numbers for row in rows]).tolist())
    return [list(islice(numbers, len(row.names))) for row in rows]
