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

Cuts = dict[str, tuple[int, int]]  # name -> (first row here, rows in all)


def cuts_of(module: nn.Module) -> Cuts:
    """The sharded parameters of a module and of the modules in it, by their names in its state_dict."""
    return {
        f"{path}.{name}" if path else name: cut
        for path, part in module.named_modules() for name, cut in getattr(part, "shards", {}).items()
    }


def cuts_of_all(modules: dict[str, nn.Module]) -> Cuts:
    """Those of several modules, by module and name."""
    return {f"{name}.{key}": cut for name, module in modules.items() for key, cut in cuts_of(module).items()}


def sharded_parameters(modules: Iterable[nn.Module]) -> dict[nn.Parameter, tuple[int, int]]:
    """The parameters themselves."""
    return {module.get_parameter(name): cut for module in modules for name, cut in cuts_of(module).items()}


def gather_rows(state: dict[str, Tensor], cuts: Cuts) -> dict[str, Tensor]:
    """A state_dict as one process would have it: whole on rank 0, on the CPU where it was cut. Every rank has to call this."""
    return state | {name: _whole(state[name]) for name in cuts}


def cut_rows(state: dict[str, Tensor], cuts: Cuts, lengths: dict[str, int]) -> dict[str, Tensor]:
    """The reverse; lengths: rows that are to be here. What has another number of rows in all is left as it is, for others to refuse."""
    return state | {
        name: state[name][first : first + lengths[name]] for name, (first, rows) in cuts.items() if name in state and len(state[name]) == rows
    }


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """`gather_rows` of a module."""
    return gather_rows(module.state_dict(), cuts_of(module))


def load_whole(module: nn.Module, state: dict[str, Tensor], source: Path | str) -> None:
    """load_module of a state that `whole_state` made; CheckpointError where it does not fit, also in the rows cut away."""
    cuts = cuts_of(module)
    load_module(module, cut_rows(state, cuts, {name: len(module.get_parameter(name)) for name in cuts}), source)


def whole_optimizer_state(optimizer: torch.optim.Optimizer, shards: dict[nn.Parameter, tuple[int, int]]) -> dict[str, Any]:
    """An optimiser's state_dict as one process would have it; every rank has to call this."""
    packed = optimizer.state_dict()
    state = dict(packed["state"])
    for number, parameter in enumerate(_parameters(optimizer)):
        if parameter in shards and number in state:
            state[number] = {key: _whole(value) if _shape(value) == tuple(parameter.shape) else value for key, value in state[number].items()}
    return packed | {"state": state}


def load_whole_optimizer_state(
    optimizer: torch.optim.Optimizer, shards: dict[nn.Parameter, tuple[int, int]], packed: dict[str, Any],
) -> None:
    """The reverse."""
    state = dict(packed["state"])
    for number, parameter in enumerate(_parameters(optimizer)):
        if parameter in shards and number in state:
            first, rows = shards[parameter]
            state[number] = {
                key: value[first : first + len(parameter)] if _shape(value)[:1] == (rows,) else value for key, value in state[number].items()
            }
    optimizer.load_state_dict(packed | {"state": state})


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


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
