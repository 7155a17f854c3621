"""Rows of the report: figures with intervals, and why a figure is absent; people are resampled where they are known."""
from __future__ import annotations

import numpy as np
import pytest

from askd.data.gallery import NOBODY, IdentificationSet, TemplateSet
from askd.data.pairs import NO_FOLD, PairSet
from askd.evaluation.gather import Encoded
from askd.evaluation.identification import search
from askd.evaluation.scored import SEARCHED, resamples_of, score
from askd.evaluation.templates import compare, pool

NONE = Encoded([], [])


def test_people_are_resampled_where_they_are_known():
    same, fold = np.array([True, True, False, False]), np.full(4, NO_FOLD)
    left, right = np.array([0, 2, 0, 1]), np.array([1, 3, 2, 3])
    kept, known = resamples_of(same, fold, np.array([0, 0, 1, 1]), left, right)
    assert known.unit == "identity" and kept.tolist() == [0, 1, 2, 3]
    assert resamples_of(same, fold, None, left, right)[1].unit == "pair"


def faces(identity, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(1000, 16))[identity] + spread * rng.normal(size=(len(identity), 16))).astype(np.float32)


def test_a_searched_set_gives_figures_between_their_intervals():
    identity = np.concatenate([np.arange(40), np.full(30, NOBODY), np.repeat(np.arange(40), 3), np.arange(100, 250)])
    one = IdentificationSet("set", NONE, np.arange(70, 340), np.arange(70), identity)
    embeddings = faces(identity)
    found, = score(one, embeddings, None, ["askd"]).values()
    row = found.row("student", "set", 14, "resized")
    plain = search(embeddings, one.probe, one.gallery, identity)
    assert row.figures["rank-1"] == np.mean(plain.rank[plain.mated] == 1) and 0 < row.figures["rank-1"] < 1
    for figure, (low, high) in row.intervals.items():
        assert low <= row.figures[figure] <= high and low < high
    assert row.cmc[1] == row.figures["rank-1"] and row.cmc[20] == row.figures["rank-20"] and max(row.cmc) == 50
    assert (row.probes, row.mated, row.candidates, row.gallery, row.note) == (270, (120,), (70,), (70,), "resized")
    assert found.figures == row.figures and found.drawn.shape == (1000, len(row.figures))


@pytest.mark.parametrize(
    ("strangers", "people", "note", "absent"),
    [
        (0, 30, "every probe has a mate: no TPIR", ["TPIR @ FPIR 0.01", "TPIR @ FPIR 0.1"]),
        (50, 30, "50 probes without a mate: no TPIR at an FPIR below 0.02", ["TPIR @ FPIR 0.01"]),
        (100, 8, "8 candidates: rank-8 cannot fail", ["rank-10", "rank-20"]),
        (100, 0, "no probe has a mate: no rank, no TPIR", ["rank-1", "TPIR @ FPIR 0.1"]),
    ],
)
def test_what_is_absent_has_its_reason(strangers, people, note, absent):
    identity = np.concatenate([np.arange(people or 30), np.arange(people), np.arange(500, 500 + strangers)])
    gallery = np.arange(len(identity) - people - strangers)
    one = IdentificationSet("set", NONE, np.arange(len(gallery), len(identity)), gallery, identity)
    row = score(one, faces(identity), None, [])[SEARCHED].row("student", "set", "native", "")
    assert row.note == note and all(row.figures[figure] is None and row.intervals[figure] is None for figure in absent)
    assert bool(row.cmc) == bool(people) and (row.figures["rank-1"] is None) == (not people)


def test_templates_give_pairs_and_searches():
    subject = np.repeat(np.arange(30), 3)
    template = np.repeat(np.arange(90), 2)
    left, right = np.triu_indices(90, 1)
    same = subject[left] == subject[right]
    galleries = [np.arange(0, 45, 3), np.arange(45, 90, 3)]
    one = TemplateSet("ijb", NONE, template, np.arange(180), subject, left, right, same, np.arange(1, 90, 3), galleries)
    embeddings = faces(subject[template], spread=2)
    scored = score(one, embeddings, None, ["askd"])
    row = scored["templates"].row("student", "ijb", 112, "")
    pooled = pool(embeddings, template, np.arange(180), 90)
    by_hand = compare(pooled, left, right, same)
    assert (row.protocol, row.auc, row.tar, row.pairs) == ("templates", by_hand.auc, by_hand.tar_at_far, 90 * 89 // 2)
    assert row.auc_interval[0] < row.auc < row.auc_interval[1] and row.interval_unit == "identity"
    searched = scored[SEARCHED].row("student", "ijb", 112, "")
    ranks = [search(pooled, one.probe, gallery, subject) for gallery in galleries]
    assert searched.figures["rank-1"] == np.mean([np.mean(found.rank[found.mated] == 1) for found in ranks])
    assert (searched.mated, searched.candidates) == ((15, 15), (15, 15))
    assert searched.figures["TPIR @ FPIR 0.1"] is not None and searched.figures["TPIR @ FPIR 0.01"] is None
    only = TemplateSet("ijb", NONE, template, np.arange(180), subject, left, right, same, one.probe[:0], [])
    assert list(score(only, embeddings, None, [])) == ["templates"]


def test_pairs_are_scored_under_each_protocol():
    identity = np.repeat(np.arange(20), 3)
    left, right = np.triu_indices(60, 1)
    same = identity[left] == identity[right]
    fold = np.arange(len(left)) % 5
    one = PairSet("pairs", [], left, right, same, fold, identity, [])
    embeddings = faces(identity)
    scored = score(one, embeddings, embeddings, ["insightface", "askd", "exact"])
    assert [found.row("student", "pairs", 112, "").protocol for found in scored.values()] == list(scored) == ["insightface", "askd", "exact"]
