"""One optimiser step."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from askd.engine.gradient import clip_gradient
from askd.engine.precision import Precision
from askd.engine.trace import LossTrace
from askd.errors import TrainingError


class Stepper:
    """One optimiser step: rate, forward in the chosen precision, scaled backward, clipping, update. On CUDA nothing here waits for the device.

    cut: a batch into the equal micro-batches whose mean gradient the step takes, None for the batch as it is.
    unsynced: the context of every micro-batch but the last, DDP's no_sync.
    shards: the parameters that ranks hold different rows of (engine.shards).
    """

    def __init__(
        self,
        unit: Callable[[Any], dict[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        precision: Precision,
        clip: float | None,
        trace: LossTrace,
        cut: Callable[[Any], Sequence[Any]] | None = None,
        unsynced: Callable[[], AbstractContextManager] = nullcontext,
        shards: Mapping[nn.Parameter, tuple[int, int]] = MappingProxyType({}),
    ):
        self.unit, self.optimizer, self.schedule, self.precision = unit, optimizer, schedule, precision
        self.clip, self.trace, self.cut, self.unsynced, self.shards = clip, trace, cut, unsynced, shards
        self.scaler = precision.grad_scaler()
        self._skipped: int | Tensor = 0
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def take(self, step: int, batch: Any) -> None:
        """Step number `step` (from 0); a scaler leaves out the update, and lowers its scale, where gradients overflowed."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(step)
        self.optimizer.zero_grad(set_to_none=True)
        pieces = [batch] if self.cut is None else self.cut(batch)
        for number, piece in enumerate(pieces, 1):
            with nullcontext() if number == len(pieces) else self.unsynced():
                with self.precision.autocast():
                    parts = self.unit(piece)
                self.trace.add(step + 1, parts, guarded="loss")
                self.scaler.scale(parts["loss"] / len(pieces)).backward()
        if not self.scaler.is_enabled():
            self.trace.add(step + 1, {"grad_norm": self._clipped_norm()}, guarded="grad_norm")
            self.optimizer.step()
            return
        if self.clip is not None or self.shards:  # only unscale_ tells the ranks of an overflow in one's shard
            self.scaler.unscale_(self.optimizer)
            self.trace.add(step + 1, {"grad_norm": self._clipped_norm()}, guarded=None)
        before = self.scaler._scale.clone()  # get_scale() would wait for the device
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._skipped = self._skipped + (self.scaler._scale < before)

    def skipped(self) -> int:
        """Updates left out so far because gradients overflowed; waits for the device. TrainingError where no scale will do any more."""
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            raise TrainingError(
                f"gradients overflow fp16 even unscaled ({int(self._skipped)} steps skipped so far); use precision=bf16 or fp32, or lower train.lr"
            )
        return int(self._skipped)

    def resume(self, scaler: dict[str, Any], skipped: int) -> None:
        """Goes on from a checkpoint's scaler and count of skipped updates."""
        self.scaler.load_state_dict(scaler)
        self._skipped = skipped

    def _clipped_norm(self) -> Tensor:
        """The L2 norm of the gradient before it was clipped, where it is."""
        return clip_gradient(self._parameters, self.clip, self.shards)
