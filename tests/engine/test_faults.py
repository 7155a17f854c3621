"""Faults at chosen points, in processes of their own: killed, out of disk, a rank lost; what was promised is kept, to the last bit.

benchmarks/faults.py is the long form, with real networks and moments left to chance.
"""
from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from askd.engine.checkpoint import Checkpoints, read_state
from toy import STEPS, Toy, killed_at, on_a_full_disk

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds; a process here takes a few
EVERY = 3  # steps between checkpoints

# Writes and new names, in order: checkpoints of steps 3, 6, 9, 10 (evaluated) and its best weights before it, 12, ...
POINTS = ["step:1", "step:8", "write:1", "write:2", "write:4", "replace:1", "replace:3", "replaced:1", "replaced:5", "unlink:1", "unlink:3"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Toy:
    toy = Toy()
    toy.train(tmp_path_factory.mktemp("uninterrupted"))
    return toy


@pytest.fixture(scope="module")
def server():
    """Processes start from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy"])
    return context


def run(server, function, *arguments) -> int:
    process = server.Process(target=function, args=arguments)
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


@pytest.mark.parametrize("point", POINTS)
def test_killed_there_it_loses_no_more_than_promised(point, server, tmp_path, uninterrupted):
    assert run(server, killed_at, point, tmp_path) == -signal.SIGKILL
    done = (tmp_path / "steps").stat().st_size
    sound = [step for step, path in Checkpoints(tmp_path / "checkpoints").steps().items() if read_state(path)["progress"]["step"] == step]
    assert done - max(sound, default=0) <= EVERY and done < STEPS
    toy = Toy()
    toy.train(tmp_path)
    assert toy.calls == STEPS - max(sound, default=0) and toy.bits() == uninterrupted.bits()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("every, refused", [(EVERY, "step_00000009.pt"), (0, "metrics.jsonl or TensorBoard's events beside it")])
def test_a_full_disk_is_one_line_and_costs_nothing(every, refused, server, tmp_path, uninterrupted):
    assert run(server, on_a_full_disk, 8, every, tmp_path) == 2
    (line,) = [line for line in (tmp_path / "err.txt").read_text().splitlines() if not line.startswith("train  ")]
    assert re.fullmatch(rf"askd.toy: cannot write .*{re.escape(refused)} \(.*\); free some space or choose a writable folder", line)
    kept = Checkpoints(tmp_path / "checkpoints").steps()
    assert list(kept) == ([3, 6] if every else []) and not list((tmp_path / "checkpoints").glob("*.tmp"))
    toy = Toy()
    toy.train(tmp_path)
    assert toy.calls == STEPS - max(kept, default=0) and toy.bits() == uninterrupted.bits()


def torchrun(folder: Path, *fault: str, restarts: int = 0) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}",
         REPOSITORY / "tests" / "toy.py", folder, *fault],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=PATIENCE,
    )


def bits_of(folder: Path) -> list[bytes]:
    modules = read_state(folder / "checkpoints" / f"step_{STEPS:08d}.pt")["modules"]
    return [value.numpy().tobytes() for name in ("trunk", "head") for value in modules[name].values()]


def test_a_lost_rank_is_started_again_and_changes_no_bit(tmp_path, uninterrupted):
    """Both ranks have the same batches here, so that their mean gradient, and with it every bit, is one process's."""
    done = torchrun(tmp_path, "SIGKILL", "14", restarts=1)
    assert done.returncode == 0, done.stderr
    assert bits_of(tmp_path) == uninterrupted.bits()


def test_a_rank_that_fails_ends_the_job_and_is_named(tmp_path):
    done = torchrun(tmp_path, "error", "5")
    assert done.returncode == 1
    assert "askd.toy: this rank has had enough" in done.stderr
    cause = done.stderr.split("Root Cause")[1]
    assert re.search(r"rank +: 1 ", cause) and "TrainingError: this rank has had enough" in cause
    assert list(Checkpoints(tmp_path / "checkpoints").steps()) == [3]
