"""Augmentation depends on image and seed alone, and its parts are drawn independently of one another."""
from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.augment import AUGMENTS, make_augment

FACE = np.random.default_rng(0).integers(60, 200, (14, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
RANDOM_KINDS = sorted(set(AUGMENTS) - {"none"})


def test_none_is_the_identity():
    assert make_augment("none")(FACE, 7) is FACE


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_a_seed_fixes_the_result_whatever_came_before(kind):
    augment = make_augment(kind)
    first = [augment(FACE, seed) for seed in range(20)]
    np.random.seed(5)
    again = [make_augment(kind)(FACE, seed) for seed in reversed(range(20))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert len({image.tobytes() for image in first}) > 10


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_a_pickled_copy_does_the_same(kind):
    augment = make_augment(kind)
    copy = pickle.loads(pickle.dumps(augment))
    assert all(np.array_equal(augment(FACE, seed), copy(FACE, seed)) for seed in range(10))


@pytest.mark.parametrize("kind", RANDOM_KINDS)
@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=25, deadline=None)
def test_shape_dtype_and_input_are_kept(kind, seed):
    given_face = FACE.copy()
    augmented = make_augment(kind)(given_face, seed)
    assert augmented.shape == (112, 112, 3) and augmented.dtype == np.uint8
    assert np.array_equal(given_face, FACE)


def test_parts_are_drawn_independently():
    """Three coins: an eighth of the images stay as they are. Coins seeded alike would leave half of them."""
    augment = make_augment("photometric")
    unchanged = np.mean([np.array_equal(augment(FACE, seed), FACE) for seed in range(400)])
    assert unchanged == pytest.approx(1 / 8, abs=0.05)


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_augmentation_is_mild(kind):
    """Over many draws the mean grey stays, and no image loses its structure."""
    augment = make_augment(kind)
    augmented = np.stack([augment(FACE, seed) for seed in range(100)]).astype(float)
    assert abs(augmented.mean() - FACE.mean()) < 10
    correlation = [np.corrcoef(image.ravel(), FACE.ravel())[0, 1] for image in augmented]
    assert min(correlation) > 0.8


def test_sensor_adds_noise_or_blur_that_photometric_does_not():
    """Photometric maps equal colours to equal colours; lens, sensor and file do not."""
    def colours(kind):
        augment = make_augment(kind)
        return [len(np.unique(augment(FACE, seed).reshape(-1, 3), axis=0)) for seed in range(60)]

    distinct = len(np.unique(FACE.reshape(-1, 3), axis=0))
    assert max(colours("photometric")) <= distinct
    spoilt = np.mean(np.array(colours("sensor")) > distinct)
    assert spoilt == pytest.approx(1 - 0.8 * 0.7 * 0.7, abs=0.15)


def test_an_unknown_kind_lists_the_choices():
    with pytest.raises(ValueError, match="unknown augmentation 'sensors'; choose one of none, photometric, sensor"):
        make_augment("sensors")


def test_albumentations_is_imported_only_when_needed():
    check = ("import sys; from askd.data.augment import make_augment; make_augment('none'); "
             "sys.exit('albumentations' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
