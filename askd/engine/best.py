"""Which weights of a run were the best."""
from __future__ import annotations

import math
from pathlib import Path

from torch import nn

from askd.engine.checkpoint import read_state, write_state
from askd.engine.dist import is_main
from askd.engine.shards import whole_state
from askd.errors import TrainingError


class Best:
    """The weights at the best value so far of the selected metric, kept in a file that also says step and value."""

    def __init__(self, select: str | None, path: Path):
        self.select, self.path = select, path
        self.step: int | None = None
        self.metric: float | None = None
        if select is not None and path.exists():
            stored = read_state(path)
            self.step, self.metric = stored["step"], stored["metric"]

    def offer(self, step: int, metrics: dict[str, float], modules: dict[str, nn.Module]) -> None:
        """Writes the modules' weights if the selected metric is above the best so far; of equals the first stays."""
        if self.select is None:
            return
        if self.select not in metrics:
            raise TrainingError(
                f"evaluation gives no {self.select!r} to select the best checkpoint by; it gives {', '.join(metrics)}"
            )
        metric = metrics[self.select]
        if math.isfinite(metric) and (self.metric is None or metric > self.metric):
            self.step, self.metric = step, metric
            weights = {name: whole_state(module) for name, module in modules.items()}
            if is_main():
                write_state(self.path, {"modules": weights, "step": step, "metric": metric})
