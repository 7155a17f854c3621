"""Programs side by side: all run, as many at a time as asked, and none is left behind."""
from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from askd.engine.processes import in_parallel


def test_every_item_runs_batch_after_batch_and_so_many_at_a_time(tmp_path):
    lock, running, most, order = threading.Lock(), set(), [], []

    def work(item, launch):
        with lock:
            running.add(item)
            most.append(len(running))
        code = f"import os; print(os.environ['WORD']); raise SystemExit({item})"
        status = launch([sys.executable, "-S", "-c", code], tmp_path / str(item), {"WORD": f"said {item}"})
        with lock:
            running.discard(item)
            order.append((item, status))

    in_parallel(work, ([1, 2, 3, 4], [5]), 2)
    assert sorted(order) == [(item, item) for item in range(1, 6)] and order[-1] == (5, 5) and max(most) == 2
    assert [(tmp_path / str(item)).read_text() for item in (1, 5)] == ["said 1\n", "said 5\n"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_ends_what_runs_and_begins_nothing_more(how, tmp_path):
    code = (
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('ended').write_text('well'), sys.exit(3)))\n"
        "pathlib.Path('begun').touch(); time.sleep(60)"
    )
    before, statuses = signal.getsignal(signal.SIGTERM), []

    def work(item, launch):
        statuses.append(launch([sys.executable, "-S", "-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}"], tmp_path / "log", {}))

    def stop():
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), how)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        in_parallel(work, ([1, 2, 3],), 1)
    assert (tmp_path / "ended").read_text() == "well" and statuses[0] == 3 and set(statuses[1:]) <= {-signal.SIGTERM}
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_in_one_ends_the_others(tmp_path):
    def work(item, launch):
        if item == 2:
            raise ValueError("two")
        launch([sys.executable, "-S", "-c", "import time; time.sleep(60)"], tmp_path / "log", {})

    began = time.monotonic()
    with pytest.raises(ValueError, match="two"):
        in_parallel(work, ([2, 1],), 2)
    assert time.monotonic() - began < 50
