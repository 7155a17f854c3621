"""Work spread over processes: in order, and none left behind whatever ends the first."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from askd.data.processes import in_processes
from askd.errors import DataError


class Slowly:
    """Adds, the slower the smaller the number."""

    def __init__(self, summand: int):
        self.summand = summand

    def __call__(self, number: int) -> tuple[int, int]:
        time.sleep(0.02 * (number % 3))
        if number < 0:
            os._exit(9)
        return number + self.summand, os.getpid()


@pytest.mark.parametrize("processes", [1, 2])
def test_in_order_and_in_as_many_processes(processes):
    results = list(in_processes((Slowly, (10,)), iter(range(30)), processes))
    assert [number for number, _ in results] == list(range(10, 40))
    pids = {pid for _, pid in results}
    assert len(pids) <= processes and (pids == {os.getpid()}) == (processes == 1)


def test_a_process_that_dies_is_one_error():
    with pytest.raises(DataError, match="one of 2 processes died"):
        list(in_processes((Slowly, (10,)), [1, -1, 2], 2))


PROGRAM = """
import os, sys, time
from askd.data.processes import in_processes
class Show:
    def __call__(self, number):
        os.write(1, f"{os.getpid()}\\n".encode())  # at once: two processes write
        time.sleep(0.05)
if __name__ == "__main__":
    for _ in in_processes((Show, ()), range(10**6), 2):
        pass
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_none_outlives_the_first(sent, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)
    pids = set()
    while len(pids) < 2:
        pids.add(int(process.stdout.readline()))
    if sent is signal.SIGINT:
        os.killpg(process.pid, sent)  # as the terminal does it: to all of them
    else:
        process.kill()
    _, said = process.communicate(timeout=600)
    assert said.count("Traceback") == (sent is signal.SIGINT)  # this program's own, and none from the others
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
