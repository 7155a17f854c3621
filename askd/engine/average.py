"""The moving average of the weights, which is evaluated and exported in place of the last ones."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


class Average:
    """avg <- avg + (1 - d) (weights - avg) after every step, over all parameters and floating-point buffers of some modules.

    d = min(decay, (1 + n) / (10 + n)) at step n, from 1: the first steps count little (as TensorFlow's ExponentialMovingAverage has it).
    torch's AveragedModel reads a counter on the device at every step, and so waits for it; this does not.
    """

    def __init__(self, modules: dict[str, nn.Module], decay: float):
        self.decay = decay
        self._live = {
            f"{name}.{key}": tensor.detach() for name, module in modules.items()
            for key, tensor in chain(module.named_parameters(), module.named_buffers()) if tensor.is_floating_point()
        }
        self._average = {key: tensor.clone() for key, tensor in self._live.items()}

    def update(self, step: int) -> None:
        """Takes the weights after `step` steps in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the modules hold the averages."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Exchanges weights and averages."""
        for live, average in zip(self._live.values(), self._average.values()):
            held = live.clone()
            live.copy_(average)
            average.copy_(held)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by module and name."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on from there; ValueError where they are not of these modules."""
        if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in self._average.items()}:
            raise ValueError("its averaged weights are of other modules")
        for key, value in state.items():
            self._average[key].copy_(value)
