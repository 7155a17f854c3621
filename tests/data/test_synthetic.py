"""The demo faces: reproducible, distinct, and known by detail that low resolution loses."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import astuple
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from askd.data.synthetic import TEMPLATE, render_face, render_identities
from askd.data.synthetic_parts import Identity, build_layers


def area(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)


def difference(left: np.ndarray, right: np.ndarray, size: int) -> float:
    return float(np.abs(area(left, size) - area(right, size)).mean())


def numbers(identity: int, seed: int = 0) -> np.ndarray:
    return np.hstack([np.ravel(value) for value in astuple(Identity.draw(identity, seed))])


def fine_band(image: np.ndarray) -> np.ndarray:
    logarithm = np.log(image.astype(np.float32) + 10)
    return cv2.GaussianBlur(logarithm, (0, 0), 0.7) - cv2.GaussianBlur(logarithm, (0, 0), 2.0)


def found_again(left: np.ndarray, right: np.ndarray) -> float:
    """Mean correlation of 16 px skin patches of one fine band with the best place within 4 px in another."""

    def best(x: int, y: int) -> float:
        patch, around = left[y : y + 16, x : x + 16], right[y - 4 : y + 20, x - 4 : x + 20]
        return cv2.matchTemplate(around, patch, cv2.TM_CCOEFF_NORMED).max()

    return float(np.mean([best(x, y) for y in (22, 58, 72, 84) for x in (24, 40, 56, 72)]))


def nearest_is_the_same_person(images: np.ndarray) -> float:
    """Share of images (people, samples, H, W, 3) whose best match by fine detail is another image of their person."""
    people = np.repeat(np.arange(images.shape[0]), images.shape[1])
    bands = [fine_band(image) for image in images.reshape(-1, *images.shape[2:])]
    match = np.full((len(bands), len(bands)), -1.0)
    for i, j in combinations(range(len(bands)), 2):
        match[i, j] = match[j, i] = found_again(bands[i], bands[j])
    return float((people[match.argmax(axis=1)] == people).mean())


@pytest.fixture(scope="module")
def gallery() -> np.ndarray:
    """Images of 10 people, 5 samples each: (10, 5, 112, 112, 3)."""
    return np.array([[render_face(identity, sample) for sample in range(5)] for identity in range(10)])


def test_an_image_is_rgb_bytes_of_the_aligned_size(gallery: np.ndarray):
    assert gallery.shape[2:] == (112, 112, 3) and gallery.dtype == np.uint8
    skin = gallery[:, :, 60:80, 40:72].mean(axis=(0, 1, 2, 3))
    assert skin[0] > skin[1] > skin[2]  # red first: skin reflects more red than green than blue


def test_a_second_process_draws_the_same_bytes():
    program = (
        "import hashlib; from askd.data.synthetic import render_face; "
        "print(hashlib.sha256(b''.join(render_face(i, s, 5).tobytes() for i in (7, 3) for s in range(3))).hexdigest())"
    )
    checkout = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=True)
    here = b"".join(render_face(identity, sample, 5).tobytes() for identity in (7, 3) for sample in range(3))
    assert run.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_an_image_does_not_depend_on_what_was_drawn_before():
    first = render_face(1, 4)
    for identity in range(20, 26):
        render_face(identity, 4)
    assert np.array_equal(first, render_face(1, 4))


def test_identity_sample_and_seed_each_change_the_image():
    images = [render_face(*arguments) for arguments in ((3, 5, 7), (4, 5, 7), (3, 6, 7), (3, 5, 8), (5, 3, 7))]
    for index, image in enumerate(images):
        assert all(difference(image, other, 112) > 5 for other in images[:index])


def test_no_two_people_share_parameters_or_texture():
    people = np.array([numbers(identity, seed) for seed in (0, 1) for identity in range(300)])
    spread = people.std(axis=0)
    assert spread.min() > 0
    scaled = people / spread
    distances = np.sqrt(((scaled[:, None] - scaled[None]) ** 2).mean(axis=2)) + 9 * np.eye(len(people))
    assert distances.min() > 0.3

    twin = Identity.draw(0, 0)
    left, right = (build_layers(twin, identity, 0, True).colours for identity in (0, 1))
    assert (left != right).mean() > 0.25


def test_the_person_does_not_depend_on_the_sample():
    assert np.array_equal(numbers(12), numbers(12))
    left, right = (build_layers(Identity.draw(12, 0), 12, 0, True) for _ in range(2))
    assert np.array_equal(left.colours, right.colours) and np.array_equal(left.brows, right.brows)


def test_fine_texture_fades_at_low_resolution_and_nuisance_does_not():
    pairs = [(render_face(i, s), render_face(i, s, fine=False)) for i in range(4) for s in range(3)]
    texture = {size: np.mean([difference(*pair, size) for pair in pairs]) for size in (112, 28, 14)}
    assert texture[112] > 2.0  # grey levels, averaged over the whole image
    assert texture[112] > 1.6 * texture[28]
    assert texture[112] > 3.5 * texture[14]

    samples = [full for full, _ in pairs]
    nuisance = np.mean([difference(samples[i], samples[i + 1], 14) for i in range(0, 12, 3)])
    assert nuisance > 30 * texture[14]


def test_fine_detail_tells_people_apart_and_fourteen_pixels_lose_it(gallery: np.ndarray):
    def at_fourteen(image: np.ndarray) -> np.ndarray:
        return np.clip(cv2.resize(area(image, 14), (112, 112), interpolation=cv2.INTER_CUBIC), 0, 255)

    low = np.array([[at_fourteen(image) for image in person] for person in gallery])
    bare = np.array([[render_face(i, s, fine=False) for s in range(5)] for i in range(10)])
    chance = 4 / 49
    assert nearest_is_the_same_person(gallery) > 0.75
    assert nearest_is_the_same_person(low) < 4.5 * chance
    assert nearest_is_the_same_person(bare) < 4.5 * chance


def test_the_eyes_and_the_mouth_lie_where_the_template_has_them():
    """Averaged over people, poses and light, the darkest spots near eyes and mouth are the template's points."""
    average = np.mean([render_face(i, s, fine=False) for i in range(8) for s in range(10)], axis=(0, 3))
    smooth = cv2.GaussianBlur(average, (0, 0), 2.0)
    for x, y in TEMPLATE[:2]:
        left, top = round(x) - 10, round(y) - 6
        row, column = np.unravel_index(smooth[top : top + 13, left : left + 21].argmin(), (13, 21))
        assert abs(left + column - x) < 3 and abs(top + row - y) < 3
    mouth_row = 84 + smooth[84:102, 50:63].mean(axis=1).argmin()
    assert abs(mouth_row - TEMPLATE[3:, 1].mean()) < 4


def test_workers_deliver_in_order_what_one_process_draws():
    identities = [9, 2, 30]
    alone = list(render_identities(identities, 2, seed=3, workers=1))
    together = list(render_identities(identities, 2, seed=3, workers=2))
    assert [key[:2] for key in together] == [(i, s) for i in identities for s in range(2)]
    for (identity, sample, left), (_, _, right) in zip(alone, together, strict=True):
        assert np.array_equal(left, right)
        assert np.array_equal(left, render_face(identity, sample, 3))


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_a_negative_number_is_named(arguments: tuple[int, int, int]):
    with pytest.raises(ValueError, match="must be >= 0, got .*-1"):
        render_face(*arguments)


def test_no_workers_is_refused():
    with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
        next(render_identities([0], 1, workers=0))
