"""Pooling against the rule written down naively, by hand; 1:1 and 1:N are the figures of the pooled vectors."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from askd.errors import DataError
from askd.evaluation import templates
from askd.evaluation.identification import metrics
from askd.evaluation.roc import FAR_TARGETS


def naive_pool(embeddings, template, media, count):
    pooled = []
    for t in range(count):
        total = 0
        for m in sorted(set(media[template == t].tolist())):
            chosen = (template == t) & (media == m)
            total = total + np.mean(embeddings[chosen], 0)
        pooled.append(total / np.linalg.norm(total))
    return np.array(pooled)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(0, 40), st.integers(1, 20))
def test_equal_to_the_rule_walked(seed, count, more, block):
    rng = np.random.default_rng(seed)
    template = rng.permutation(np.append(np.arange(count), rng.integers(count, size=more)))
    media = rng.integers(0, 4, size=len(template)) * 1000 - 7
    embeddings = rng.normal(size=(len(template), 6)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "IMAGES", block)
        pooled = templates.pool(embeddings, template, media, count)
    np.testing.assert_allclose(pooled, naive_pool(embeddings.astype(np.float64), template, media, count), atol=1e-6)
    order = rng.permutation(len(template))
    again = templates.pool(embeddings[order], template[order], media[order], count)
    np.testing.assert_allclose(again, pooled, atol=1e-6)


def test_by_hand():
    # Template 0: a video of (4, 0) and (0, 0), and a still (0, 2): the video's mean is (2, 0), the sum (2, 2).
    embeddings = np.array([[4, 0], [0, 2], [0, 0], [0, 5]], np.float32)
    pooled = templates.pool(embeddings, np.array([0, 0, 0, 1]), np.array([7, 8, 7, 7]), 2)
    np.testing.assert_allclose(pooled, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-7)


def test_one_to_one_is_the_roc_of_the_cosines():
    rng = np.random.default_rng(0)
    subject = rng.integers(20, size=90)
    pooled = rng.normal(size=(20, 16))[subject] + rng.normal(size=(90, 16))
    pooled = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)
    for pairs in (4000, 60):  # through blocks of all cosines, and one by one
        left, right = rng.integers(0, 40, size=pairs), rng.integers(40, 90, size=pairs)
        same = subject[left] == subject[right]
        result = templates.compare(pooled, left, right, same)
        cosine = np.sum(pooled[left].astype(np.float64) * pooled[right], 1)
        np.testing.assert_allclose(result.scores, cosine, atol=1e-6)
        assert result.auc == pytest.approx(roc_auc_score(same, cosine), abs=1e-6)
        impostors = np.sort(cosine[~same])[::-1]
        allowed = impostors[int(0.1 * len(impostors))]
        assert result.tar_at_far[0.1] == np.mean(cosine[same] > allowed)
        assert result.tar_at_far[1e-6] is None and list(result.tar_at_far) == list(FAR_TARGETS)
        assert (result.protocol, result.accuracy, result.note) == ("templates", None, "")
    alike = templates.compare(pooled, left, right, np.ones_like(same))
    assert alike.auc is None and alike.tar_at_far[0.1] is None and "all 60 pairs are genuine" in alike.note


def test_one_to_n_is_the_mean_over_the_galleries():
    degrees = np.radians([0, 90, 10, 95, 50])  # galleries {0}, {1}; probes of 0, 1 and of 2, who is in neither
    pooled = np.stack([np.cos(degrees), np.sin(degrees)], 1).astype(np.float32)
    searches = templates.identify(pooled, np.array([2, 3, 4]), [np.array([0]), np.array([1])], np.array([0, 1, 0, 1, 2]))
    assert [found.rank.tolist() for found in searches] == [[1, 0, 0], [0, 1, 0]]
    assert np.isnan(metrics(searches)["rank-1"](np.ones(3)))  # a gallery of one cannot fail
    both = templates.identify(pooled, np.array([2, 3, 4]), [np.array([0, 1])] * 2, np.array([0, 1, 0, 1, 2]))
    assert metrics(both)["rank-1"](np.ones(3)) == 1


def test_bad_input_is_named():
    embeddings = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    with pytest.raises(DataError, match=r"1 of 3 templates have no image \(first: template 1\)"):
        templates.pool(embeddings, np.array([0, 0, 2]), np.zeros(3, int), 3)
    with pytest.raises(DataError, match="template 0 has no direction"):
        templates.pool(embeddings, np.array([0, 0, 1]), np.zeros(3, int), 2)
    embeddings[1], embeddings[2] = 1, np.inf
    with pytest.raises(DataError, match="template 1 has no direction"):
        templates.pool(embeddings, np.array([0, 0, 1]), np.arange(3), 2)
    with pytest.raises(ValueError, match="each of 3 embeddings"):
        templates.pool(embeddings, np.array([0, 0]), np.arange(3), 2)
