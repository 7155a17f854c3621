"""Collectives that gradients pass through; with one process each does nothing.

Every rank has a loss of its own, and what training minimises is their mean: DDP averages gradients over the ranks. So the gradient of
what other ranks used, too, is the sum of what all of them made of it; parameters that no DDP averages divide it by the world themselves.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def rank() -> int:
    """This process's rank in the job, 0 where there is no process group."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def world_size() -> int:
    """The number of processes in the job, 1 where there is no process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class Ranks:
    """How a batch lies on the ranks: in rank order, rows of the whole batch one after another.

    even: every rank has as many rows as any other, always; otherwise they tell one another how many they have, a collective on the host.
    """

    def __init__(self, even: bool = True):
        self.even = even

    def counts(self, rows: int) -> list[int]:
        """Every rank's rows, this one having `rows`."""
        if self.even or world_size() == 1:
            return [rows] * world_size()
        counts = torch.empty(world_size(), dtype=torch.long)
        distributed.all_gather_into_tensor(counts, torch.tensor([rows]))
        return counts.tolist()

    def share(self, rows: int) -> float:
        """The factor on a mean over this rank's rows that makes the ranks' mean one over all rows; 1 where all have as many."""
        return rows * world_size() / sum(self.counts(rows)) if rows else 0.0

    def gather(self, rows: Tensor) -> Tensor:
        """The whole batch, (B of this rank, ...) -> (B of all, ...), on every rank."""
        return rows if world_size() == 1 else self._gather(rows)

    @torch.compiler.disable  # collectives are no part of a graph
    def _gather(self, rows: Tensor) -> Tensor:
        return _Gather.apply(rows, self.counts(len(rows)))


class _Gather(torch.autograd.Function):
    """All ranks' rows; backward, each rank's gradient summed over the ranks that used it."""

    @staticmethod
    def forward(ctx, rows: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        padded = _padded(rows.contiguous(), max(counts))
        everything = padded.new_empty(len(counts) * max(counts), *rows.shape[1:])
        distributed.all_gather_into_tensor(everything, padded)
        if min(counts) == max(counts):
            return everything
        return torch.cat([part[:count] for part, count in zip(everything.split(max(counts)), counts)])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        counts = ctx.counts
        if min(counts) != max(counts):
            gradient = torch.cat([_padded(part, max(counts)) for part in gradient.split(counts)])
        own = gradient.new_empty(max(counts), *gradient.shape[1:])
        distributed.reduce_scatter_tensor(own, gradient.contiguous())
        return own[: counts[rank()]], None


def _padded(rows: Tensor, length: int) -> Tensor:
    return rows if len(rows) == length else torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])


class _Sum(torch.autograd.Function):
    """The ranks' sum; backward, the sum of their gradients."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def reduce_sum(values: Tensor) -> Tensor:
    """The sum over the ranks, elementwise, on every rank."""
    return values if world_size() == 1 else _sum(values)


@torch.compiler.disable
def _sum(values: Tensor) -> Tensor:
    return _Sum.apply(values)


def reduce_max(values: Tensor) -> Tensor:
    """The maximum over the ranks, elementwise and without gradient, on every rank."""
    values = values.detach().clone()
    if world_size() > 1:
        distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
    return values
