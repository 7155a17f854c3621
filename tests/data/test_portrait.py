"""Which face is meant, by hand-made boxes; and that its crop is the face that was put into the photograph."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

from askd.data.decode import decode_rgb
from askd.data.detector import Faces
from askd.data.landmarks import TEMPLATE
from askd.data.portrait import Choose, Format, Portrait, choose_face, take_portrait
from askd.data.synthetic import render_face

# In a photograph of 200x100: half diagonal 111.8. Worth by area x closeness to the centre:
BOXES = np.array([
    [0, 0, 40, 50],      # area 2000, centre (20, 25), 83.8 off: closeness 0.250, worth 501
    [90, 40, 110, 60],   # area 400, in the centre: worth 400
    [100, 30, 130, 65],  # area 1050, centre (115, 47.5), 15.2 off: 0.864, worth 907
    [140, 0, 200, 100],  # area 6000, centre (170, 50), 70 off: 0.374, worth 2243
], float)


@pytest.mark.parametrize(("choose", "among", "expected"), [
    (Choose.prominent, [0, 1, 2, 3], 3), (Choose.prominent, [0, 1, 2], 2), (Choose.prominent, [0, 1], 0), (Choose.central, [0, 1, 2, 3], 1),
    (Choose.largest, [0, 1, 2, 3], 3), (Choose.largest, [0, 1, 2], 0), (Choose.only, [2], 2),
])
def test_which_face(choose, among, expected):
    assert among[choose_face(BOXES[among], 200, 100, choose)] == expected


class Finds:
    """A detector that finds what it is told to."""

    def __init__(self, boxes, landmarks):
        self.faces = Faces(np.array(boxes, float).reshape(-1, 4), np.full(len(boxes), 0.9), np.array(landmarks, float).reshape(-1, 5, 2))

    def find(self, rgb):
        return self.faces


@pytest.fixture(scope="module")
def planted():
    """A rendered face, enlarged twice, turned and put at some place; and its landmarks there."""
    face = render_face(3, 0, 0)
    angle = np.deg2rad(20)
    turn = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([180.0, 60.0])
    photo = cv2.warpAffine(face, np.hstack([turn, shift[:, None]]), (500, 400), flags=cv2.INTER_CUBIC)
    return face, photo, TEMPLATE @ turn.T + shift


def write(path, rgb):
    path.write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())
    return path


@pytest.mark.parametrize("settings", [Portrait(quality=100), Portrait(format=Format.png)])
def test_the_face_comes_back_as_it_was(settings, planted, tmp_path):
    face, photo, landmarks = planted
    done = take_portrait(write(tmp_path / "a.png", photo), Finds([[200, 80, 380, 300]], landmarks), settings)
    assert done.encoded.startswith(b"\x89PNG" if settings.format is Format.png else b"\xff\xd8")
    found = decode_rgb(done.encoded, "crop")
    assert np.abs(found.astype(int) - face).mean() < 3 and done.distance < 1e-6
    assert (done.faces, done.score, done.reason) == (1, 0.9, "") and np.allclose(done.landmarks, landmarks)


def test_no_face_small_faces_and_several(planted, tmp_path):
    _, photo, landmarks = planted
    path = write(tmp_path / "a.png", photo)
    assert take_portrait(path, Finds([], []), Portrait()).reason == "no face"
    small = Finds([[0, 0, 19, 90], [0, 0, 90, 19]], [landmarks, landmarks])
    assert take_portrait(path, small, Portrait()).reason == "no face"
    assert take_portrait(path, small, Portrait(min_face=19)).faces == 2
    both = take_portrait(path, small, Portrait(min_face=19, choose=Choose.only))
    assert (both.reason, both.encoded, both.bad) == ("2 faces", b"", False)


def test_bad_files_are_an_outcome(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 torn")
    done = take_portrait(tmp_path / "a.jpg", Finds([], []), Portrait())
    assert done.bad and done.encoded == b"" and "a.jpg" in done.reason
