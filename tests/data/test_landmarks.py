"""Alignment against geometry worked out by hand, and against InsightFace's own."""
from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from askd.data.landmarks import TEMPLATE, crop, similarity, template_distance

IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def test_template_is_left_as_it_is():
    assert np.allclose(similarity(TEMPLATE), IDENTITY)
    assert template_distance(TEMPLATE) == 0


@given(st.floats(0.05, 20), st.floats(-3.1, 3.1), st.floats(-5000, 5000), st.floats(-5000, 5000))
def test_turn_scale_and_shift_are_undone(scale, angle, x, y):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = TEMPLATE @ turn.T + (x, y)
    matrix = similarity(landmarks)
    assert np.allclose(matrix[:, :2] @ turn, np.eye(2), atol=1e-6)
    assert template_distance(landmarks, matrix) < 1e-6


def test_a_mirrored_face_is_not_mirrored_back():
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(similarity(mirrored)[:, :2]) > 0


def test_distance_is_the_mean_over_points():
    moved = TEMPLATE.copy()
    moved[0] += (3, 4)
    moved[4] += (0, 10)
    assert template_distance(moved) == pytest.approx((5 + 10) / 5)
    assert template_distance(moved, np.array([[1.0, 0, 7], [0, 1, 0]])) > 5


def test_landmarks_in_one_point():
    with pytest.raises(ValueError, match="one point"):
        similarity(np.ones((5, 2)))


def test_equal_to_insightface():
    face_align = pytest.importorskip("insightface.utils.face_align")
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), (400, 300), interpolation=cv2.INTER_CUBIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for _ in range(20):
            landmarks = (TEMPLATE * rng.uniform(0.3, 2) + rng.normal(0, 4, (5, 2)) + rng.uniform(0, 150, 2)).astype(np.float32)
            assert np.allclose(similarity(landmarks), face_align.estimate_norm(landmarks), atol=1e-3)
            theirs = face_align.norm_crop(image, landmarks).astype(int)
            assert np.abs(crop(image, similarity(landmarks)) - theirs).max() <= 1
