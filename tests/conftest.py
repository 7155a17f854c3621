"""Fixtures shared by all tests."""
from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# One thread, here and in the processes that tests start: sums in another order have other last bits, and tests compare bits.
os.environ["OMP_NUM_THREADS"] = "1"
# As at a terminal: what a script starts in the background ignores SIGINT, and so would every process that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of research data (real faces, real models), which is not part of the project; skips where it is absent."""
    for folder in (os.environ.get("ASKD_SHARED"), REPOSITORY.parent / "shared"):
        if folder and (Path(folder) / "data").is_dir():
            return Path(folder)
    pytest.skip("no research data: set ASKD_SHARED to the folder that holds data/ and models/")
