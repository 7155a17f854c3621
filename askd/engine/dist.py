"""The few questions the engine asks torch.distributed; without a process group there is one rank, 0 of 1."""
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from askd.collectives import Ranks, rank, world_size
from askd.errors import TrainingError

SECONDS_TO_BE_STOPPED = 5  # in which torchrun, having seen who failed first, ends this process; it names the earliest error, in whole seconds


def is_main() -> bool:
    """Whether this is the rank that writes files and speaks to the terminal."""
    return rank() == 0


@contextmanager
def init_from_env(device: str | torch.device = "cpu") -> Iterator[torch.device]:
    """Joins the process group that torchrun's environment describes, leaves it at exit; without torchrun does nothing.

    device: "cpu" (gloo) or "cuda" (nccl for device tensors, gloo for host tensors). Yields this rank's
    device: with "cuda" under torchrun the one numbered LOCAL_RANK, made current. TrainingError where another process is lost meanwhile.
    """
    device = torch.device(device)
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    store, number, world = next(distributed.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":  # torchrun's attempts share a store, and addresses of the last one lie in it (pytorch#135712)
        store = distributed.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=world)
    try:
        yield device
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        time.sleep(SECONDS_TO_BE_STOPPED)
        raise TrainingError(
            f"rank {number} lost another process of the job; look for that one's error. Started again, training goes on from the newest checkpoint"
        ) from error
    finally:
        distributed.destroy_process_group()


def all_reduce_mean(values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over ranks, which all pass the same names; one collective on the host, in float64."""
    if world_size() == 1 or not values:
        return values
    names = sorted(values)
    sums = torch.tensor([values[name] for name in names], dtype=torch.float64)
    distributed.all_reduce(sums)
    means = dict(zip(names, (sums / world_size()).tolist()))
    return {name: means[name] for name in values}


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; the same answer on all of them."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
    return bool(votes.item())


def all_gather(value: Any) -> list[Any]:
    """Each rank's small object, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    distributed.all_gather_object(gathered, value)
    return gathered


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """All ranks' rows one after another, on every rank; each may have another number of them."""
    return Ranks(even=False).gather(torch.from_numpy(rows)).numpy()


def broadcast_buffers(module: nn.Module) -> None:
    """Gives every rank rank 0's buffers, batch norms' statistics above all: those it saves."""
    if world_size() > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def gather(value: Any) -> list[Any] | None:
    """Each rank's object, in rank order, on the main rank; None on the others."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] | None = [None] * world_size() if is_main() else None
    distributed.gather_object(value, gathered)
    return gathered


def barrier() -> None:
    """Waits for every rank."""
    if world_size() > 1:
        distributed.barrier()
