"""Parameters of which every rank holds some rows: saved whole by rank 0, cut again on reading, on however many ranks there are by then.

A module that holds such parameters says so in `shards`: {parameter's name: (its first row here, rows in all)}.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from askd.collectives import world_size
from askd.engine import dist
from askd.engine.checkpoint import load_module


def sharded_parameters(modules: Iterable[nn.Module]) -> dict[nn.Parameter, tuple[int, int]]:
    """Those of some modules, with first row and rows in all."""
    return {module.get_parameter(name): cut for module in modules for name, cut in getattr(module, "shards", {}).items()}


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state_dict as one process would have it: whole on rank 0, on the CPU where it was cut. Every rank has to call this."""
    state = module.state_dict()
    return state | {name: _whole(state[name]) for name in getattr(module, "shards", {})}


def load_whole(module: nn.Module, state: dict[str, Tensor], source: Path | str) -> None:
    """load_module of a state that `whole_state` made; CheckpointError where it does not fit, also in the rows cut away."""
    cut = dict(state)
    for name, (first, rows) in getattr(module, "shards", {}).items():
        if name in state and len(state[name]) == rows:
            cut[name] = state[name][first : first + len(module.get_parameter(name))]
    load_module(module, cut, source)


def whole_optimizer_state(optimizer: torch.optim.Optimizer, shards: dict[nn.Parameter, tuple[int, int]]) -> dict[str, Any]:
    """An optimiser's state_dict as one process would have it; every rank has to call this."""
    packed, state = optimizer.state_dict(), {}
    for number, parameter in enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]):
        if number in packed["state"]:
            kept = packed["state"][number]
            state[number] = {
                key: _whole(value) if parameter in shards and _like(value, parameter) else value for key, value in kept.items()
            }
    return packed | {"state": state}


def load_whole_optimizer_state(
    optimizer: torch.optim.Optimizer, shards: dict[nn.Parameter, tuple[int, int]], packed: dict[str, Any],
) -> None:
    """The reverse."""
    state = dict(packed["state"])
    for number, parameter in enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]):
        if number in state and parameter in shards:
            first, rows = shards[parameter]
            state[number] = {
                key: value[first : first + len(parameter)] if isinstance(value, Tensor) and value.shape[:1] == (rows,) else value
                for key, value in state[number].items()
            }
    optimizer.load_state_dict(packed | {"state": state})


def _like(value: Any, parameter: nn.Parameter) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _whole(rows: Tensor) -> Tensor:
    """All ranks' rows on rank 0, on the CPU; elsewhere the rank's own."""
    if world_size() == 1:
        return rows
    rows = rows.detach().cpu()
    counts = dist.all_gather(len(rows))
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])]) if len(rows) < max(counts) else rows.contiguous()
    parts = [torch.empty_like(padded) for _ in counts] if dist.is_main() else None
    distributed.gather(padded, parts)
    return torch.cat([part[:count] for part, count in zip(parts, counts)]) if parts is not None else rows
