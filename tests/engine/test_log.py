"""The run's log: JSON lines and curves without a false future after a resume, and a bearable pace on the terminal."""
from __future__ import annotations

import json
import re
import resource
import signal

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from askd.engine import log as log_module
from askd.engine.log import RunLog, Throughput, drop_lines_past
from askd.errors import TrainingError


class Clock:
    """A stand-in for `time.monotonic` that moves only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log_module.time, "monotonic", clock)
    return clock


def read(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_and_curves_hold_the_same_numbers(tmp_path):
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    with RunLog(tmp_path, 10, "run") as log:
        log.scalars(5, {"loss": 1.5, "lr": np.float32(0.25)})
        log.scalars(10, {"loss": float("nan")})
        log.image("maps", picture, 10)
    first, second = read(tmp_path)
    assert first.pop("time") > 1.6e9 and first == {"step": 5, "loss": 1.5, "lr": 0.25}
    assert second["loss"] is None
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("lr")] == [(5, 0.25)]
    assert (events.Images("maps")[0].width, events.Images("maps")[0].step) == (2, 10)


def test_a_resume_drops_the_future_and_a_torn_line(tmp_path):
    with RunLog(tmp_path, 10, "run") as log:
        for step in (2, 4, 6):
            log.scalars(step, {"loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    with RunLog(tmp_path, 10, "run", start=4) as log:
        log.scalars(6, {"loss": 66.0})
    assert [(line["step"], line["loss"]) for line in read(tmp_path)] == [(2, 2.0), (4, 4.0), (6, 66.0)]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("loss")] == [(2, 2.0), (4, 4.0), (6, 66.0)]


def test_foreign_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnot json\n[3]\n{"stop": 1}\n{"step": 2}\n')
    drop_lines_past(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_plain_lines_come_at_the_first_step_every_twelve_seconds_and_at_the_last(tmp_path, clock, capsys):
    asked = []
    with RunLog(tmp_path, 100, "student", start=50) as log:
        for step in range(51, 101):
            clock.now += 1.0
            log.tick(step, lambda: asked.append(step) or {"loss": 2.5, "lr": 0.1, "images_per_second": 32.4})
    lines = capsys.readouterr().err.splitlines()
    assert asked == [51, 63, 75, 87, 99, 100]
    assert len(lines) == 6
    assert re.fullmatch(r"student   63%  step 63/100  ETA 0:00:37  loss 2.5  lr 0.1  32 img/s", lines[1])


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch):
    from rich.console import Console

    consoles = []

    def console(stderr: bool) -> Console:
        assert stderr
        consoles.append(Console(file=open(tmp_path / "screen.txt", "w"), force_terminal=True, width=120))
        return consoles[0]

    monkeypatch.setattr(log_module, "Console", console)
    monkeypatch.setattr(log_module.sys.stderr, "isatty", lambda: True, raising=False)
    with RunLog(tmp_path, 4, "student") as log:
        log.tick(2, lambda: {"loss": 2.5})
        log.say("accuracy [0.9]")
        log.tick(4, lambda: {"loss": 1.25})
    consoles[0].file.close()
    screen = (tmp_path / "screen.txt").read_text()
    assert "accuracy [0.9]" in screen and "loss 1.25" in screen and "4/4" in screen


def test_a_disk_that_refuses_the_curves_is_one_error(tmp_path, capsys):
    """TensorBoard's thread meets it; nothing is printed there, and the next call here says what to do."""
    figure = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(TrainingError, match="cannot write .*metrics.jsonl or TensorBoard's events beside it .*free some space"):
        with RunLog(tmp_path, 4, "student") as log:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
            try:
                for step in range(10_000):
                    log.image("attention", figure, step)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
                signal.signal(signal.SIGXFSZ, before)
    assert "Traceback" not in capsys.readouterr().err


def test_throughput_leaves_evaluation_out(clock):
    throughput = Throughput(images_per_step=8, window=4)
    clock.now += 30.0  # compiling
    throughput.step_done()
    for _ in range(6):
        clock.now += 0.5
        throughput.step_done()
        with throughput.paused():
            clock.now += 1000.0
    assert throughput.recent() == pytest.approx(16.0)
    assert throughput.overall() == pytest.approx(7 * 8 / 33.0)
