"""Augmentation depends on image and seed alone, its parts are drawn independently, and each preset does what its table says."""
from __future__ import annotations

import pickle
import subprocess
import sys

import albumentations
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.augment import PRESETS, make_augments

FACE = np.random.default_rng(0).integers(60, 200, (14, 14, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
SMALL = FACE[::8, ::8].copy()
AUGMENTATIONS = [("adaface", 0), ("surveillance", 0), ("surveillance", 1)]  # of the HR image and of the LR image


def test_what_presets_do_to_which_image():
    done = {kind: tuple(augment is not None for augment in make_augments(kind)) for kind in PRESETS}
    assert done == {"none": (False, False), "flip": (False, False), "adaface": (True, False), "surveillance": (True, True)}
    assert [kind for kind, preset in PRESETS.items() if preset.flip] == ["flip", "adaface", "surveillance"]
    assert [kind for kind, preset in PRESETS.items() if preset.low_resolution] == ["adaface"]


@pytest.mark.parametrize(("kind", "which"), AUGMENTATIONS)
def test_a_seed_fixes_the_result_whatever_came_before(kind, which):
    augment = make_augments(kind)[which]
    first = [augment(FACE, seed) for seed in range(40)]
    np.random.seed(5)
    again = [make_augments(kind)[which](FACE, seed) for seed in reversed(range(40))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert len({image.tobytes() for image in first}) > 10
    copy = pickle.loads(pickle.dumps(augment))
    assert all(np.array_equal(copy(FACE, seed), image) for seed, image in enumerate(first))


@pytest.mark.parametrize(("kind", "which"), AUGMENTATIONS)
@given(seed=st.integers(0, 2**63 - 1), side=st.integers(1, 112))
@settings(max_examples=25, deadline=None)
def test_shape_dtype_and_input_are_kept(kind, which, seed, side):
    face = FACE[:side, :side].copy()
    augmented = make_augments(kind)[which](face, seed)
    assert augmented.shape == (side, side, 3) and augmented.dtype == np.uint8
    assert np.array_equal(face, FACE[:side, :side])


@pytest.mark.parametrize(("kind", "which", "untouched"), [
    ("adaface", 0, 0.8 * 0.8), ("surveillance", 0, 0.5**3), ("surveillance", 1, 0.7 * 0.5 * 0.5),
])
def test_parts_are_drawn_independently(kind, which, untouched):
    """Coins seeded alike would leave as many images untouched as the likeliest of them alone."""
    augment = make_augments(kind)[which]
    unchanged = np.mean([np.array_equal(augment(FACE, seed), FACE) for seed in range(600)])
    assert unchanged == pytest.approx(untouched, abs=0.06)


def test_adaface_crops_a_fifth_and_leaves_the_crop_where_it_is():
    augment, areas = make_augments("adaface")[0], []
    for seed in range(600):
        kept = augment(FACE, seed).any(2)
        if kept.all():
            continue
        rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert kept.sum() == height * width  # a rectangle: nothing of it moved or was scaled, as the next test sees
        assert 0.19 < height * width / 112**2 <= 1 and 0.73 < width / height < 1.37
        areas.append(height * width / 112**2)
    assert len(areas) / 600 == pytest.approx(0.2, abs=0.05)
    assert np.mean(areas) == pytest.approx(0.6, abs=0.06) and np.std(areas) == pytest.approx(0.8 / 12**0.5, abs=0.05)


def test_adaface_changes_colours_by_up_to_half_and_pixels_stay_in_place():
    """A pixel's new colour depends on its old one and on nothing else."""
    jitter = albumentations.Compose(PRESETS["adaface"].hr(albumentations)[1:], seed=0)
    _, group = np.unique(FACE.reshape(-1, 3), axis=0, return_inverse=True)
    brightness = []
    for _ in range(200):
        augmented = jitter(image=FACE)["image"].reshape(-1, 3)
        mapped = np.zeros((group.max() + 1, 3), np.uint8)
        mapped[group] = augmented
        assert np.array_equal(mapped[group], augmented)
        brightness.append(augmented.mean() / FACE.mean())
    assert 0.4 < min(brightness) < 0.8 and 1.2 < max(brightness) < 1.6
    assert np.mean(np.array(brightness) != 1) == pytest.approx(0.2, abs=0.1)


def test_surveillance_s_hr_image_keeps_its_structure():
    augment = make_augments("surveillance")[0]
    augmented = np.stack([augment(FACE, seed) for seed in range(100)]).astype(float)
    assert abs(augmented.mean() - FACE.mean()) < 10
    assert min(np.corrcoef(image.ravel(), FACE.ravel())[0, 1] for image in augmented) > 0.8
    distinct = len(np.unique(FACE.reshape(-1, 3), axis=0))
    assert max(len(np.unique(image.reshape(-1, 3), axis=0)) for image in augmented) <= distinct  # equal colours stay equal


def test_the_camera_spoils_flat_patches_and_spares_the_mean():
    """Noise and JPEG make unequal what was equal, blur spreads an impulse; none of them changes what is there on average."""
    augment = make_augments("surveillance")[1]
    grey = np.full((28, 28, 3), 128, np.uint8)
    spread = np.array([augment(grey, seed).std() for seed in range(300)])
    assert np.mean(spread > 0) == pytest.approx(0.5, abs=0.08) and spread.max() < 0.06 * 255  # noise alone: grey has no JPEG loss
    impulse = np.zeros((15, 15, 3), np.uint8)
    impulse[7, 7] = 255
    smeared = [augment(impulse, seed) for seed in range(300)]
    assert np.mean([image[7, 7].min() < 200 for image in smeared]) == pytest.approx(0.3, abs=0.15)
    assert np.mean([augment(SMALL, seed).mean() for seed in range(300)]) == pytest.approx(SMALL.mean(), abs=2)


def test_an_unknown_kind_lists_the_choices():
    with pytest.raises(ValueError, match="unknown augmentation 'sensor'; choose one of none, flip, adaface, surveillance"):
        make_augments("sensor")


def test_albumentations_is_imported_only_when_needed():
    check = ("import sys; from askd.data.augment import make_augments; make_augments('flip'); "
             "sys.exit('albumentations' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
