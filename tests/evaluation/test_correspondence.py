"""Correspondence of channels: found where it was made, absent where it was not, and told apart from channels that all move together."""
from __future__ import annotations

import itertools

import numpy as np
import pytest

from askd.evaluation.correspondence import correlations, correspond, plot, table


def attention(faces: int, channels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((faces, channels))


def test_correlations_are_numpy_s():
    ours, theirs = attention(20, 3, 0), attention(20, 4, 1)
    np.testing.assert_allclose(correlations(ours, theirs), np.corrcoef(ours.T, theirs.T)[:3, 3:], atol=1e-12)
    ours[:, 1] = 0.7
    assert (correlations(ours.astype(np.float32), theirs)[1] == 0).all()


def test_the_best_assignment_is_the_best_of_all():
    """By trying every permutation of five channels on the even faces, and judging it on the odd ones."""
    teacher = attention(60, 5, 0)
    student = teacher[:, [2, 0, 1, 4, 3]] + 1.5 * attention(60, 5, 1)
    fitted, judged = (np.corrcoef(student[h::2].T, teacher[h::2].T)[:5, 5:] for h in (0, 1))
    best = max(itertools.permutations(range(5)), key=lambda partner: fitted[range(5), partner].sum())
    found = correspond(student, teacher)
    assert found.best == pytest.approx(judged[range(5), best].mean()) and found.same == pytest.approx(np.trace(judged) / 5)
    assert found.kept == np.mean(np.array(best) == range(5)) and found.channels == 5
    every = [judged[range(5), partner].mean() for partner in itertools.permutations(range(5))]
    assert found.chance == pytest.approx(np.mean(every), abs=4 * np.std(every) / 1000**0.5)
    assert found.spread == pytest.approx(np.std(every), rel=0.15)


def test_own_channels_shuffled_channels_and_no_relation():
    teacher = attention(400, 16, 0)
    noisy = teacher + 0.5 * attention(400, 16, 1)
    own = correspond(noisy, teacher)
    assert own.same == own.best > 0.85 and own.kept == 1 and abs(own.chance) < 0.05
    shuffled = correspond(noisy[:, np.roll(np.arange(16), 3)], teacher)
    assert shuffled.best == pytest.approx(own.same) and abs(shuffled.same) < 0.1 and shuffled.kept == 0
    none = correspond(attention(400, 16, 2), teacher)
    assert abs(none.same) < 0.1 and abs(none.best) < 0.1  # an assignment fitted to noise fits no other faces


def test_channels_that_move_together_fit_any_assignment():
    together = attention(200, 1, 0) @ np.ones((1, 12)) + 0.05 * attention(200, 12, 1)
    found = correspond(together + 0.05 * attention(200, 12, 2), together)
    assert found.chance > 0.95 and found.best - found.chance < 0.05 and found.ways < 1.1
    assert correspond(attention(500, 12, 3), attention(500, 12, 4)).ways > 10


def test_ways_by_hand():
    """Two independent channels with variances 3 and 1: (3 + 1)^2 / (9 + 1)."""
    teacher = np.zeros((8, 2))
    teacher[1::2] = [[np.sqrt(3), 1], [-np.sqrt(3), 1], [np.sqrt(3), -1], [-np.sqrt(3), -1]]
    assert correspond(attention(8, 2, 0), teacher).ways == pytest.approx(1.6)


def test_table_figure_and_what_does_not_fit(tmp_path):
    found = correspond(attention(40, 4, 0), attention(40, 4, 0))
    assert "| 2 | 4 | +1.000 | +1.000 |" in table([found, found]) and "100.0 % (25.0 %)" in table([found])
    plot([found, found], tmp_path / "figure.png")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    for student, teacher in ((attention(40, 4, 0), attention(40, 5, 0)), (attention(3, 4, 0), attention(3, 4, 0))):
        with pytest.raises(ValueError, match="four or more faces"):
            correspond(student, teacher)
