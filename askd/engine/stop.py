"""Being asked to stop: signals are noted, and training ends between two steps."""
from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """Training stopped on a signal, after writing a checkpoint; `exit_code` is the shell's 128 + signal (130, 143)."""

    def __init__(self, signal_number: int, step: int):
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name} after step {step}, which is checkpointed; resuming continues from there")
        self.exit_code = 128 + signal_number


class StopSignal:
    """While inside, the first SIGTERM or SIGINT is only noted in `received`; a second acts as it would have before."""

    def __init__(self):
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python gives handlers to that thread only
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.__exit__()
