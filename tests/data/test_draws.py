"""Keyed draws repeat, are uniform, and neighbours know nothing of each other."""
from __future__ import annotations

import numpy as np
import pytest

from askd.data.draws import choices, draws


def test_draws_repeat_and_take_everything_into_account():
    epoch, index = np.array([3, 3, 4], np.uint64), np.array([5, 6, 5], np.uint64)
    drawn = draws(7, epoch, index, purpose=1)
    assert drawn.dtype == np.uint64 and len(set(drawn.tolist())) == 3
    assert np.array_equal(drawn, draws(7, epoch, index, purpose=1))
    assert [int(draws(7, e, i, purpose=1)) for e, i in zip(epoch, index)] == drawn.tolist()  # one by one, the same
    assert not set(drawn.tolist()) & set(draws(8, epoch, index, purpose=1).tolist())
    assert not set(drawn.tolist()) & set(draws(7, epoch, index, purpose=2).tolist())
    assert draws(2**63 - 1, epoch, index, purpose=0).shape == (3,)


def test_draws_are_splitmix64_folded_over_seed_purpose_epoch_and_image():
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def step(state):
        word = state + golden & mask
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & mask
        word = (word ^ word >> 27) * 0x94D049BB133111EB & mask
        return word ^ word >> 31

    # The usual test vector of splitmix64: the first three outputs from seed 1234567.
    outputs = [step(1234567 + n * golden) for n in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    expected = 0
    for word in (11, 2, 33, 44):  # seed, purpose, epoch, index
        expected = step(expected + word & mask)
    assert int(draws(11, np.array([33], np.uint64), np.array([44], np.uint64), purpose=2)[0]) == expected


@pytest.mark.parametrize("of", [2, 4, 5, 16])
@pytest.mark.parametrize("purpose", [0, 1, 4])
def test_draws_are_uniform(of, purpose):
    epoch, index = np.meshgrid(np.arange(40, dtype=np.uint64), np.arange(1000, dtype=np.uint64))
    drawn = draws(0, epoch.ravel(), index.ravel(), purpose)
    for values in (drawn % np.uint64(of), (drawn >> np.uint64(32)) % np.uint64(of)):
        counts = np.bincount(values.astype(int), minlength=of)
        chi_square = ((counts - len(drawn) / of) ** 2).sum() / (len(drawn) / of)
        assert chi_square < (of - 1) + 6 * (2 * (of - 1)) ** 0.5 + 6
    # Neighbours are independent: (draw of image i, draw of image i + 1) fill a square evenly.
    grid = (drawn % np.uint64(of)).astype(int).reshape(1000, 40)
    joint = np.bincount((grid[:-1] * of + grid[1:]).ravel(), minlength=of * of)
    expected = joint.sum() / of**2
    assert ((joint - expected) ** 2).sum() / expected < of**2 - 1 + 6 * (2 * (of**2 - 1)) ** 0.5 + 6


def test_choices_are_draws_cut_to_size():
    index = np.arange(1000, dtype=np.uint64)
    chosen = choices(3, np.uint64(1), index, purpose=2, of=7)
    assert chosen.dtype == np.int64 and np.array_equal(chosen, [int(word) % 7 for word in draws(3, np.uint64(1), index, purpose=2)])
