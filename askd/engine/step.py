"""One optimiser step."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from askd.engine.gradient import clip_gradient
from askd.engine.precision import Precision
from askd.engine.trace import LossTrace


class Stepper:
    """One optimiser step: rate, forward in the chosen precision, scaled backward, clipping, update.

    shards: the parameters that ranks hold different rows of (engine.shards).
    """

    def __init__(self,
        unit: Callable[[Any], dict[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        precision: Precision,
        clip: float | None,
        trace: LossTrace,
        shards: Mapping[nn.Parameter, tuple[int, int]] = MappingProxyType({}),
    ):
        self.unit, self.optimizer, self.schedule, self.precision = unit, optimizer, schedule, precision
        self.clip, self.trace, self.shards = clip, trace, shards
        self.scaler = precision.grad_scaler()
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def take(self, step: int, batch: Any) -> bool:
        """Step number `step` (from 0); returns whether the scaler skipped the update because gradients overflowed."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(step)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            parts = self.unit(batch)
        self.trace.add(step + 1, parts, guarded="loss")
        self.scaler.scale(parts["loss"]).backward()
        if self.clip is not None or self.shards:  # with shards only unscale_ tells the ranks of one another's overflow
            self.scaler.unscale_(self.optimizer)
        if self.clip is not None:
            norm = clip_gradient(self._parameters, self.clip, self.shards)
            self.trace.add(step + 1, {"grad_norm": norm}, guarded=None if self.precision.scaler else "grad_norm")
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() < scale
