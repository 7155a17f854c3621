"""Programs in processes of their own, several at a time, that end when whoever started them is told to."""
from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Launch = Callable[[Sequence[str], Path, dict[str, str]], int]


def in_parallel(work: Callable[[Any, Launch], None], batches: Iterable[Sequence[Any]], jobs: int) -> None:
    """Call `work(item, launch)` for every item, `jobs` at a time in threads, one batch after the other.

    `launch(command, log, environment)` runs a program to its end, its words going to the file `log`, and returns its exit status. On
    SIGINT or SIGTERM no further item is begun, running programs are sent SIGTERM and waited for, and KeyboardInterrupt is raised.
    """
    children: set[subprocess.Popen] = set()
    lock, stopping = threading.Lock(), threading.Event()

    def launch(command: Sequence[str], log: Path, environment: dict[str, str]) -> int:
        with open(log, "w") as said:
            with lock:
                if stopping.is_set():
                    return -signal.SIGTERM
                # A session of its own: the terminal's Ctrl-C comes here alone, and reaches the child once, as SIGTERM.
                child = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **environment}, start_new_session=True)
                children.add(child)
            status = child.wait()
            with lock:
                children.discard(child)
            return status

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = ThreadPoolExecutor(jobs)
    try:
        for batch in batches:
            for finished in [pool.submit(work, item, launch) for item in batch]:
                finished.result()
    finally:
        with lock:
            stopping.set()
            for child in children:
                child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        signal.signal(signal.SIGTERM, before)
