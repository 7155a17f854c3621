"""The paired tests equal SciPy's binomial test and Holm's procedure written down."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from askd.evaluation.mcnemar import binomial_two_sided, holm, mcnemar


@pytest.mark.parametrize("tosses", [1, 2, 9, 10, 100, 1999, 6000])
def test_equals_scipy(tosses):
    for fewer in {0, 1, tosses // 3, int(tosses / 2 - tosses**0.5), tosses // 2}:
        if 0 <= fewer <= tosses / 2:
            expected = binomtest(fewer, tosses, 0.5).pvalue
            assert binomial_two_sided(fewer, tosses) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_counts_what_only_one_decides_rightly():
    first = np.array([1, 1, 1, 1, 0, 0, 1, 0], bool)
    second = np.array([1, 0, 0, 0, 1, 0, 1, 0], bool)
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (3, 1) and found.p == 2 * (1 + 4) / 2**4
    assert mcnemar(second, first).p == found.p and mcnemar(first, first) == mcnemar(second, second)
    assert mcnemar(first, first).p == 1
    with pytest.raises(ValueError, match=r"the same cases, got \(8,\) and \(7,\)"):
        mcnemar(first, second[1:])


def test_models_that_are_alike_are_told_apart_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    found = [mcnemar(rng.random(400) < 0.9, rng.random(400) < 0.9).p for _ in range(2000)]
    assert 0.02 < np.mean(np.array(found) < 0.05) <= 0.05  # an exact test stays below its level


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_as_written_down(p):
    adjusted = holm(p)
    ordered = sorted(p)
    for one, value in zip(p, adjusted):
        assert value == pytest.approx(max(min(1, (len(p) - place) * ordered[place]) for place in range(ordered.index(one) + 1)))
        assert value >= one
    # Step down: rejecting at any level gives the same set as comparing with level / (m - i) until one fails.
    level, rejected = 0.05, set()
    for place, one in enumerate(ordered):
        if one * (len(p) - place) >= level:
            break
        rejected.add(one)
    assert {one for one, value in zip(p, adjusted) if value < level} == rejected
