"""Bootstrap figures against written-out resamples and scikit-learn's weights, and whether 95 % intervals cover 95 %."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from askd.evaluation.intervals import (
    accuracy_metric,
    bootstrap,
    draw,
    mean_and_t_interval,
    resample_identities,
    resample_pairs,
    pair_metrics,
    percentiles,
    resample_probes,
    t_quantile,
    thin_impostors,
)
from askd.evaluation.roc import area, roc, tar_at_far
from askd.evaluation.verification import exact_threshold


def auc_metric(scores, same):
    every = pair_metrics(scores, same, None, ())
    return lambda weights: every(weights)[0]


def tar_metric(scores, same, far):
    every = pair_metrics(scores, same, None, (0.5, far))
    return lambda weights: every(weights)[3]


def repeated(values, weights):
    return np.repeat(values, weights.astype(int))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 12))
def test_weighted_figures_equal_those_of_repeated_pairs(seed, count, distinct):
    rng = np.random.default_rng(seed)
    scores, same = rng.integers(distinct, size=count) / distinct, rng.random(count) < 0.4
    weights = rng.integers(4, size=count).astype(float)
    long_scores, long_same = repeated(scores, weights), repeated(same, weights)
    auc, tar = auc_metric(scores, same)(weights), tar_metric(scores, same, 0.1)(weights)
    if long_same.all() or not long_same.any():
        assert np.isnan(auc) and np.isnan(tar)
        return
    far_axis, tar_axis, _ = roc(long_scores, long_same)
    assert auc == pytest.approx(area(far_axis, tar_axis), abs=1e-12)
    assert auc == pytest.approx(roc_auc_score(same, scores, sample_weight=weights), abs=1e-12)
    expected = tar_at_far(far_axis, tar_axis, int((~long_same).sum()), (0.1,))[0.1]
    assert np.isnan(tar) if expected is None else tar == pytest.approx(expected, abs=1e-12)
    correct = rng.random(count) < 0.5
    assert accuracy_metric(correct)(weights) == pytest.approx(repeated(correct, weights).mean())
    assert pair_metrics(scores, same, correct, ())(weights)[1] == accuracy_metric(correct)(weights)


def test_identity_weights_are_those_of_the_written_out_resample():
    people = np.array([10, 10, 20, 20, 20, 35, 41])  # of seven images
    left, right = np.triu_indices(len(people), 1)
    same = people[left] == people[right]
    for weights, drawn in zip(
        resample_identities(people[left], people[right], same, count=50, seed=3), redrawn(4, 50, 3)
    ):
        times = dict(zip([10, 20, 35, 41], drawn))
        for index, (a, b) in enumerate(zip(people[left], people[right])):
            assert weights[index] == (times[a] if a == b else times[a] * times[b])


def redrawn(people, count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield np.bincount(rng.integers(people, size=people), minlength=people)


def test_pair_weights_keep_every_fold_its_size():
    fold = np.array([0, 1, 1, 2, 2, 2, 0, 1])
    resamples = resample_pairs(fold, count=30)
    assert resamples.unit == "pair"
    for weights in resamples:
        assert np.bincount(fold, weights).tolist() == [2, 3, 3]


def world(rng, people=40, images=4, separation=2.0):
    """Pairs whose scores carry a share of each person (some are hard to recognise, some resemble many).

    Also the AUC of that world: genuine ~ N(separation, 1 + 1), impostors ~ N(0, 1 + 2 * 0.25).
    """
    identity = np.repeat(np.arange(people), images)
    left, right = np.triu_indices(len(identity), 1)
    left, right = identity[left], identity[right]
    same = left == right
    easy, common = rng.normal(size=people), rng.normal(scale=0.5, size=people)
    scores = rng.normal(size=len(left)) + np.where(same, separation + easy[left], common[left] + common[right])
    return left, right, same, scores, NormalDist().cdf(separation / (2 + 1.5) ** 0.5)


def test_identity_intervals_cover_and_pair_intervals_do_not():
    rng = np.random.default_rng(5)
    covered = {("identity", "auc"): 0, ("identity", "tar"): 0, ("pair", "auc"): 0, ("pair", "tar"): 0}
    runs = 100
    at_a_tenth = NormalDist(0, 1.5**0.5).inv_cdf(0.9)  # the threshold of FAR 0.1
    for run in range(runs):
        left, right, same, scores, auc = world(rng)
        truth = {"auc": auc, "tar": 1 - NormalDist(2, 2**0.5).cdf(at_a_tenth)}
        metrics = pair_metrics(scores, same, None, (0.1,))
        for resamples in (
            resample_identities(left, right, same, count=120, seed=run),
            resample_pairs(np.full(len(left), -1), count=60, seed=run),
        ):
            drawn, values = draw(metrics, resamples), metrics(np.ones(len(same)))
            for column, figure in ((0, "auc"), (2, "tar")):
                interval = percentiles(values[column], drawn[:, column], resamples.unit)
                covered[interval.unit, figure] += interval.low <= truth[figure] <= interval.high
    # Of 40 people, percentiles of 120 resamples fall a little short of 95 %; independent pairs would be far too sure.
    for figure in ("auc", "tar"):
        assert 0.86 <= covered["identity", figure] / runs <= 0.99
        assert covered["pair", figure] / runs < 0.8


def test_accuracy_at_thresholds_of_other_folds_is_covered():
    """Genuine scores around 1, impostors around -1, both of deviation 1: the best threshold is 0 and decides 84.1 % rightly."""
    rng, truth, covered, runs = np.random.default_rng(8), NormalDist().cdf(1), 0, 100
    fold, same = np.arange(400) % 10, np.arange(400) // 10 % 2 == 0
    for run in range(runs):
        scores = rng.normal(size=400) + np.where(same, 1, -1)
        thresholds = np.array([exact_threshold(scores[fold != k], same[fold != k]) for k in range(10)])
        correct = (scores >= thresholds[fold]) == same
        interval = bootstrap(accuracy_metric(correct), resample_pairs(fold, 80, seed=run))
        covered += interval.low <= truth <= interval.high
    assert 0.88 <= covered / runs <= 0.98  # held fixed, thresholds that are not quite the best cost a little


def test_two_models_that_are_equally_good_differ_as_rarely_as_promised():
    rng, contains, runs = np.random.default_rng(6), 0, 60
    for run in range(runs):
        left, right, same, scores, _ = world(rng)
        two = [scores + rng.normal(size=len(scores)) for _ in range(2)]
        resamples = resample_identities(left, right, same, count=80, seed=run)
        first, second = (draw(pair_metrics(values, same, None, ()), resamples)[:, 0] for values in two)
        interval = percentiles(0.0, first - second, resamples.unit)
        contains += interval.low <= 0 <= interval.high
    assert 0.88 <= contains / runs <= 0.99


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(1)
    left, right, same, scores, _ = world(rng)
    better = scores + 0.3 * same + 0.1 * rng.normal(size=len(scores))
    resamples = resample_identities(left, right, same, count=300)
    one, two = auc_metric(better, same), auc_metric(scores, same)
    drawn = [draw(pair_metrics(values, same, None, ()), resamples)[:, 0] for values in (better, scores)]
    difference = percentiles(one(np.ones(len(same))) - two(np.ones(len(same))), drawn[0] - drawn[1], resamples.unit)
    alone = bootstrap(one, resamples)
    assert difference.value == pytest.approx(roc_auc_score(same, better) - roc_auc_score(same, scores), abs=1e-12)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.high - difference.low < (alone.high - alone.low) / 2
    assert alone == percentiles(alone.value, drawn[0], "identity")


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    left, right, same, scores, _ = world(np.random.default_rng(2))
    intervals = [
        bootstrap(tar_metric(scores, same, 0.01), resample_identities(left, right, same, 100, seed))
        for seed in (0, 0, 1)
    ]
    assert intervals[0] == intervals[1] != intervals[2]
    far, tar, _ = roc(scores, same)
    assert intervals[0].value == tar_at_far(far, tar, int((~same).sum()), (0.01,))[0.01]
    assert intervals[0].unit == "identity" and intervals[0].resamples == 100


def test_figures_that_are_not_defined_have_no_interval():
    scores, same = np.array([0.9, 0.1, 0.2]), np.array([True, False, False])
    resamples = resample_pairs(np.zeros(3), count=50)
    assert bootstrap(tar_metric(scores, same, 1e-3), resamples).value is None
    none = bootstrap(auc_metric(scores, np.ones(3, bool)), resamples)
    assert (none.value, none.low, none.high, none.resamples) == (None, None, None, 0)
    # One genuine and one impostor: a resample of two holds both half of the time, so about half of them define the AUC.
    rare = bootstrap(auc_metric(np.arange(10.0), np.arange(10) == 9), resample_identities(*lonely(), count=200))
    assert rare.value == 1 and rare.resamples < 200


def lonely():
    left = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    right = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 9])
    return left, right, left == right


def test_thinning_keeps_every_genuine_pair_and_the_auc():
    rng = np.random.default_rng(0)
    same = rng.random(60_000) < 0.02
    scores = rng.normal(size=60_000) + 2 * same
    kept = thin_impostors(same, limit=20_000)
    assert (np.diff(kept) > 0).all() and same[kept].sum() == same.sum() and (~same[kept]).sum() == 20_000
    assert np.array_equal(kept, thin_impostors(same, limit=20_000)) and len(thin_impostors(same)) == 60_000
    assert roc_auc_score(same[kept], scores[kept]) == pytest.approx(roc_auc_score(same, scores), abs=2e-3)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 30])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.995])
def test_t_quantile_equals_scipy(probability, freedom):
    assert t_quantile(probability, freedom) == pytest.approx(student.ppf(probability, freedom), rel=1e-9, abs=1e-9)


def test_three_seeds_by_hand():
    interval = mean_and_t_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / 3**0.5  # t of 2 degrees, sample standard deviation 1
    assert (interval.value, interval.unit, interval.resamples) == (2, "seed", 3)
    assert (interval.low, interval.high) == pytest.approx((2 - half, 2 + half))
    assert mean_and_t_interval([0.5]).low is None
    with pytest.raises(ValueError, match="one finite figure per seed"):
        mean_and_t_interval([0.5, float("nan")])


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="disagrees with the identities in 1 of 2 pairs"):
        resample_identities(np.array([0, 1]), np.array([0, 1]), np.array([True, False]))
    with pytest.raises(ValueError, match="at least one pair"):
        resample_pairs(np.array([]))
    with pytest.raises(ValueError, match="without NaN"):
        auc_metric(np.array([0.1, np.nan]), np.array([True, False]))


def test_probes_of_a_person_are_drawn_together_and_strangers_alone():
    identity = np.array([5, 5, -1, 2, -1, 5])
    resamples = resample_probes(identity, count=300)
    drawn = np.array(list(resamples))
    assert resamples.unit == "identity" and drawn.shape == (300, 6)
    assert (drawn[:, 0] == drawn[:, 1]).all() and (drawn[:, 0] == drawn[:, 5]).all()
    assert (drawn[:, 2] != drawn[:, 4]).any()
    assert (drawn[:, [0, 2, 3, 4]].sum(1) == 4).all()  # four people, each time four draws
    np.testing.assert_array_equal(drawn, list(resamples))


@pytest.mark.parametrize("per_person", [1, 3])
def test_the_interval_of_a_rate_over_people_covers_as_often_as_it_says(per_person):
    rng, true, covered = np.random.default_rng(1), 0.7, 0
    for trial in range(300):
        hit = np.repeat(rng.random(80) < true, per_person)  # a person's probes succeed or fail together
        interval = bootstrap(accuracy_metric(hit), resample_probes(np.repeat(np.arange(80), per_person), 200, seed=trial))
        covered += interval.low <= true <= interval.high
    assert 0.90 <= covered / 300 <= 0.98
