"""The two measurements tell real and rendered faces from what they are meant to catch, with a wide margin."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

from askd.data.decode import decode_rgb
from askd.data.folder import FolderSet
from askd.data.looks import COLOURED, eyes_in_place, red_minus_blue
from askd.data.synthetic import render_identities
from askd.data.verdicts import EYES_IN_PLACE, RED_OVER_BLUE


@pytest.fixture(scope="module", params=["rendered", "real"])
def faces(request) -> np.ndarray:
    if request.param == "rendered":
        return np.stack([image for _, _, image in render_identities(range(80), 1, 0, 1)])
    people = FolderSet(request.getfixturevalue("shared") / "data" / "lfw" / "aligned_112")
    return np.stack([decode_rgb(people.encoded(index), "face") for index in range(0, len(people), 33)])


def eyes(faces: np.ndarray) -> float:
    return float(np.mean([eyes_in_place(face) for face in faces]))


def moved(faces: np.ndarray, turn=0.0, scale=1.0, x=0.0, y=0.0) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((56, 72), turn, scale)
    matrix[:, 2] += x, y
    return np.stack([cv2.warpAffine(face, matrix, (112, 112), borderMode=cv2.BORDER_REFLECT) for face in faces])


def test_red_over_blue(faces):
    red = np.array([red_minus_blue(face) for face in faces])
    swapped = np.array([red_minus_blue(face[..., ::-1]) for face in faces])
    assert np.allclose(swapped, -red)
    coloured = red[np.abs(red) >= COLOURED]
    assert len(coloured) > 0.98 * len(faces)
    assert (coloured > 0).mean() > 0.99 > RED_OVER_BLUE > 0.5


def test_red_minus_blue_by_hand():
    face = np.zeros((112, 112, 3), np.uint8)
    face[28:84, 28:56] = (100, 50, 40)  # half of the middle
    assert red_minus_blue(face) == pytest.approx(30)


def test_eyes_of_aligned_faces_are_in_place(faces):
    assert eyes(faces) > EYES_IN_PLACE + 0.15
    small = np.stack([cv2.resize(cv2.resize(face, (14, 14), interpolation=cv2.INTER_AREA), (112, 112)) for face in faces])
    assert eyes(small) > EYES_IN_PLACE + 0.1  # low resolution is no fault


@pytest.mark.parametrize("how", [
    {"x": 8}, {"x": -8}, {"y": 8}, {"y": -8}, {"y": 16}, {"turn": 15}, {"turn": -15}, {"turn": 90}, {"turn": 180},
    {"scale": 0.7}, {"scale": 1.3},
], ids=str)
def test_eyes_of_misplaced_faces_are_not(how, faces):
    assert eyes(moved(faces, **how)) < EYES_IN_PLACE - 0.1


def test_eyes_of_faces_placed_at_random(faces):
    rng = np.random.default_rng(0)
    anyhow = [moved(face[None], rng.uniform(-30, 30), rng.uniform(0.6, 1.2), *rng.uniform(-15, 15, 2)) for face in faces]
    assert eyes(np.concatenate(anyhow)) < 0.25


def test_noise_has_eyes_by_chance_alone():
    assert eyes(np.random.default_rng(0).integers(0, 256, (200, 112, 112, 3), np.uint8)) < 0.2
    assert eyes(np.full((5, 112, 112, 3), 128, np.uint8)) == 0
