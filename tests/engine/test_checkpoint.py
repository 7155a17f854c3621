"""Checkpoints: whole or not at all, checked before use, and never able to run code."""
from __future__ import annotations

import json
import pickle
import random
import resource
import signal

import numpy as np
import pytest
import torch
from torch import nn

from askd.engine.checkpoint import (
    Checkpoints,
    load_module,
    load_weights,
    read_state,
    remove_stale_files,
    save_weights,
    write_state,
)
from askd.engine.randomness import kept_random_state, random_state, restore_random_state
from askd.errors import CheckpointError


def flip_a_byte_of_the_weights(path, value: float) -> None:
    content = bytearray(path.read_bytes())
    position = content.index(np.full(8, value, np.float32).tobytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_keeps_the_newest_and_drops_an_abandoned_future(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for step in (10, 20, 30):
        checkpoints.save(step, {"step": step})
    assert list(checkpoints.steps()) == [20, 30]
    checkpoints.save(25, {"step": 25})
    assert list(checkpoints.steps()) == [20, 25]
    assert checkpoints.load(checkpoints.latest()) == {"step": 25}


def test_a_state_comes_back_bit_by_bit_with_its_layout(tmp_path):
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = Checkpoints(tmp_path).save(1, {"weight": weight, "optimizer": optimizer.state_dict()})
    state = read_state(path)
    assert torch.equal(state["weight"], weight) and state["weight"].stride() == weight.stride()
    assert str(state["optimizer"]) == str(optimizer.state_dict())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_a_corrupt_newest_checkpoint_falls_back_and_says_so(tmp_path, caplog, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weight": torch.full((5000,), 1.5)})
    newest = checkpoints.save(2, {"weight": torch.full((5000,), 2.5)})
    if damage == "flipped":
        flip_a_byte_of_the_weights(newest, 2.5)
        torch.load(newest, weights_only=True)  # torch itself does not notice
    else:
        newest.write_bytes({"truncated": newest.read_bytes()[:-100], "empty": b"", "text": b"not a zip" * 99}[damage])
    assert checkpoints.latest() == tmp_path / "step_00000001.pt"
    assert str(newest) in caplog.text and "corrupt" in caplog.text
    with pytest.raises(CheckpointError, match=r"step_00000002.pt is corrupt .* remove it"):
        checkpoints.load(newest)


def test_when_all_are_corrupt_it_does_not_start_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {}).write_bytes(b"")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        checkpoints.latest()


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"evil": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "pickle.pt"):
        with pytest.raises(CheckpointError, match=name):
            read_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_missing_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint .*nowhere.pt"):
        read_state(tmp_path / "nowhere.pt")


def test_a_full_disk_leaves_the_previous_file_intact(tmp_path):
    path = tmp_path / "best.pt"
    write_state(path, {"weight": torch.zeros(10)})
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*best.pt \(.*File too large\); free some space"):
            write_state(path, {"weight": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert torch.equal(read_state(path)["weight"], torch.zeros(10))
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


def test_an_impossible_folder_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        write_state(tmp_path / "file" / "x.pt", {})


def test_stale_files_go(tmp_path):
    (tmp_path / "step_00000001.pt.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("stays")
    remove_stale_files(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_weights_round_trip(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    meta = {"backbone": "tiny", "size": 112, "name": "größe"}
    save_weights(tmp_path, model.state_dict(), meta)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        weights, read = load_weights(path)
        assert read == meta and json.loads((tmp_path / "meta.json").read_text("utf-8")) == meta
        assert {name: value.tolist() for name, value in weights.items()} == {
            name: value.tolist() for name, value in model.state_dict().items()
        }


def test_half_a_pair_of_weights_does_not_count(tmp_path):
    save_weights(tmp_path, {"a": torch.zeros(2)}, {})
    (tmp_path / "meta.json").unlink()
    with pytest.raises(CheckpointError, match="no meta.json"):
        load_weights(tmp_path)
    save_weights(tmp_path, {"a": torch.zeros(2)}, {})
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="corrupt"):
        load_weights(tmp_path)


def test_a_module_takes_every_key_and_no_other():
    source = nn.Linear(3, 2)
    target = nn.Linear(3, 2)
    load_module(target, source.state_dict(), "x.pt")
    assert torch.equal(source.weight, target.weight)
    for given, problem in [
        ({"weight": torch.zeros(2, 3)}, "lacks bias"),
        ({**source.state_dict(), "scale": torch.zeros(1)}, "has scale, which the network does not"),
        (nn.Linear(4, 2).state_dict(), r"weight is \(2, 4\), the network's \(2, 3\)"),
        (nn.Linear(4, 3).state_dict(), "and 1 more"),
    ]:
        with pytest.raises(CheckpointError, match=rf"x.pt do not fit Linear: .*{problem}") as raised:
            load_module(target, given, "x.pt")
        assert "\n" not in str(raised.value)


def draw() -> tuple:
    return torch.rand(3).tolist(), torch.randn(2).tolist(), random.gauss(0, 1), np.random.randn(3).tolist()


def test_random_generators_resume_through_a_file(tmp_path):
    draw()  # odd numbers of gaussians: the generators hold a spare one, which must come back too
    write_state(tmp_path / "random.pt", random_state())
    expected = [draw(), draw()]
    restore_random_state(read_state(tmp_path / "random.pt"))
    assert [draw(), draw()] == expected
    restore_random_state(read_state(tmp_path / "random.pt"))
    with kept_random_state():
        draw()
    assert draw() == expected[0]
