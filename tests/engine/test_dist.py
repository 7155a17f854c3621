"""What the engine asks torch.distributed: that a lost process is told in one line, and other errors are left alone."""
from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
import torch

from askd.engine import dist
from askd.errors import TrainingError


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells one of its processes."""
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "GROUP_WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return {name: str(value) for name, value in {**given, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": 0}.items()}


@pytest.fixture
def torchrun(monkeypatch):
    """The environment that torchrun gives to the only process of a job."""
    for name, value in environment(0, 1, 0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "SECONDS_TO_BE_STOPPED", 0)


def test_a_lost_process_is_one_line(torchrun):
    with pytest.raises(TrainingError, match="rank 0 lost another process of the job; .* goes on from the newest checkpoint") as raised:
        with dist.init_from_env():
            assert (dist.rank(), dist.world_size(), dist.any_rank(True)) == (0, 1, True)
            raise RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:545] Connection closed by peer [127.0.0.1]:1420")
    assert "\n" not in str(raised.value)


def test_other_errors_stay_what_they_are(torchrun):
    with pytest.raises(RuntimeError, match="mat1 and mat2") as raised:
        with dist.init_from_env():
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not isinstance(raised.value, TrainingError)
    assert dist.world_size() == 1


def leave(rank: int, port: int, folder: str) -> None:
    os.environ.update(environment(rank, 2, port))
    with dist.init_from_env():
        dist.barrier()
        time.sleep(1.5 * (rank == 0))  # a rank that is still busy behind the last collective
        through = time.monotonic()
    Path(folder, str(rank)).write_text(f"{through} {time.monotonic()}")


def test_no_rank_closes_its_connections_before_all_are_through(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(leave, (port, str(tmp_path)), nprocs=2)
    (late, _), (early, left) = (map(float, (tmp_path / rank).read_text().split()) for rank in "01")
    assert early < late <= left
