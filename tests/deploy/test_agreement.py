"""Accuracies of the gate: counted by hand, unmoved by chance, and moved by what is wrong."""
from __future__ import annotations

import numpy as np
import pytest

from askd.data.pairs import PairSet
from askd.deploy.agreement import accuracies


def pair_set(left, right, same, identity=None) -> PairSet:
    count = max(max(left), max(right)) + 1
    return PairSet("x", [b""] * count, np.array(left), np.array(right), np.array(same), np.zeros(len(left), np.int16), identity, [""] * count)


def at_angles(degrees) -> np.ndarray:
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)


def test_counted_by_hand():
    """Four genuine pairs at 10 degrees, four impostors at 80; the other network has one genuine pair at 85 and one impostor at 5."""
    left, right, same = list(range(0, 16, 2)), list(range(1, 16, 2)), [True] * 4 + [False] * 4
    ours = at_angles(np.stack([np.arange(8) * 20, np.arange(8) * 20 + np.where(same, 10, 80)], 1).ravel())
    theirs = ours.copy()
    theirs[1], theirs[15] = at_angles([85])[0], at_angles([7 * 20 + 5])[0]
    assert accuracies(ours, theirs, pair_set(left, right, same)) == (1.0, 0.75)
    assert accuracies(ours, ours, pair_set(left, right, same)) == (1.0, 1.0)


def test_all_pairs_are_compared_where_people_are_known():
    """Two people of three faces each, none of their 6 genuine pairs and 9 impostors listed."""
    identity = np.array([0, 0, 0, 1, 1, 1])
    near, far = at_angles([0, 2, 4, 90, 92, 94]), at_angles([0, 2, 4, 90, 92, 1])
    # In `far` the last face turns up among the first person's: its two genuine pairs (folds 4, 5 of six) are lost, and of the impostors
    # (2, 2, 2, 1, 1, 1 in a fold) the third, sixth and ninth are taken for genuine ones, half of folds 1 and 2 and all of fold 5.
    found = accuracies(near, far, pair_set([0], [1], [True], identity))
    assert found == (1.0, pytest.approx((1 + 0.75 + 0.75 + 1 + 0.5 + 0) / 6))


def test_a_faithful_export_is_not_refused_by_chance():
    """Embeddings that differ by rounding of float16: far less than a tenth of a point, at any of ten draws of people."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        identity = np.repeat(np.arange(100), 4)
        ours = rng.standard_normal((100, 32))[identity] + 1.2 * rng.standard_normal((400, 32))
        theirs = ours.astype(np.float16).astype(np.float64)
        expected, found = accuracies(ours, theirs, pair_set([0], [1], [True], identity))
        assert 0.8 < expected < 0.99 and abs(expected - found) < 0.001


def test_a_worse_network_is_worse():
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(100), 4)
    ours = rng.standard_normal((100, 32))[identity] + 1.2 * rng.standard_normal((400, 32))
    expected, found = accuracies(ours, ours + 0.5 * rng.standard_normal(ours.shape), pair_set([0], [1], [True], identity))
    assert expected - found > 0.01


def test_too_few_pairs_give_none():
    assert accuracies(np.eye(3), np.eye(3), pair_set([0, 1], [1, 2], [True, False])) == (None, None)
