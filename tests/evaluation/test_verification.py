"""All protocols against the formulas written down naively, ROC figures against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from askd.errors import DataError
from askd.evaluation.roc import FAR_TARGETS, area, equal_error_rate, roc, tar_at_far
from askd.evaluation.verification import (
    ASKD_GRID,
    INSIGHTFACE_GRID,
    askd_threshold,
    exact_threshold,
    insightface_correct,
    score_pairs,
)


def unit(rows):
    return rows / np.sqrt(np.sum(rows * rows, 1, keepdims=True))


def naive_insightface(plain, flipped, left, right, same, fold):
    grid = np.arange(0, 4, 0.01)
    embedding = unit(plain.astype(np.float64) + flipped.astype(np.float64))
    distance = np.sum(np.square(embedding[left] - embedding[right]), 1)

    def accuracy(threshold, chosen):  # of every threshold, (thresholds,)
        predicted = np.less(distance[chosen], np.atleast_1d(threshold)[:, None])
        return (np.sum(predicted & same[chosen], 1) + np.sum(~predicted & ~same[chosen], 1)) / chosen.sum()

    accuracies, thresholds = [], []
    for k in range(fold.max() + 1):
        thresholds.append(grid[np.argmax(accuracy(grid, fold != k))])
        accuracies.append(accuracy(thresholds[-1], fold == k)[0])
    return accuracies, thresholds, 1 - distance / 2


def naive_askd(plain, flipped, left, right, same, fold):
    grid = np.arange(-10000, 10001) / 10000
    feature = np.concatenate([plain, flipped], 1).astype(np.float64)
    accuracies, thresholds, scores = [], [], np.empty(len(left))
    for k in range(fold.max() + 1):
        train, test = fold != k, fold == k
        ours, theirs = feature[left], feature[right]
        mean = np.mean(np.concatenate([ours[train], theirs[train]], 0), 0)
        cosine = np.sum(unit(ours - mean) * unit(theirs - mean), 1)

        def accuracy(threshold, chosen):
            threshold = np.atleast_1d(threshold)[:, None]
            right_ones = np.sum(cosine[chosen & same] > threshold, 1) + np.sum(cosine[chosen & ~same] < threshold, 1)
            return right_ones / chosen.sum()

        training = accuracy(grid, train)
        thresholds.append(np.mean(grid[training == training.max()]))
        accuracies.append(accuracy(thresholds[-1], test)[0])
        scores[test] = cosine[test]
    return accuracies, thresholds, scores


def naive_exact(plain, flipped, left, right, same, fold):
    embedding = unit(plain.astype(np.float64) + flipped.astype(np.float64))
    cosine = np.sum(embedding[left] * embedding[right], 1)

    def accuracy(threshold, chosen):
        return np.mean((cosine[chosen] >= threshold) == same[chosen])

    accuracies, thresholds = [], []
    for k in range(fold.max() + 1):
        train, test = fold != k, fold == k
        best = max(accuracy(t, train) for t in cosine[train])
        thresholds.append(max(t for t in cosine[train] if accuracy(t, train) == best))
        accuracies.append(accuracy(thresholds[-1], test))
    return accuracies, thresholds, cosine


NAIVE = {"insightface": naive_insightface, "askd": naive_askd, "exact": naive_exact}


def world(seed, pairs=200, images=120, dim=16, folds=10, noise=1.0, offset=0.5):
    """Random people in random pairs, each fold with both classes."""
    rng = np.random.default_rng(seed)
    person = rng.integers(images // 4, size=images)
    plain = rng.normal(size=(images // 4, dim))[person] + noise * rng.normal(size=(images, dim)) + offset
    flipped = plain + 0.2 * rng.normal(size=(images, dim))
    left = rng.integers(images, size=pairs)
    right = np.where(np.arange(pairs) % 2 == 0, rng.permutation(images)[left], (left + 1) % images)
    for index in range(0, pairs, 2):
        right[index] = rng.choice(np.flatnonzero(person == person[left[index]]))
    same = person[left] == person[right]
    same[: 2 * folds] = np.arange(2 * folds) % 2 == 0  # wrong labels exist, and no fold of one class
    fold = np.concatenate([np.repeat(np.arange(folds), 2), rng.integers(folds, size=pairs - 2 * folds)])
    return plain.astype(np.float32), flipped.astype(np.float32), left, right, same, fold


@pytest.mark.parametrize("protocol", NAIVE)
@pytest.mark.parametrize("seed", range(2))
def test_equal_to_the_naive_transcription(protocol, seed):
    pairs = world(seed, folds=10 - 5 * seed)
    accuracies, thresholds, scores = NAIVE[protocol](*pairs)
    ours = score_pairs(*pairs, protocol)
    assert ours.fold_accuracies == tuple(accuracies)
    assert ours.thresholds == tuple(thresholds)
    assert ours.accuracy == np.mean(accuracies) and ours.accuracy_std == np.std(accuracies)
    np.testing.assert_allclose(ours.scores, scores, rtol=0, atol=1e-12)
    assert tuple(ours.correct[pairs[-1] == k].mean() for k in range(len(accuracies))) == tuple(accuracies)
    assert 0.5 < ours.auc <= 1 and (ours.pairs, ours.genuine + ours.impostors) == (200, 200)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 4),
    st.integers(3, 8),
    st.integers(1, 3),
    st.sampled_from(["insightface", "askd", "exact"]),
)
def test_equal_with_ties_duplicates_and_scores_on_the_grid(seed, folds, images, dim, protocol):
    rng = np.random.default_rng(seed)
    plain = rng.integers(-2, 3, size=(images, dim)).astype(
        np.float32
    )  # many equal embeddings, cosines of 0, 1, 0.6 ...
    flipped = plain if seed % 2 else rng.integers(-2, 3, size=(images, dim)).astype(np.float32)
    count = int(rng.integers(2 * folds, 40))
    left, right = rng.integers(images, size=(2, count))
    same, fold = rng.random(count) < 0.5, rng.integers(folds, size=count)
    same[: 2 * folds], fold[: 2 * folds] = np.arange(2 * folds) % 2 == 0, np.repeat(np.arange(folds), 2)
    try:
        ours = score_pairs(plain, flipped, left, right, same, fold, protocol)
    except DataError:
        return  # a zero embedding, or one equal to the mean: the formula divides by nothing
    accuracies, thresholds, scores = NAIVE[protocol](plain, flipped, left, right, same, fold)
    assert ours.fold_accuracies == tuple(accuracies) and ours.thresholds == tuple(thresholds)
    np.testing.assert_allclose(ours.scores, scores, rtol=0, atol=1e-9)


def test_equal_where_embeddings_are_bunched_far_from_the_origin():
    plain, flipped, left, right, same, fold = world(3, pairs=60, dim=4, folds=3)
    plain, flipped = plain * np.float32(1e-3) + 10, flipped * np.float32(1e-3) + 10
    accuracies, thresholds, scores = naive_askd(plain, flipped, left, right, same, fold)
    ours = score_pairs(plain, flipped, left, right, same, fold, "askd")
    assert ours.fold_accuracies == tuple(accuracies) and ours.thresholds == tuple(thresholds)
    np.testing.assert_allclose(ours.scores, scores, rtol=0, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.booleans())
def test_grids_counted_equal_grids_walked(seed, count, on_the_grid):
    rng = np.random.default_rng(seed)
    same, folds = rng.random(count) < 0.5, np.arange(count) % 3
    cosine = rng.choice(ASKD_GRID, count) if on_the_grid else rng.uniform(-1, 1, count)
    walked = np.sum(cosine[same] > ASKD_GRID[:, None], 1) + np.sum(cosine[~same] < ASKD_GRID[:, None], 1)
    assert askd_threshold(cosine, same) == np.mean(ASKD_GRID[walked == walked.max()])
    distance = rng.choice(INSIGHTFACE_GRID, count) if on_the_grid else rng.uniform(0, 4, count)
    counted = insightface_correct(distance, same, folds)
    for k in range(folds.max() + 1):
        assert counted[k].tolist() == [np.sum(((distance < t) == same)[folds == k]) for t in INSIGHTFACE_GRID]


def at(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1).astype(np.float32)


def test_insightface_by_hand():
    # Pairs at 30, 90, 50, 120 degrees: squared distances 2 - 2 cos = 0.2679, 2, 0.7144, 3.
    embedding = at(0, 30, 90, 50, 120)
    left, right = np.array([0, 0, 0, 0]), np.array([1, 2, 3, 4])
    same, fold = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    result = score_pairs(embedding, embedding, left, right, same, fold, "insightface")
    # Fold 0 learns on {0.7144 genuine, 3 impostor}: the first threshold that accepts the genuine pair is 0.72. Fold 1
    # on {0.2679 genuine, 2 impostor}: 0.27, which refuses its own genuine pair.
    assert result.thresholds == pytest.approx((0.72, 0.27))
    assert result.fold_accuracies == (1.0, 0.5)
    assert (result.accuracy, result.accuracy_std) == (0.75, 0.25)
    np.testing.assert_allclose(result.scores, np.cos(np.radians([30, 90, 50, 120])), atol=1e-7)
    assert (result.auc, result.eer) == (1.0, 0.0)
    assert (result.pairs, result.genuine, result.impostors) == (4, 2, 2)


def test_askd_by_hand():
    # Both folds hold the same four images, whose mean (3, 5) is also the mean of the other fold; centred they are:
    a, b, c, d = [5, 0], [4, 2], [-3, 2], [-6, -4]
    embedding = np.array([a, b, c, d], np.float32) + np.array([3, 5], np.float32)
    left, right = np.array([0, 2, 0, 1]), np.array([1, 3, 2, 3])
    same, fold = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    result = score_pairs(embedding, embedding, left, right, same, fold, "askd")
    np.testing.assert_allclose(result.scores, [2 / 5**0.5, 5 / 13, -3 / 13**0.5, -32 / 1040**0.5], atol=1e-14)
    # = 0.89443, 0.38462, -0.83205, -0.99228. Fold 0 learns on the last two: all of -0.9922 .. -0.8321 are best, their
    # mean -0.91215 takes the impostor at 0.38 too. Fold 1: 0.3847 .. 0.8944, mean 0.63955, refuses the genuine pair.
    assert result.thresholds == pytest.approx((-0.91215, 0.63955), abs=1e-12)
    assert result.fold_accuracies == (0.5, 0.5)
    assert result.auc == 0.75  # of the four genuine-impostor couples only (-0.83, 0.38) is in the wrong order


def test_exact_by_hand():
    # The pairs of the insightface table, cosines 0.8660, 0, 0.6428, -0.5. Fold 0 learns on {0.6428 genuine, -0.5
    # impostor}: 0.6428 itself decides both rightly. Fold 1 on {0.8660, 0}: 0.8660, which refuses its own genuine pair.
    embedding = at(0, 30, 90, 50, 120)
    left, right = np.array([0, 0, 0, 0]), np.array([1, 2, 3, 4])
    same, fold = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    result = score_pairs(embedding, embedding, left, right, same, fold, "exact")
    assert result.thresholds == pytest.approx((np.cos(np.radians(50)), np.cos(np.radians(30))), abs=1e-7)
    assert result.thresholds == (result.scores[2], result.scores[0])
    assert result.fold_accuracies == (1.0, 0.5)


def test_exact_takes_the_highest_of_equally_good_thresholds():
    # 0.9 and 0.7 decide four of six rightly, the others fewer.
    scores, same = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1]), np.array([True, False, True, False, False, True])
    walked = [np.sum((scores >= t) == same) for t in scores]
    assert walked == [4, 3, 4, 3, 2, 3] and exact_threshold(scores, same) == 0.9


def test_askd_counts_a_score_on_the_threshold_as_wrong():
    cosine, same = np.array([0.5, 0.5]), np.array([True, False])
    assert askd_threshold(cosine, same) == pytest.approx(np.mean(ASKD_GRID[ASKD_GRID != 0.5]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60))
def test_roc_equals_scikit_learn(drawn):
    scores, same = np.array([score / 3 for score, _ in drawn]), np.array([is_same for _, is_same in drawn])
    if same.all() or not same.any():
        with pytest.raises(ValueError, match="genuine and impostor"):
            roc(scores, same)
        return
    far, tar, thresholds = roc(scores, same)
    for ours, theirs in zip((far, tar, thresholds), roc_curve(same, scores, drop_intermediate=False)):
        np.testing.assert_array_equal(ours, theirs)
    assert area(far, tar) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    fine = np.linspace(0, 1, 20001)  # along the curve, point by point
    steps = np.arange(len(far))
    x, y = (np.interp(fine * steps[-1], steps, axis) for axis in (far, tar))
    assert equal_error_rate(far, tar) == pytest.approx(x[np.argmin(np.abs(x - (1 - y)))], abs=5e-3)


def test_equal_error_rate_by_hand():
    # genuine 0.9 0.8 0.3, impostors 0.7 0.2 0.1: the only crossing of FAR and FRR is the flat piece at FAR = FRR = 1/3.
    far, tar, _ = roc(np.array([0.9, 0.8, 0.3, 0.7, 0.2, 0.1]), np.array([True] * 3 + [False] * 3))
    assert equal_error_rate(far, tar) == pytest.approx(1 / 3)


def test_tar_at_far_by_hand():
    impostors, genuine = np.arange(1000) / 1000, np.array([0.9985, 0.9995, 0.95, 0.5])
    far, tar, _ = roc(np.append(genuine, impostors), np.arange(1004) < 4)
    # FAR 0.001 lets one impostor in (0.999): the genuine 0.9995 stands above it, 0.9985 before the second one (0.998).
    assert tar_at_far(far, tar, 1000) == {1e-1: 0.75, 1e-2: 0.5, 1e-3: 0.5, 1e-4: None, 1e-5: None, 1e-6: None}
    assert tar_at_far(far, tar, 1000, (0.0015, 0.4)) == {0.0015: 0.5, 0.4: 0.75}
    assert tar_at_far(far, tar, 1000, (1.0,)) == {1.0: 1.0}


def test_dense_pairs_take_the_gram_matrix_and_agree():
    rng = np.random.default_rng(0)
    plain, flipped = rng.normal(size=(2, 600, 8)).astype(np.float32)
    left, right = np.triu_indices(600, 1)
    nowhere = np.full(len(left), -1)
    result = score_pairs(plain, flipped, left, right, (left // 2) == (right // 2), nowhere, "insightface")
    embedding = unit(plain.astype(np.float64) + flipped)
    np.testing.assert_allclose(result.scores, np.sum(embedding[left] * embedding[right], 1), atol=1e-14)
    assert result.auc == pytest.approx(roc_auc_score((left // 2) == (right // 2), result.scores), abs=1e-12)
    assert (
        result.accuracy is None
        and result.accuracy_std is None
        and result.fold_accuracies == ()
        and "no folds" in result.note
    )

    feature = np.concatenate([plain, flipped], 1).astype(np.float64)
    centred = unit(feature - feature.mean(0))  # every image stands in as many pairs as any other
    result = score_pairs(plain, flipped, left, right, (left // 2) == (right // 2), nowhere, "askd")
    np.testing.assert_allclose(result.scores, np.sum(centred[left] * centred[right], 1), atol=1e-12)


@pytest.mark.parametrize("protocol", NAIVE)
def test_one_class_gives_no_number(protocol):
    plain, flipped, left, right, same, fold = world(0)
    result = score_pairs(plain, flipped, left, right, np.ones_like(same), fold, protocol)
    assert (result.accuracy, result.auc, result.eer) == (None, None, None)
    assert result.tar_at_far == dict.fromkeys(FAR_TARGETS) and result.note.startswith("all 200 pairs are genuine")


@pytest.mark.parametrize("protocol", NAIVE)
def test_folds_that_cannot_be_scored_give_no_accuracy(protocol):
    plain, flipped, left, right, same, fold = world(0)
    sorted_by_class = np.argsort(~same, kind="stable")
    contiguous = np.empty(200, int)
    contiguous[sorted_by_class] = np.arange(200) // 20
    result = score_pairs(plain, flipped, left, right, same, contiguous, protocol)
    assert (
        result.accuracy is None and result.thresholds == () and "one class only" in result.note and 0 < result.auc < 1
    )
    few = score_pairs(plain, flipped, left[:4], right[:4], same[:4], np.arange(4), protocol)
    assert few.accuracy is None and "4 of 4 folds hold one class" in few.note
    one = score_pairs(plain, flipped, left, right, same, np.zeros(200, int), protocol)
    assert one.accuracy is None and "a single fold" in one.note


@pytest.mark.parametrize("protocol", NAIVE)
def test_bad_embeddings_are_named(protocol):
    plain, flipped, *pairs = world(0)
    broken = plain.copy()
    broken[7, 3] = np.nan
    with pytest.raises(DataError, match=r"1 of 120 embeddings are not finite \(first: image 7\)"):
        score_pairs(broken, flipped, *pairs, protocol)
    zero, none = plain.copy(), flipped.copy()
    zero[5], none[5] = 0, 0
    with pytest.raises(DataError, match=r"1 of 120 embeddings are zero \(first: image 5\)"):
        score_pairs(zero, none, *pairs, protocol)


def test_a_collapsed_model_has_no_centred_cosine():
    plain, flipped, *pairs = world(0)
    with pytest.raises(DataError, match="collapsed"):
        score_pairs(np.ones_like(plain) / 3, np.ones_like(plain) / 3, *pairs, "askd")
    assert score_pairs(np.ones_like(plain) / 3, np.ones_like(plain) / 3, *pairs, "insightface").auc == 0.5


def test_arrays_that_do_not_fit_together_are_refused():
    plain, flipped, left, right, same, fold = world(0)
    with pytest.raises(ValueError, match="choose from insightface, askd, exact"):
        score_pairs(plain, flipped, left, right, same, fold, "ijb")
    with pytest.raises(ValueError, match=r"got \(120, 16\) and \(119, 16\)"):
        score_pairs(plain, flipped[1:], left, right, same, fold, "askd")
    with pytest.raises(ValueError, match="at least one pair"):
        score_pairs(plain, flipped, left[:0], right[:0], same[:0], fold[:0], "askd")
    with pytest.raises(ValueError, match="must index 120 images"):
        score_pairs(plain, flipped, left + 100, right, same, fold, "askd")
    with pytest.raises(ValueError, match="mixture"):
        score_pairs(plain, flipped, left, right, same, np.where(np.arange(200) < 5, -1, fold), "askd")
    with pytest.raises(ValueError, match="NaN"):
        roc(np.array([0.1, np.nan]), np.array([True, False]))
