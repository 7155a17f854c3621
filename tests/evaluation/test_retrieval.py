"""Recall@K and MAP@R by hand and against pytorch-metric-learning."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from askd.evaluation import retrieval
from askd.evaluation.retrieval import retrieve


def at(*degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_by_hand():
    """On a circle: nearest first, a at 0: b 10, A 20, B 45, A 60; and so on."""
    found = retrieve(at(0, 10, 20, 45, 60), np.array([7, 3, 7, 3, 7]), ks=(1, 2, 3))
    # 0 A:  B A B A -> R=2: (0 + 1/2)/2          first hit 2
    # 10 B: A A B A (10, 10, 35, 50) -> R=1: 0   first hit 3
    # 20 A: B A B A (10, 20, 25, 40) -> 1/4      first hit 2
    # 45 B: A A B A (15, 25, 35, 45) -> 0        first hit 3
    # 60 A: B A B A (15, 40, 50, 60) -> 1/4      first hit 2
    assert found.recall == {1: 0.0, 2: 0.6, 3: 1.0}
    assert found.map_at_r == pytest.approx(3 * 0.25 / 5)
    assert found.queries == 5


def test_someone_alone_is_a_candidate_and_no_query():
    found = retrieve(at(0, 1, 10), np.array([0, 1, 0]), ks=(1,))
    assert found.queries == 2 and found.recall == {1: 0.0} and found.map_at_r == 0
    with pytest.raises(ValueError, match="no person has two images"):
        retrieve(at(0, 1), np.array([0, 1]))
    with pytest.raises(ValueError, match="from 1 on, got 0"):
        retrieve(at(0, 1), np.array([0, 0]), ks=(0,))


def test_a_tie_counts_against_the_query():
    found = retrieve(at(0, 90, 90), np.array([0, 0, 1]), ks=(1,))
    assert found.recall[1] == 0.0 and found.map_at_r == 0.0  # to each of the two, another is as near as the right one, or nearer


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), people=st.integers(2, 6), images=st.integers(6, 30))
def test_as_pytorch_metric_learning_has_it(seed, people, images):
    generator = np.random.default_rng(seed)
    labels = np.r_[0, 0, generator.integers(0, people, images)]
    embeddings = generator.normal(size=(len(labels), 5)) + 0.8 * generator.normal(size=(people, 5))[labels]
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count", knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    theirs = calculator.get_accuracy(torch.from_numpy(embeddings), torch.from_numpy(labels))
    ours = retrieve(embeddings, labels)
    assert ours.recall[1] == pytest.approx(theirs["precision_at_1"]) and ours.map_at_r == pytest.approx(theirs["mean_average_precision_at_r"])


def test_blocks_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    embeddings, labels = generator.normal(size=(50, 6)), generator.integers(0, 12, 50)
    whole = retrieve(embeddings, labels)
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    assert retrieve(embeddings, labels) == whole
