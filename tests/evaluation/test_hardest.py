"""The worst mistakes of a hand-made table come first, each at its own fold's threshold, and no face comes twice."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from askd.evaluation.hardest import hardest_errors
from askd.evaluation.verification import Verification, score_pairs

#                   0    1    2    3    4    5    6    7
SCORES = np.array([0.9, 0.1, 0.7, 0.2, 0.6, 0.3, 0.8, 0.25])
SAME = np.array([1, 1, 0, 0, 1, 1, 0, 1], bool)
FOLD = np.array([0, 0, 0, 0, 1, 1, 1, 1])
LEFT, RIGHT = np.arange(8), np.arange(8) + 8


def result(protocol, thresholds, correct):
    return Verification(protocol, None, None, (), thresholds, SCORES, correct, None, None, {}, 8, 5, 3)


def found(thresholds=(0.5, 0.28), most=6, left=LEFT):
    correct = (SCORES >= np.array(thresholds)[FOLD]) == SAME
    return hardest_errors(result("exact", thresholds, correct), SAME, FOLD, left, RIGHT, most)


def test_a_table_by_hand():
    errors = found()
    # fold 0 at 0.5: 1 is a false reject, 2 a false accept; fold 1 at 0.28: 6 a false accept, 7 a false reject, 5 is right with 0.3
    assert errors.accepts.tolist() == [6, 2] and errors.rejects.tolist() == [1, 7]
    assert (errors.all_accepts, errors.all_rejects) == (2, 2)
    assert errors.threshold.tolist() == [0.5] * 4 + [0.28] * 4
    assert errors.said == "its fold's threshold (protocol exact), cosine 0.280 to 0.500"
    assert found(most=1).accepts.tolist() == [6] and found(most=1).all_accepts == 2


def test_a_face_comes_once_among_those_of_a_kind():
    left = LEFT.copy()
    left[2] = left[6]
    errors = found(left=left)
    assert errors.accepts.tolist() == [6] and errors.all_accepts == 2 and errors.rejects.tolist() == [1, 7]


def test_squared_distances_are_cosines():
    errors = hardest_errors(result("insightface", (1.0, 1.0), (SCORES >= 0.5) == SAME), SAME, FOLD, LEFT, RIGHT)
    assert errors.threshold.tolist() == [0.5] * 8 and errors.said.endswith("cosine 0.500")
    assert errors.accepts.tolist() == [6, 2] and errors.rejects.tolist() == [1, 7, 5]


def test_without_folds_the_threshold_is_where_the_errors_are_closest():
    errors = hardest_errors(result("exact", (), None), SAME, np.full(8, -1), LEFT, RIGHT)
    # at 0.3: FAR 2/3, FRR 2/5; at 0.6: FAR 2/3, FRR 3/5, the closest; at 0.7 FAR 2/3, FRR 4/5
    assert errors.said == "the threshold of equal error, cosine 0.600"
    assert errors.accepts.tolist() == [6, 2] and errors.rejects.tolist() == [1, 7, 5]


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="got 8 genuine of 8"):
        hardest_errors(result("exact", (), None), np.ones(8, bool), FOLD, LEFT, RIGHT)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["insightface", "askd", "exact"]))
def test_errors_are_the_wrong_pairs_of_any_protocol(seed, protocol):
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=(30, 4))
    left, right = rng.integers(30, size=(2, 60))
    same, fold = np.arange(60) % 2 == 0, np.arange(60) // 15
    scored = score_pairs(plain, plain, left, right, same, fold, protocol)
    errors = hardest_errors(scored, same, fold, left, right, most=60)
    assert errors.all_accepts + errors.all_rejects == (~scored.correct).sum()
    for kind, sign in ((errors.accepts, -1), (errors.rejects, 1)):
        assert not scored.correct[kind].any() and (same[kind] == (sign == 1)).all()
        assert (np.diff(sign * scored.scores[kind]) >= 0).all()
        beyond = sign * (errors.threshold[kind] - scored.scores[kind])
        assert (beyond >= -1e-9).all()  # a score on the threshold is an error of both kinds under protocol askd
