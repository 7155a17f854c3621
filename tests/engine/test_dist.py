"""What the engine asks torch.distributed: that a lost process is told in one line, and other errors are left alone."""
from __future__ import annotations

import pytest

from askd.engine import dist
from askd.errors import TrainingError


@pytest.fixture
def torchrun(monkeypatch):
    """The environment that torchrun gives to the only process of a job."""
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "GROUP_WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": 0}
    for name, value in {**alone, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": 0}.items():
        monkeypatch.setenv(name, str(value))
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
