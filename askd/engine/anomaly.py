"""Where numbers stop being finite: the first module whose output, or whose gradient, is not; slow, for debugging."""
from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from askd.errors import TrainingError


@contextmanager
def named_anomalies(modules: dict[str, nn.Module], gradients: bool = True) -> Iterator[None]:
    """Inside, TrainingError names the first module, in the order of computing, that makes a non-finite number of finite ones.

    gradients: look at the backward pass, too; not where a scaler lets them overflow on purpose.
    Looked at are modules with parameters of their own and modules without children. Every look waits for the device.
    """
    hooks = []
    for root, module in modules.items():
        for name, part in module.named_modules(prefix=root):
            if any(True for _ in part.parameters(recurse=False)) or not any(True for _ in part.children()):
                hooks.append(part.register_forward_hook(partial(_look_forward, name)))
                if gradients:
                    hooks.append(part.register_full_backward_hook(partial(_look_backward, name)))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # where the input is an image
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _look_forward(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if _finite(output):
        return
    if not _finite(list(module.parameters())):
        why = "its weights are not finite: an earlier step broke them"
    elif not _finite(inputs):
        why = "so is its input, which no module made: look at the images"
    else:
        why = "of a finite input and finite weights"
    raise TrainingError(f"debug.anomaly: the output of {name} ({type(module).__name__}) is not finite, {why}; {_ranges(inputs)}")


def _look_backward(name: str, module: nn.Module, given: Any, received: Any) -> None:
    described = f"{name} ({type(module).__name__})"
    if not _finite(received):
        raise TrainingError(f"debug.anomaly: the gradient that reaches {described} is not finite; what follows it, a loss or its term, made it so")
    if not _finite(given):
        raise TrainingError(f"debug.anomaly: {described} makes a non-finite gradient for its input of a finite one; {_ranges(received)}")


def _finite(values: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(values))


def _ranges(values: Any) -> str:
    return "; ".join(f"{tuple(t.shape)} {t.dtype} from {t.min():.4g} to {t.max():.4g}" for t in _tensors(values)) or "nothing given"


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values.detach()] if values.is_floating_point() and values.numel() else []
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, (tuple, list)) else []
