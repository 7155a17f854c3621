"""The same work for many items in several processes: results in order, memory bounded, nobody left behind."""
from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any

import cv2

from askd.errors import DataError

_IN_FLIGHT = 4  # items per process that are submitted and not yet taken
_work: Callable | None = None


def in_processes(worker: tuple[Callable, tuple], items: Iterable, processes: int) -> Iterator[Any]:
    """Yield f(item) for every item, in order, where f is `worker[0](*worker[1])`, made once in every process.

    processes=1 works in this one. More are spawned, so a program that calls this keeps its entry point under `if __name__ ==
    "__main__"`; they leave an interrupt to this process, and end when it ends, whatever ends it. DataError where one of them dies.
    """
    make, arguments = worker
    if processes == 1:
        yield from map(make(*arguments), items)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (make, arguments))
    try:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(_apply, item))
            if len(waiting) >= processes * _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(f"one of {processes} processes died, probably of too little memory; say processes={processes // 2}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(make: Callable, arguments: tuple) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _work = make(*arguments)


def _end_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)


def _apply(item: Any) -> Any:
    return _work(item)
