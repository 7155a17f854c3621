"""The optimiser of a training run."""
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def make_optimizer(
    modules: Iterable[nn.Module], name: str = "sgd", lr: float = 0.1, weight_decay: float = 5e-4, momentum: float = 0.9,
    nesterov: bool = True, decay_all: bool = False,
) -> torch.optim.Optimizer:
    """SGD or AdamW over what the modules train; vectors (norms, PReLU slopes, biases) are spared weight decay unless `decay_all`."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if decay_all or p.ndim > 1]
    spared = [p for p in parameters if not (decay_all or p.ndim > 1)]
    groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}] if spared else [{"params": decayed}]
    options = {"lr": lr, "weight_decay": weight_decay, "fused": True}
    if name == "adamw":
        return torch.optim.AdamW(groups, **options)
    return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, **options)
