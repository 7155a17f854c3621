"""Optimisers that leave alone the rows of a parameter which a step did not see: their weights, decay and momentum stand still.

torch's SparseAdam does so ("lazily") and nothing else does; here it holds for any optimiser whose arithmetic is elementwise.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn


def update_seen_rows(optimizer: torch.optim.Optimizer) -> None:
    """From now on a sparse gradient of a dense parameter moves its rows alone: for the step they are a parameter of their own.

    AdamW's bias correction counts all steps, as SparseAdam's does.
    """
    seen: list[tuple[list[nn.Parameter], int, nn.Parameter, Tensor]] = []

    def before(optimizer: torch.optim.Optimizer, args, kwargs) -> None:
        for group in optimizer.param_groups:
            for place, whole in enumerate(group["params"]):
                if whole.grad is None or not whole.grad.is_sparse:
                    continue
                gradient = whole.grad.coalesce()
                rows, = gradient.indices()
                part = nn.Parameter(whole.detach()[rows])
                part.grad = gradient.values()
                if whole in optimizer.state:
                    optimizer.state[part] = {k: v[rows] if _like(v, whole) else v for k, v in optimizer.state[whole].items()}
                group["params"][place] = part
                seen.append((group["params"], place, whole, rows))

    @torch.no_grad()
    def after(optimizer: torch.optim.Optimizer, args, kwargs) -> None:
        while seen:
            params, place, whole, rows = seen.pop()
            part, params[place] = params[place], whole
            whole[rows] = part
            state = optimizer.state[whole]
            for key, value in optimizer.state.pop(part, {}).items():
                if not _like(value, part):
                    state[key] = value
                    continue
                if key not in state:
                    state[key] = torch.zeros_like(whole)
                state[key][rows] = value

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def _like(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape
