"""What a run tells: `metrics.jsonl` for programs, TensorBoard events for curves, and the terminal for whoever waits."""
from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch.utils.tensorboard import SummaryWriter

from askd.engine.dist import is_main
from askd.errors import TrainingError

SECONDS_BETWEEN_LINES = 12.0  # on a pipe or a file
SECONDS_BETWEEN_UPDATES = 1.0  # on a terminal, of the numbers beside the bar


class Throughput:
    """Images per second of training, with the time spent evaluating left out.

    images_per_step: over all ranks.
    """

    def __init__(self, images_per_step: int, window: int = 50):
        self.images_per_step = images_per_step
        self._steps, self._excluded = 0, 0.0
        self._start = time.monotonic()
        self._ends: deque[float] = deque(maxlen=window + 1)

    def step_done(self) -> None:
        """Counts one step."""
        self._steps += 1
        self._ends.append(self._active())

    def recent(self) -> float:
        """The rate over the last `window` steps; the first step of all (compilation, cold caches) is left out."""
        if len(self._ends) < 2:
            return self.overall()
        return self.images_per_step * (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-9)

    def overall(self) -> float:
        """The rate since the start."""
        return self.images_per_step * self._steps / max(self._active(), 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of every rate."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._excluded += time.monotonic() - began

    def _active(self) -> float:
        return time.monotonic() - self._start - self._excluded


class RunLog:
    """The log of one run in `folder`; on any rank but 0 it does nothing.

    total_steps: where the bar ends. title: what the terminal calls the run. start: the step resumed from; lines of
    `metrics.jsonl` and TensorBoard points past it belong to a future that will be trained again, and are dropped.
    A context manager: the terminal and the files are released at its end.
    """

    def __init__(self, folder: Path, total_steps: int, title: str, start: int = 0):
        self.path = Path(folder) / "metrics.jsonl"
        self.total_steps, self.title, self.start = total_steps, title, start
        self._main = is_main()
        if not self._main:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            drop_lines_past(self.path, start)
            self._lines = open(self.path, "a", encoding="utf-8")
            self._board = SummaryWriter(str(folder), purge_step=start + 1, flush_secs=30)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._began, self._shown = time.monotonic(), -math.inf
        self._bar = _progress_bar() if sys.stderr.isatty() else None
        if self._bar:
            self._task = self._bar.add_task(title, total=total_steps, completed=start, status="")
            self._bar.start()

    def __enter__(self) -> RunLog:
        self._excepthook, threading.excepthook = threading.excepthook, self._of_thread
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        threading.excepthook = self._excepthook
        if not self._main:
            return
        if self._bar:
            self._bar.stop()
        for file in (self._board, self._lines):
            try:
                file.close()
            except OSError as error:
                if kind is None:  # otherwise something else has ended the run, and is what should be told
                    raise self._cannot_write(error) from error

    def _of_thread(self, failed: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread; where the disk refuses, its next call here raises what is told then, without a traceback now."""
        if not isinstance(failed.exc_value, OSError):
            self._excepthook(failed)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line {"step", "time", name: value, ...} and a TensorBoard point per name.

        time: seconds since 1970. A value that is not finite becomes null in the line.
        """
        if not self._main:
            return
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        try:
            self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
            self._lines.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            raise self._cannot_write(error) from error

    def evaluation(self, step: int, results: dict[str, float | np.ndarray]) -> dict[str, float]:
        """What an evaluation found: its numbers, which are returned, as `scalars` and in words, its arrays as figures."""
        metrics = {name: float(value) for name, value in results.items() if not isinstance(value, np.ndarray)}
        for name, value in results.items():
            if isinstance(value, np.ndarray):
                self.image(name, value, step)
        self.scalars(step, metrics)
        self.say(f"step {step}  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        return metrics

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """A figure for TensorBoard, uint8 (H, W, 3) RGB."""
        if not self._main:
            return
        try:
            self._board.add_image(name, image, step, dataformats="HWC")
        except OSError as error:
            raise self._cannot_write(error) from error

    def tick(self, step: int, latest: Callable[[], dict[str, float]]) -> None:
        """Moves the progress on to `step`; calls `latest`, which may cost a device sync, only to show numbers."""
        if not self._main:
            return
        due = time.monotonic() - self._shown >= (SECONDS_BETWEEN_UPDATES if self._bar else SECONDS_BETWEEN_LINES)
        if due or step == self.total_steps:
            self._shown = time.monotonic()
            status = f"ETA {self._remaining(step)}  {_describe(latest())}"
            if self._bar:
                self._bar.update(self._task, status=status)
            else:
                self.say(f"{step / self.total_steps:4.0%}  step {step}/{self.total_steps}  {status}")
        if self._bar:
            self._bar.update(self._task, completed=step)

    def say(self, text: str) -> None:
        """One line to the terminal, above the bar if there is one."""
        if not self._main:
            return
        if self._bar:
            self._bar.console.print(f"{self.title}  {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"{self.title}  {text}", file=sys.stderr, flush=True)

    def _remaining(self, step: int) -> timedelta:
        seconds_per_step = (time.monotonic() - self._began) / max(step - self.start, 1)
        return timedelta(seconds=round((self.total_steps - step) * seconds_per_step))

    def _cannot_write(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"cannot write {self.path} or TensorBoard's events beside it ({error.strerror or error}); free some space or choose a writable folder"
        )


def drop_lines_past(path: Path, step: int) -> None:
    """Rewrites a `metrics.jsonl`, whole or not at all, without the lines past `step` and without a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    partial = path.with_name(path.name + ".tmp")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def _progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
    return Progress(*columns, console=Console(stderr=True))


def _describe(values: dict[str, float]) -> str:
    rate = {"images_per_second": "{:.0f} img/s", "lr": "lr {:.3g}"}
    return "  ".join(rate.get(name, name + " {:.4g}").format(value) for name, value in values.items())
