"""Embeddings come back as they were stored, under what they depend on alone; nothing that was changed comes back."""
from __future__ import annotations

import numpy as np
import pytest

from askd.errors import DataError
from askd.evaluation.store import Store

ABOUT = {"model": "a", "size": 14, "versions": {"askd": "1"}}


def stored(folder, about=ABOUT, seed=0):
    rows = np.random.default_rng(seed).normal(size=(2, 5, 3)).astype(np.float32)
    unfinished = Store(folder).create(about, *rows.shape)
    for part in (slice(0, 2), slice(2, 5)):
        unfinished.rows[:, part] = rows[:, part]
    return rows, unfinished


def test_comes_back_as_it_was_stored(tmp_path):
    rows, unfinished = stored(tmp_path / "cache")
    assert Store(tmp_path / "cache").find(ABOUT) is None  # not before it is whole
    np.testing.assert_array_equal(unfinished.finish(), rows)
    unfinished.abandon()  # what is finished stays
    found = Store(tmp_path / "cache").find(dict(reversed(ABOUT.items())))
    np.testing.assert_array_equal(found, rows)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("changed", [{"model": "b"}, {"size": 15}, {"size": "14"}, {"versions": {"askd": "2"}}, {"more": None}])
def test_what_depends_on_something_else_is_another(tmp_path, changed):
    stored(tmp_path)[1].finish()
    assert Store(tmp_path).find(ABOUT | changed) is None


def test_leaves_nothing_behind_unfinished(tmp_path):
    _, unfinished = stored(tmp_path)
    unfinished.abandon()
    assert not list(tmp_path.iterdir())


def test_what_was_changed_is_refused(tmp_path):
    stored(tmp_path)[1].finish()
    path, = tmp_path.glob("*.npy")
    content = path.read_bytes()
    for damaged in (content[:-4], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{path.name}: is not what was stored there"):
            Store(tmp_path).find(ABOUT)
    path.write_bytes(content)
    path.with_suffix(".json").write_text("[")
    with pytest.raises(DataError, match="delete it"):
        Store(tmp_path).find(ABOUT)


def test_a_place_that_cannot_hold_it_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cache=FOLDER"):
        stored(tmp_path / "file")
