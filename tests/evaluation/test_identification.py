"""Rank, CMC and TPIR against a table by hand and the definitions walked probe by probe; blocks and order change nothing."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.errors import DataError
from askd.evaluation.cosine import unit_grid
from askd.evaluation.identification import NOBODY, Search, cmc, metrics, rank_metric, search, tpir_metric


def naive(embeddings, probe, gallery, identity):
    """(rank, score) of every probe, candidate by candidate."""
    unit = unit_grid(np.asarray(embeddings))
    found = []
    for p in probe:
        candidates = {}
        for place, g in enumerate(gallery):
            who = ("distractor", place) if identity[g] == NOBODY else identity[g]
            candidates[who] = max(candidates.get(who, -2), float(np.sum(unit[p] * unit[g])))
        mine = candidates.pop(identity[p], None) if identity[p] != NOBODY else None
        if mine is None:
            found.append((0, max(candidates.values())))
        else:
            found.append((1 + sum(score >= mine for score in candidates.values()), mine))
    return found


def naive_tpir(found, fpir, limit):
    alarms = [score for rank, score in found if rank == 0]
    mated = [(rank, score) for rank, score in found if rank]
    if not mated or len(alarms) * fpir < 1:
        return np.nan
    best = 0.0
    for threshold in {score for _, score in found}:
        if sum(alarm >= threshold for alarm in alarms) / len(alarms) <= fpir:
            best = max(best, sum(1 <= rank <= limit and score >= threshold for rank, score in mated) / len(mated))
    return best


def at(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1).astype(np.float32)


# images 0-3: the gallery, persons 0 (twice), 1 and a distractor; images 4-8: probes of 0, 0, 1, 2 (no mate), nobody
TABLE = at(0, 60, 90, 30, 5, 50, 40, 88, 180)
IDENTITY = np.array([0, 0, 1, NOBODY, 0, 0, 1, 2, NOBODY])
GALLERY, PROBE = np.arange(4), np.arange(4, 9)


def test_table_by_hand():
    found = search(TABLE, PROBE, GALLERY, IDENTITY)
    # 5 deg: person 0 at 5 off, first. 50: person 0 at 10 (its second image), first. 40: person 1 at 50, behind the
    # distractor at 10 and person 0 at 20, third. 88: nobody's mate, best is person 1 at 2. 180: best is person 1 at 90.
    assert found.rank.tolist() == [1, 1, 3, 0, 0]
    np.testing.assert_allclose(found.score, np.cos(np.radians([5, 10, 50, 2, 90])), atol=1e-7)
    assert (found.candidates, found.gallery) == (3, 4)
    np.testing.assert_allclose(cmc([found]), [2 / 3, 2 / 3, 1])
    ones = np.ones(5)
    assert rank_metric(found, 1)(ones) == 2 / 3 and rank_metric(found, 2)(ones) == 2 / 3
    assert np.isnan(rank_metric(found, 3)(ones))  # three candidates: rank-3 cannot fail
    # FPIR 1/2 lets the alarm at 2 degrees pass: from cos 90 (excluded) on, that is all mates of rank 1 and the third.
    assert tpir_metric(found, 0.5, 1)(ones) == 2 / 3 and tpir_metric(found, 0.5, 3)(ones) == 1
    assert np.isnan(tpir_metric(found, 0.4, 1)(ones))  # below one alarm in two probes: not measured
    # Without the probe at 180 and with weight 2 on the other stranger, FPIR 1/2 lets nothing pass below cos 2.
    assert tpir_metric(found, 0.5, 3)(np.array([1, 1, 1, 2, 0])) == 0
    assert tpir_metric(found, 1.0, 3)(np.array([1, 3, 0, 2, 0])) == 1


def test_ties_count_against_the_probe():
    embeddings = at(0, 0, 90, 0)  # gallery: 0 and 1 have the very same face
    found = search(embeddings, np.array([3]), np.array([0, 1, 2]), np.array([0, 1, 2, 0]))
    assert found.rank.tolist() == [2]
    duplicates = search(3 * at(*[0] * 5), np.array([4]), np.arange(4), np.array([0, NOBODY, NOBODY, 1, 0]))
    assert duplicates.rank.tolist() == [4]  # each distractor is a candidate; scale does not matter
    alarm = Search(np.array([1, 0]), np.array([0.5, 0.5]), 2, 2)
    assert tpir_metric(alarm, 1.0)(np.ones(2)) == 1 and tpir_metric(alarm, 1.0)(np.array([2.0, 1.0])) == 1
    tied = Search(np.array([1, 0, 0]), np.array([0.5, 0.5, 0.4]), 2, 2)
    assert tpir_metric(tied, 0.5)(np.ones(3)) == 1  # one alarm of two at 0.5: allowed
    assert tpir_metric(Search(np.array([1, 0, 0]), np.array([0.5, 0.5, 0.5]), 2, 2), 0.5)(np.ones(3)) == 0


@st.composite
def sets(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, people, dim = draw(st.integers(4, 40)), draw(st.integers(1, 6)), draw(st.integers(2, 5))
    embeddings = rng.integers(-2, 3, size=(images, dim)) if draw(st.booleans()) else rng.normal(size=(images, dim))
    embeddings[~embeddings.any(1)] = 1
    identity = rng.integers(NOBODY, people, size=images)
    split = draw(st.integers(1, images - 1))
    order = rng.permutation(images)
    return embeddings.astype(np.float32), order[:split], order[split:], identity


@settings(max_examples=60, deadline=None)
@given(sets(), st.integers(1, 9), st.sampled_from([0.1, 0.3, 0.5, 1.0]), st.integers(1, 4))
def test_equal_to_the_definitions_walked(drawn, tile, fpir, limit):
    found, walked = search(*drawn, tile=tile), naive(*drawn)
    assert found.rank.tolist() == [rank for rank, _ in walked]
    assert found.score.tolist() == [score for _, score in walked]
    ours, theirs = tpir_metric(found, fpir, limit)(np.ones(len(walked))), naive_tpir(walked, fpir, limit)
    assert ours == theirs or np.isnan(ours) and np.isnan(theirs)
    curve = cmc([found])
    assert (np.diff(curve) >= 0).all() and (not len(curve) or curve[-1] == 1)
    mated = [rank for rank, _ in walked if rank]
    for k, value in enumerate(curve, 1):
        assert value == np.mean([rank <= k for rank in mated])


@settings(max_examples=40, deadline=None)
@given(sets(), st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_order_and_blocks_change_nothing(drawn, seed, tile):
    embeddings, probe, gallery, identity = drawn
    rng = np.random.default_rng(seed)
    whole = search(embeddings, probe, gallery, identity)
    shuffled = rng.permutation(len(probe))
    again = search(embeddings, probe[shuffled], rng.permutation(gallery), identity, tile=tile)
    assert again.rank.tolist() == whole.rank[shuffled].tolist() and again.score.tolist() == whole.score[shuffled].tolist()
    images = rng.permutation(len(embeddings))  # the images stored in another order
    place = np.argsort(images)
    stored = search(embeddings[images], place[probe], place[gallery], identity[images], tile=tile)
    assert stored.rank.tolist() == whole.rank.tolist() and stored.candidates == whole.candidates


def test_blocks_agree_to_the_bit_at_real_width():
    rng = np.random.default_rng(0)
    identity = np.append(rng.integers(NOBODY, 60, size=300), rng.integers(0, 80, size=50))
    embeddings = (rng.normal(size=(81, 512))[identity] + 4 * rng.normal(size=(350, 512))).astype(np.float32)
    embeddings[10:20] = embeddings[9]  # ten of the gallery are one image
    whole = search(embeddings, np.arange(300, 350), np.arange(300), identity)
    for tile in (7, 64, 300):
        again = search(embeddings, np.arange(300, 350), np.arange(300), identity, tile=tile)
        assert again.rank.tolist() == whole.rank.tolist() and again.score.tolist() == whole.score.tolist()
    assert whole.rank.tolist() == [rank for rank, _ in naive(embeddings, np.arange(300, 350), np.arange(300), identity)]
    exact = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(whole.score[~whole.mated], (exact[300:] @ exact[:300].T).max(1)[~whole.mated], atol=1e-7)


def test_figures_are_means_over_galleries():
    one = Search(np.array([1, 2, 0, 3]), np.array([0.9, 0.8, 0.7, 0.6]), 30, 30)
    other = Search(np.array([0, 1, 1, 0]), np.array([0.5, 0.9, 0.4, 0.3]), 40, 40)
    found = {name: metric(np.ones(4)) for name, metric in metrics([one, other]).items()}
    assert found["rank-1"] == pytest.approx((1 / 3 + 1) / 2) and found["rank-5"] == 1
    assert list(found) == [
        "rank-1", "rank-5", "rank-10", "rank-20", "TPIR @ FPIR 0.01", "TPIR @ FPIR 0.1", "TPIR20 @ FPIR 0.01", "TPIR20 @ FPIR 0.1",
    ]
    assert np.isnan(found["TPIR @ FPIR 0.1"])
    np.testing.assert_allclose(cmc([one, other])[:3], [(1 / 3 + 1) / 2, (2 / 3 + 1) / 2, 1])
    assert len(cmc([one, other])) == 30
    assert len(cmc([Search(np.zeros(2, int), np.zeros(2), 3, 3)])) == 0


def test_bad_input_is_named():
    with pytest.raises(DataError, match="the gallery side of an identification set is empty"):
        search(TABLE, PROBE, GALLERY[:0], IDENTITY)
    with pytest.raises(DataError, match="the probe side"):
        search(TABLE, PROBE[:0], GALLERY, IDENTITY)
    with pytest.raises(ValueError, match="must index 9 images"):
        search(TABLE, PROBE + 1, GALLERY, IDENTITY)
    with pytest.raises(ValueError, match="an identity for each"):
        search(TABLE, PROBE, GALLERY, IDENTITY[1:])
    broken = TABLE.copy()
    broken[2] = np.nan
    with pytest.raises(DataError, match=r"1 of 9 embeddings are not finite \(first: image 2\)"):
        search(broken, PROBE, GALLERY, IDENTITY)
    broken[2] = 0
    with pytest.raises(DataError, match=r"embeddings are zero \(first: image 2\)"):
        search(broken, PROBE, GALLERY, IDENTITY)
