"""Work done by several processes at once, as ranks of one job; forked from a process that has imported torch already."""
from __future__ import annotations

import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tiny import PATIENCE, _server


def on_ranks(world: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `work(*arguments)`, a function of some module, returns on each of `world` ranks; AssertionError with the traceback of one that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = [_server().Process(target=_rank, args=(rank, world, folder, work, arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    left, failed = set(processes), []
    while left:
        for ready in wait([process.sentinel for process in left], PATIENCE) or [None]:
            process = next((process for process in left if process.sentinel == ready), None)
            if process is None or process.exitcode:
                failed.append(process)
                for other in left:  # they would wait for it for ever
                    other.kill()
            left.discard(process)
        if failed:
            break
    for process in processes:
        process.join()
    assert not failed, "".join(path.read_text() for path in sorted(folder.glob("error_*.txt"))) or "a rank hangs, or was killed"
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, folder: Path, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world)
        torch.save(work(*arguments), folder / f"result_{rank}.pt")
        distributed.destroy_process_group()
    except BaseException:
        (folder / f"error_{rank}.txt").write_text(f"rank {rank}: {traceback.format_exc()}")
        raise
