"""The length of the gradient, of which ranks may hold parts, and its clipping."""
from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from askd.collectives import reduce_sum


def clip_gradient(parameters: Iterable[nn.Parameter], limit: float | None, sharded: Collection[nn.Parameter] = ()) -> Tensor:
    """torch's clip_grad_norm_, where the `sharded` parameters are rows that each rank has others of, and gradients may be sparse.

    Returns the L2 norm before clipping, the same on every rank; limit None clips nothing.
    """
    parameters = list(parameters)
    if not sharded and limit is not None:
        return nn.utils.clip_grad_norm_(parameters, limit)
    whole = [p.grad for p in parameters if p.grad is not None and p not in sharded]
    parts = [_values(p) for p in parameters if p.grad is not None and p in sharded]
    norm = nn.utils.get_total_norm(whole)
    if sharded:
        norm = (reduce_sum(nn.utils.get_total_norm(parts).square()) + norm.square()).sqrt()
    if limit is not None:
        torch._foreach_mul_([*whole, *parts], (limit / (norm + 1e-6)).clamp(max=1))
    return norm


def _values(parameter: nn.Parameter) -> Tensor:
    """The numbers of a gradient; of a sparse one those of the rows that it has, each row once."""
    if parameter.grad.is_sparse:
        parameter.grad = parameter.grad.coalesce()
        return parameter.grad.values()
    return parameter.grad
